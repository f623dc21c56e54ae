"""The agreement of a run as a table for people, as JSON, and as a verdict."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from symrun.analysis.agreement import Agreement
from symrun.runs.tables import LAWS


def as_json(rows: Sequence[Agreement]) -> str:
    """{"rows": [{"law": ..., and the other fields of Agreement}, ...]}, by `rows_as_json`."""
    return rows_as_json([asdict(row) for row in rows])


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
    """One line for each number that misses its bar, and for each bar without any number."""
    lines = ["the run diverged"] if any(row.diverged for row in rows) else []
    for key, bar, sign in (("explained", min_explained, 1), ("residual", max_residual, -1)):
        if bar is None:
            continue
        compared = [(row, value) for row in rows if (value := getattr(row, key)) is not None]
        if not compared:
            lines.append(f"no law has a number for {key} in this run")
        lines += [
            f"{row.law} of {row.symmetry} {row.group}: {key} {value:.6g}, the bar is {bar:g}"
            for row, value in compared
            if not sign * value >= sign * bar  # so that NaN falls short
        ]
    return lines


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """{"rows": [...]}, with the values of `json_values`."""
    return json.dumps({"rows": [json_values(row) for row in rows]}, indent=1, allow_nan=False)


def json_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """`row` with None for numbers that are not finite, which JSON cannot express."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
