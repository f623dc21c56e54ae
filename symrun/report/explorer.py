"""The curves that the HTML page holds: of each group some units at some records, since not all of
them fit into a page."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symrun.analysis import is_identity
from symrun.analysis.comparison import CONSERVED, Comparison, comparisons, name_of
from symrun.figures.measured import evenly_by_rank
from symrun.figures.style import evenly
from symrun.report.document import formatted
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS

Array = NDArray[np.float64]

_UNITS, _RECORDS = (2, 12), (10, 100)
"""The fewest and the most of a group that are shown."""
_CURVES = 2 + len(LAWS)
"""Of each unit: what was measured, its magnitude, and how far each law is off."""


def explorer(run: RunDirectory, most_bytes: float) -> list[dict[str, Any]]:
    """Each group of a run as JSON values, in the order of run.json; about `most_bytes` in all.

    units: the numbers of those that are shown, the worst by 1 − R² first; names: what the page
    calls them. of: how many there are. steps: the records that are shown. curves: base64 of
    little-endian float32 [curves, units, records]: `measured`, `magnitude`, and for each of `laws`
    measured − predicted, which is computed before it is rounded. unexplained: law -> 1 − R² of each
    unit, None if it did not move. motion: of the median unit. rounding: the least motion of the
    largest unit that counts as one. words: what the curves show, with numbers.

    Error: UsageError as in `comparisons`.
    """
    units, records = _sizes(len(run.info().groups), most_bytes)
    return [_group(group, units, records) for group in comparisons(run)]


def _sizes(groups: int, most_bytes: float) -> tuple[int, int]:
    """How many units and records of each group fit: where room is short there are fewer units, and
    then fewer records."""
    numbers = most_bytes / (4 * 4 / 3) / _CURVES / max(groups, 1)
    units = int(np.clip(numbers // _RECORDS[1], *_UNITS))
    return units, int(np.clip(numbers // units, *_RECORDS))


def _group(group: Comparison, units: int, records: int) -> dict[str, Any]:
    shares = {law: _by_unit(group, law) for law in group.predicted}
    law = _judging(shares)
    rank = np.nan_to_num(shares[law], nan=-1.0, posinf=np.inf) if law else group.motion
    chosen = evenly_by_rank(rank, units)[::-1]
    kept = evenly(len(group.steps), records)
    place = np.ix_(kept, chosen)
    measured = group.measured[place]
    off = [measured - curve[place] for curve in group.predicted.values()]
    curves = np.stack([measured, group.magnitude[place], *off]).transpose(0, 2, 1)
    return {
        "symmetry": group.symmetry,
        "group": group.group,
        "of": group.motion.size,
        "moved": int(group.moved.sum()),
        "motion": float(np.median(group.motion)),
        "units": chosen.tolist(),
        "names": [name_of(unit, group.pairs) for unit in chosen.tolist()],
        "laws": list(group.predicted),
        "unexplained": {name: _finite(share[chosen]) for name, share in shares.items()},
        "steps": group.steps[kept].tolist(),
        "curves": base64.b64encode(curves.astype("<f4").tobytes()).decode(),
        "rounding": CONSERVED * float(group.magnitude.max()),
        "words": _in_words(group, law),
    }


def _by_unit(group: Comparison, law: str) -> Array:
    """1 − R² of each unit, NaN of those that did not move; [units]."""
    shares = np.full(group.motion.size, np.nan)
    shares[group.moved] = group.unexplained_by_unit(group.predicted[law])
    return shares


def _judging(shares: Mapping[str, Array]) -> str | None:
    """The law by which units are ranked: the first that predicts, else an identity."""
    return min(shares, key=is_identity, default=None)


def _finite(values: Array) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _in_words(group: Comparison, law: str | None) -> str:
    """What the curves of all units show, with numbers."""
    starts, ends = (
        " to ".join(format(float(end), ".3g") for end in (values.min(), values.max()))
        for values in (group.measured[0], group.measured[-1])
    )
    updates = f"over updates {group.steps[0]:,} to {group.steps[-1]:,}"
    text = (
        f"{group.motion.size:,} units {updates}: measured {starts} at the start, {ends} at the end"
    )
    if not group.moved.any():
        text += "; none moved off its baseline by more than 100 roundings of float32"
    if law is None:
        return f"{text}; no law predicts them."
    residual = formatted(float(group.residual(law).max()), ".1e")
    what = "the identity" if is_identity(law) else "the law"
    return f"{text}; {what} {law} is off by at most {residual} of a unit's magnitude."
