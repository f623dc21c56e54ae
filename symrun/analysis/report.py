"""The agreement of a run as a table for people, as JSON, and as a verdict."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from symrun.analysis.agreement import Agreement
from symrun.runs.tables import LAWS


def as_json(rows: Sequence[Agreement]) -> str:
    """{"rows": [{"law": ..., and the other fields of Agreement}, ...]}, as in `as_rows`."""
    return as_rows([asdict(row) for row in rows])


def as_table(rows: Sequence[Agreement]) -> str:
    """A line a group, the laws side by side."""
    more = [""] * (len(LAWS) - 1)
    head = ["", "", "", "", "", "residual", *more, "explained", *more]
    names = ["symmetry", "group", "units", "moved", "drift", *LAWS, *LAWS]
    lines = [head, names]
    for start in range(0, len(rows), len(LAWS)):
        laws = rows[start : start + len(LAWS)]
        group = laws[0]
        lines.append(
            [group.symmetry, group.group, str(group.units), str(group.moved or "conserved")]
            + [scientific(group.drift)]
            + [scientific(law.residual) for law in laws]
            + ["-" if law.explained is None else f"{law.explained:.7f}" for law in laws]
        )
    return aligned(lines)


def shortcomings(
    rows: Sequence[Agreement], min_explained: float | None, max_residual: float | None
) -> list[str]:
    """What falls short of the bars, a line each; a bar that nothing was held against is one too."""
    lines = ["the run diverged"] if any(row.diverged for row in rows) else []
    for key, bar, sign in (("explained", min_explained, 1), ("residual", max_residual, -1)):
        if bar is None:
            continue
        held = [(row, value) for row in rows if (value := getattr(row, key)) is not None]
        if not held:
            lines.append(f"no law has a number for {key} in this run")
        lines += [
            f"{row.law} of {row.symmetry} {row.group}: {key} {value:.6g}, the bar is {bar:g}"
            for row, value in held
            if not sign * value >= sign * bar  # so that NaN falls short
        ]
    return lines


def as_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """{"rows": [...]}; null for None and for what is not finite, which JSON cannot say."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    plain_rows = [{name: plain(value) for name, value in row.items()} for row in rows]
    return json.dumps({"rows": plain_rows}, indent=1, allow_nan=False)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
