"""How good a prediction is: residual and R^2, for each law, symmetry and group, and for each
symmetry as a whole."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symrun.analysis.comparison import Comparison, comparisons, name_of
from symrun.laws import kinds_of_sgd
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """One law in one group over the whole run, or in all groups of a symmetry.

    law: a column of the tables, or the name of a null law, which is wrong on purpose. units: of
    all groups, those that the law predicts, or all if it predicts none. moved: how many units
    moved; `excluded` are the others, which no R^2 can judge. residual: the largest relative error;
    None if the law makes no prediction here, and for null laws. motion: the largest of any unit,
    relative to its magnitude; drift: the same among the excluded units, None if there are none.
    diverged: a group stops being finite, and was compared up to its last finite record.

    The others are None if the law makes no prediction, or if no unit moved. For the median unit:
    explained, its R^2; unexplained, 1 - R^2 without the rounding of that difference; rms, its
    square root, the RMS error relative to the RMS motion. unexplained_99: the least bound that 99
    in 100 units keep, so that 1 - unexplained_99 is the first percentile of R^2.
    unexplained_worst: of the worst unit, which `worst_unit` names with its group. worst_group: the
    largest median of any group.
    """

    law: str
    symmetry: str
    group: str
    units: int
    moved: int
    excluded: int
    residual: float | None
    motion: float
    drift: float | None
    diverged: bool
    explained: float | None = None
    unexplained: float | None = None
    rms: float | None = None
    unexplained_99: float | None = None
    unexplained_worst: float | None = None
    worst_unit: str | None = None
    worst_group: float | None = None


FEW = 5
"""Fewer units than these that moved make a median worth little."""

ALL_GROUPS = "all"
"""The `group` of a row about all groups of a symmetry."""


def agreement(run: RunDirectory) -> list[Agreement]:
    """Each law against the measurement, group by group, in the order of run.json.

    A diverged run is compared up to its last finite record, with a warning.
    Error: UsageError if the run has fewer than two records, which show no motion.
    Example: worst = max(row.residual for row in agreement(run) if row.law == "exact")
    """
    return judge(run)[0]


def judge(run: RunDirectory) -> tuple[list[Agreement], list[Agreement]]:
    """The rows of `agreement`; and for each symmetry a row for each law in all of its groups, then
    for each null law if any unit moved.

    Error: as in `agreement`.
    Example: nulls = [row for row in judge(run)[1] if is_null(row.law)]
    """
    parts = list(map(_part, comparisons(run)))  # which holds one group's curves at a time
    groups = [_row(law, part.group, [part]) for part in parts for law in LAWS]
    of_symmetry: dict[str, list[_Part]] = {}
    for part in parts:
        of_symmetry.setdefault(part.symmetry, []).append(part)
    symmetries = []
    for alike in of_symmetry.values():
        moving = [part for part in alike if part.moved.size]
        nulls = dict.fromkeys(law for part in moving for law in part.unexplained if is_null(law))
        for law in (*LAWS, *nulls):
            predicted = [part for part in alike if part.has(law)]
            symmetries.append(_row(law, ALL_GROUPS, predicted or alike))
    return groups, symmetries


def is_identity(law: str) -> bool:
    """Whether `law` holds for any gradients: it audits the measurement, and predicts nothing."""
    kind = kinds_of_sgd(momentum=False).get(law)
    return kind is not None and kind.identity


def is_null(law: str) -> bool:
    """Whether `law` is wrong on purpose."""
    return law not in LAWS


@dataclass(frozen=True)
class _Part:
    """What is left of a group's comparison once its curves are forgotten.

    motion [units]; moved: the indices of the units that moved. unexplained[law] [moved], also of
    null laws. residual[law]: the largest.
    """

    symmetry: str
    group: str
    motion: Array
    moved: NDArray[np.intp]
    unexplained: dict[str, Array]
    residual: dict[str, float]
    diverged: bool
    pairs: Sequence[tuple[int, int]]

    def has(self, law: str) -> bool:
        """Whether `law` predicts this group; null laws do where another prediction is there."""
        if is_null(law):
            return not all(map(is_identity, self.residual))
        return law in self.residual


def _part(group: Comparison) -> _Part:
    curves = {**group.predicted, **dict(group.null_laws())}
    return _Part(
        group.symmetry,
        group.group,
        group.motion,
        np.flatnonzero(group.moved),
        {law: group.unexplained_by_unit(curve) for law, curve in curves.items()},
        {law: float(group.residual(law).max()) for law in group.predicted},
        group.diverged,
        group.pairs,
    )


def _row(law: str, group: str, parts: list[_Part]) -> Agreement:
    units, moved = sum(part.motion.size for part in parts), sum(part.moved.size for part in parts)
    drifts = np.concatenate([np.delete(part.motion, part.moved) for part in parts])
    residuals = [part.residual[law] for part in parts if law in part.residual]
    row = Agreement(
        law,
        parts[0].symmetry,
        group,
        units,
        moved,
        excluded=units - moved,
        residual=float(np.max(residuals)) if residuals else None,  # max() can pass over NaN
        motion=float(np.max([part.motion.max() for part in parts])),
        drift=float(drifts.max()) if drifts.size else None,
        diverged=any(part.diverged for part in parts),
    )
    judged = [part for part in parts if law in part.unexplained and part.moved.size]
    if not judged:
        return row
    shares = [part.unexplained[law] for part in judged]
    pooled = np.concatenate(shares)
    median, worst = float(np.median(pooled)), int(np.argmax(pooled))
    ends = np.cumsum([share.size for share in shares])
    place = int(np.searchsorted(ends, worst, side="right"))
    unit = judged[place].moved[worst - ends[place] + shares[place].size]
    return dataclasses.replace(
        row,
        explained=1 - median,
        unexplained=median,
        rms=math.sqrt(median),
        unexplained_99=float(np.quantile(pooled, 0.99, method="inverted_cdf")),
        unexplained_worst=float(pooled[worst]),
        worst_unit=f"{judged[place].group} [{name_of(int(unit), judged[place].pairs)}]",
        worst_group=float(np.max([np.median(share) for share in shares])),
    )
