"""How good a prediction is, in two numbers for each law, symmetry and group."""

from collections.abc import Iterator
from dataclasses import dataclass

from symrun.analysis.comparison import comparisons
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import LAWS


@dataclass(frozen=True)
class Agreement:
    """One law in one group, over the whole run; residual and explained as in `comparison`.

    moved: how many units moved. residual: None if the law makes no prediction in this run.
    explained: None likewise, or if no unit moved. drift: the largest motion relative to the
    magnitude among the units that did not move; None if all moved. diverged: the group stops being
    finite, and was compared up to its last finite record.
    """

    law: str
    symmetry: str
    group: str
    units: int
    moved: int
    residual: float | None
    explained: float | None
    drift: float | None
    diverged: bool


def agreement(run: RunDirectory) -> Iterator[Agreement]:
    """Each law against the measurement, group by group, in the order of run.json.

    A diverged run is compared up to its last finite record, with a warning.
    Error: UsageError if the run has fewer than two records, which show no motion.
    Example: worst = max(row.residual for row in agreement(run) if row.law == "exact")
    """
    for group in comparisons(run):
        moved = group.moved
        drift = None if moved.all() else float(group.motion[~moved].max())
        for law in LAWS:
            residual = explained = None
            if law in group.predicted:
                residual = float(group.residual(law).max())
                explained = group.explained(law) if moved.any() else None
            yield Agreement(
                law,
                group.symmetry,
                group.group,
                moved.size,
                int(moved.sum()),
                residual,
                explained,
                drift,
                group.diverged,
            )
        del group  # the next one would lie beside it
