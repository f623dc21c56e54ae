"""The agreement of a run as a table for people, as JSON, and as a verdict."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from symrun.analysis.agreement import Agreement
from symrun.runs.tables import LAWS


def as_json(rows: Sequence[Agreement]) -> str:
    """{"rows": [{"law": ..., and the other fields of Agreement}, ...]}, null for None."""
    return json.dumps({"rows": [asdict(row) for row in rows]}, indent=1)


def as_table(rows: Sequence[Agreement]) -> str:
    """A line a group, the laws side by side."""
    head = ["", "", "", "", ""] + ["residual", "", ""] + ["explained", "", ""]
    names = ["symmetry", "group", "units", "moved", "drift", *LAWS, *LAWS]
    lines = [head, names]
    for start in range(0, len(rows), len(LAWS)):
        laws = rows[start : start + len(LAWS)]
        group = laws[0]
        lines.append(
            [group.symmetry, group.group, str(group.units), str(group.moved or "conserved")]
            + [_scientific(group.drift)]
            + [_scientific(law.residual) for law in laws]
            + ["-" if law.explained is None else f"{law.explained:.7f}" for law in laws]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


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


def _scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
