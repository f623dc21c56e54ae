"""One symmetry group over time: measured, predicted, and the baseline that gradient flow gives.

    residual    max over units of |Q - P| / magnitude
    explained   R^2 = 1 - sum over time (Q - P)^2 / sum (Q - Q(0) e^{-k lambda t})^2, the share of
                the broken conservation that the law accounts for; median over the units that moved
    unexplained 1 - R^2, computed without the rounding of that difference; its square root is the
                RMS error relative to the RMS motion

Q is measured, P predicted; Q(0) e^{-k lambda t} is gradient flow with weight decay, which momentum
beta and dampening alpha let run faster: t = sum of lr (1 - alpha) / (1 - beta). While momentum
builds up, SGD is behind that flow, and with weight decay this lag counts as broken conservation.
For optimisers other than SGD there is no such flow, and the baseline is Q(0). A unit that stayed
within CONSERVED of its baseline did not move: there `explained` would compare rounding with
rounding.

An R^2 near 1 says little by itself, since a wrong law can reach 0.99 too. So each group is also
held against null laws, which are wrong on purpose (`null_laws`).
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.laws import gradient_flow, kinds_of_sgd, steady_forcing
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import LAWS, unit_curves
from symrun.schedule import learning_rates, times
from symrun.symmetry import Symmetry

_log = logging.getLogger(__name__)

Array = NDArray[np.float64]

CONSERVED = 100 * 2.0**-24
"""The largest motion of a conserved unit, relative to its magnitude: 100 float32 roundings."""


@dataclass(frozen=True)
class Comparison:
    """steps [records]; measured, magnitude, baseline and predicted[law] [records, units].

    predicted: the laws that make a prediction in this run. steady: the motion that gradients of a
    constant norm would cause, up to a factor, [records]. diverged: the group stops being finite,
    and is compared up to its last finite record.
    """

    symmetry: str
    group: str
    steps: NDArray[np.int64]
    measured: Array
    magnitude: Array
    baseline: Array
    predicted: dict[str, Array]
    steady: Array
    diverged: bool

    @cached_property
    def motion(self) -> Array:
        """The largest distance from the baseline, relative to the magnitude; [units]."""
        largest: Array = self._relative(self.measured - self.baseline).max(axis=0)
        return largest

    @cached_property
    def moved(self) -> NDArray[np.bool_]:
        return self.motion > CONSERVED

    def residual(self, law: str) -> Array:
        """The largest relative error over the units at each record; [records]."""
        worst: Array = self._relative(self.measured - self.predicted[law]).max(axis=1)
        return worst

    def unexplained_by_unit(self, prediction: Array) -> Array:
        """1 - R^2 of each unit that moved, over all records; [moved].

        prediction: of a law or a null law, [records, units].
        """
        broken, unexplained = (
            np.square(self.measured - curve).sum(axis=0)[self.moved]
            for curve in (self.baseline, prediction)
        )
        share: Array = unexplained / broken
        return share

    def unexplained(self, law: str) -> Array:
        """1 - R^2 of the run up to each record, the median over the units that moved; [records].

        NaN before the first motion. Assumes: some unit moved.
        """
        moved = self.moved
        broken, unexplained = (
            np.square(self.measured - curve)[:, moved].cumsum(axis=0)
            for curve in (self.baseline, self.predicted[law])
        )
        share = np.full_like(broken, np.nan)
        np.divide(unexplained, broken, out=share, where=broken > 0)
        median: Array = np.median(share, axis=1)
        return median

    def null_laws(self) -> Iterator[tuple[str, Array]]:
        """Name and prediction [records, units] of laws that are wrong on purpose.

        Each distorts the motion that the first law predicts, its distance from the baseline:

            1 % too large           every unit moves 1 % further
            constant gradient norm  a unit ends where the law says, but gets there as it would if
                                    the norm of its gradient never changed
            another unit's          a unit moves as the law predicts for its neighbour in the group

        None without a prediction. The second needs a quadratic quantity, since gradients do not
        drive a linear one; the third a second unit.
        """
        law = next((law for law in self.predicted if not _KINDS[law].identity), None)
        if law is None:
            return
        motion = self.predicted[law] - self.baseline
        yield "null: 1 % too large", self.baseline + 1.01 * motion
        if Symmetry(self.symmetry).degree == 2:
            steady = (self.steady / self.steady[-1])[:, None]
            yield "null: constant gradient norm", self.baseline + steady * motion[-1]
        if motion.shape[1] > 1:
            yield "null: another unit's", self.baseline + np.roll(motion, 1, axis=1)

    def _relative(self, difference: Array) -> Array:
        """|difference| / magnitude; 0 where both are 0, as a bias is at the start."""
        size = np.abs(difference)
        quotient: Array = np.divide(size, self.magnitude, out=np.zeros_like(size), where=size != 0)
        return quotient


_KINDS = kinds_of_sgd(momentum=False)


def comparisons(run: RunDirectory) -> Iterator[Comparison]:
    """Each group of a run, in the order of run.json.

    A diverged run is compared up to its last finite record, with a warning.
    Error: UsageError if the run has fewer than two records, which show no motion.
    Example: worst = max(one.residual("exact").max() for one in comparisons(run))
    """
    info = run.info()
    optim = info.config.optim
    flow_times = optim.flow_rate * times(optim, info.planned_steps)
    rates = learning_rates(optim, info.planned_steps)
    steady = steady_forcing(rates, optim.flow_rate * rates, 2 * optim.flow_decay)
    laws = _laws_of(info)
    warned = False
    for group in info.groups:
        columns = ["measured", "magnitude", *laws]
        curves = unit_curves(run, group.symmetry.value, group.group, columns)
        if len(curves.steps) < 2:
            raise UsageError(f"{run.path} has a single record so far: nothing can have moved")
        finite = np.isfinite(curves.values["measured"]).min(axis=1)
        records = finite.size if finite.all() else int(np.argmin(finite))
        diverged = records < finite.size
        if records < 2:
            raise UsageError(f"{run.path} diverged before its second record: nothing to compare")
        if diverged and not warned:
            warned = True
            where = f"{group.group} is not finite after step {curves.steps[records - 1]}"
            _log.warning("%s diverged: %s; compared up to there", run.path, where)
        values = {name: curves.values[name][:records] for name in columns}
        steps, measured = curves.steps[:records], values["measured"]
        recorded = at_steps(flow_times, steps, run)
        yield Comparison(
            group.symmetry.value,
            group.group,
            steps,
            measured,
            values["magnitude"],
            gradient_flow(measured[0], recorded, group.symmetry.degree, optim.flow_decay),
            {law: values[law] for law in laws},
            steady[steps],
            diverged,
        )
        del curves, values, measured  # the next group's would lie beside them


def predicting_laws(run: RunDirectory) -> list[str]:
    """The laws that make a prediction in this run. Error: UsageError if none does."""
    info = run.info()
    laws = _laws_of(info)
    if not laws:
        raise UsageError(f"{run.path}: no law predicts it: {info.unpredicted[LAWS[0]]}")
    return laws


def _laws_of(info: RunInfo) -> list[str]:
    return [law for law in LAWS if law not in info.unpredicted]


def at_steps(flow_times: Array, steps: NDArray[np.int64], run: RunDirectory) -> Array:
    """The times of the recorded `steps`; `flow_times` are those of all planned steps.

    Error: UsageError if tables and run.json do not belong together, or times are not finite.
    """
    planned = len(flow_times) - 1
    if steps[0] < 0 or steps[-1] > planned:
        reach = f"from step {steps[0]} to {steps[-1]}"
        raise UsageError(f"{run.path}: the tables go {reach}, run.json plans {planned} steps")
    recorded: Array = flow_times[steps]
    if not np.isfinite(recorded).all():
        raise UsageError(f"{run.path}: with its optim.lr the time, sum of lr, is not finite")
    return recorded
