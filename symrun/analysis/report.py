"""The agreement of a run as a table for people, as JSON, and as a verdict."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from symrun.analysis.agreement import FEW, Agreement, is_identity, is_null
from symrun.runs.info import RunInfo
from symrun.runs.tables import LAWS
from symrun.symmetry import Symmetry


def as_json(rows: Sequence[Agreement], symmetries: Sequence[Agreement]) -> str:
    """{"rows": [...], "symmetries": [...]}: the fields of Agreement, a row a group and a symmetry.

    Numbers that are not finite become null.
    """
    lists = {"rows": rows, "symmetries": symmetries}
    values = {key: [json_values(asdict(row)) for row in some] for key, some in lists.items()}
    return json.dumps(values, indent=1, allow_nan=False)


def as_table(
    rows: Sequence[Agreement], symmetries: Sequence[Agreement], silent: Sequence[str] = ()
) -> str:
    """A line a group, the laws side by side; then a line for each law in each symmetry.

    silent: lines of `silences`, which follow.
    """
    tables = [_table_of_groups(rows), _table_of_symmetries(symmetries)]
    tables += ["\n".join(silent), LEGEND] if silent else [LEGEND]
    few = any(0 < row.moved < FEW for row in rows)
    return "\n\n".join(tables) + (f"\n*: judged by fewer than {FEW} units." if few else "")


def silences(info: RunInfo) -> list[str]:
    """A line for each reason why laws make no prediction: of the run, then of single groups.

    Example: silences(run.info())   # ["flow predicts nothing here: the paper's oscillator ..."]
    """
    laws_of: dict[str, list[str]] = {}
    for law, reason in info.unpredicted.items():
        laws_of.setdefault(reason, []).append(law)
    lines = [
        f"{', '.join(laws)} predict{'s' * (len(laws) == 1)} nothing here: {why}"
        for why, laws in laws_of.items()
    ]
    return lines + silent_groups(info)


def silent_groups(info: RunInfo) -> list[str]:
    """A line for each reason why groups are not predicted, unless that holds for the whole run.

    Example: silent_groups(run.info())   # ["no law but an identity predicts fc: its rates differ"]
    """
    lines, groups_of = [], dict[str, dict[str, None]]()
    everywhere = all(law in info.unpredicted for law in LAWS if not is_identity(law))
    for group in info.groups:
        if group.unpredicted is not None and not everywhere:
            # A matrix has two groups of one name, its diagonal and its other entries
            groups_of.setdefault(group.unpredicted, {})[group.group] = None
    for why, groups in groups_of.items():
        more = f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
        names = ", ".join([*groups][:_NAMED]) + more
        lines.append(f"no law but an identity predicts {names}: {why}")
    return lines


_NAMED = 3
"""Groups that a line of `silences` names."""

LEGEND = (
    "R^2 is the share of the broken conservation that a law explains, over the units that moved:\n"
    "1 - R^2 of the median unit, of 99 in 100 units, of the worst one. RMS is the square root of\n"
    "the first, the error relative to the motion. A null law is wrong on purpose: an R^2 that it\n"
    "reaches as well proves little. `exact` is an identity: it audits the measurement and\n"
    "predicts nothing."
)


def _table_of_groups(rows: Sequence[Agreement]) -> str:
    more = [""] * (len(LAWS) - 1)
    head = ["", "", "", "", "", "residual", *more, "1 - R^2", *more, "worst unit"]
    predicting = next((row.law for row in rows if predicts(row)), LAWS[0])
    names = ["symmetry", "group", "units", "moved", "drift", *LAWS, *LAWS, f"under {predicting}"]
    lines = [head, names]
    for start in range(0, len(rows), len(LAWS)):
        laws = rows[start : start + len(LAWS)]
        group = laws[0]
        (shown,) = (law for law in laws if law.law == predicting)
        lines.append(
            [group.symmetry, group.group, str(group.units), moved_units(group)]
            + [scientific(group.drift)]
            + [scientific(law.residual) for law in laws]
            + [scientific(law.unexplained) for law in laws]
            + [_worst(shown, shown.worst_unit and shown.worst_unit.rpartition(" ")[2])]
        )
    return aligned(lines)


def _table_of_symmetries(rows: Sequence[Agreement]) -> str:
    lines = [["symmetry", "law", "moved", "excluded", "residual", "1 - R^2", "RMS"]]
    lines[0] += ["99 in 100", "worst unit"]
    for row in rows:
        measures = (row.residual, row.unexplained, row.rms, row.unexplained_99)
        lines.append(
            [row.symmetry, row.law, moved_units(row), str(row.excluded)]
            + [*map(scientific, measures), _worst(row, row.worst_unit)]
        )
    return aligned(lines)


def moved_units(row: Agreement) -> str:
    """How many units moved, with a star where they are too few to judge by."""
    return f"{row.moved:,}{'*' if row.moved < FEW else ''}" if row.moved else "conserved"


def _worst(row: Agreement, unit: str | None) -> str:
    return "-" if unit is None else f"{scientific(row.unexplained_worst)} {unit}"


def law_in_words(law: str) -> str:
    """ "flow", "exact, an identity" """
    return f"{law}, an identity" if is_identity(law) else law


def predicts(row: Agreement) -> bool:
    """Whether this law can be right or wrong here: an identity and a null law cannot."""
    return row.residual is not None and not is_identity(row.law) and not is_null(row.law)


def shortcomings(
    rows: Sequence[Agreement],
    min_explained: float | None = None,
    max_residual: float | None = None,
    min_moved: float | None = None,
) -> list[str]:
    """One line for each number that misses its bar, and for each bar without any number.

    min_explained: for R^2; no bar for `exact`, which is an identity. max_residual: `exact` has to
    keep it as well, but does not clear it by itself. min_moved: for the share of units that moved,
    in groups of quadratic quantities: nothing drives a linear one.
    """
    lines = ["the run diverged"] if any(row.diverged for row in rows) else []
    predicting = [row for row in rows if predicts(row)]
    explained = [(row, row.explained) for row in predicting if row.explained is not None]
    residuals = [(row, row.residual) for row in rows if row.residual is not None]
    driven = {(row.symmetry, row.group): row for row in rows if Symmetry(row.symmetry).degree > 1}
    moved = [(row, row.moved / row.units) for row in driven.values()]
    for key, bar, sign, compared in (
        ("explained", min_explained, 1, explained),
        ("residual", max_residual, -1, residuals if predicting else []),
        ("moved", min_moved, 1, moved),
    ):
        if bar is None:
            continue
        if not compared:
            lines.append(f"no law has a number for {key} in this run")
        lines += [
            f"{'' if key == 'moved' else f'{row.law} of '}{row.symmetry} {row.group}: "
            f"{key} {value:.6g}, the bar is {bar:g}"
            for row, value in compared
            if not sign * value >= sign * bar  # so that NaN falls short
        ]
    return lines


def skipped(symmetries: Sequence[Agreement]) -> str | None:
    """What a bar on R^2 did not judge, in one line; None if it judged every unit."""
    rows = {row.symmetry: row for row in symmetries if row.excluded}
    if not rows:
        return None
    parts = [f"{row.excluded:,} of {row.units:,} of {name}" for name, row in rows.items()]
    return f"R^2 judges the units that moved alone; those excluded: {', '.join(parts)}"


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
