"""One symmetry group over time: measured, predicted, and the baseline that gradient flow gives.

    residual    max over units of |Q - P| / magnitude
    explained   R^2 = 1 - sum over time (Q - P)^2 / sum (Q - Q(0) e^{-k lambda t})^2, the share of
                the broken conservation that the law accounts for; median over the units that moved
    unexplained 1 - R^2, computed without the rounding of that difference; its square root is the
                RMS error relative to the RMS motion

Q is measured, P predicted; Q(0) e^{-k lambda t} is gradient flow with weight decay, which momentum
beta and dampening alpha let run faster: t = sum of lr (1 - alpha) / (1 - beta). While momentum
builds up, SGD is behind that flow, and with weight decay this lag counts as broken conservation.
For optimisers other than SGD there is no such flow, and the baseline is Q(0). A run in a loop of
the user's own has its baseline in the tables, since no settings tell its learning rates. A unit
that stayed within CONSERVED of its baseline did not move: there `explained` would compare rounding
with rounding.

An R^2 near 1 says little by itself, since a wrong law can reach 0.99 too. So each group is also
held against null laws, which are wrong on purpose (`null_laws`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.laws import gradient_flow, kinds_of_sgd, steady_forcing
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import BASELINE, LAWS, Curves, unit_curves
from symrun.schedule import learning_rates, times
from symrun.symmetry import Symmetry

_log = logging.getLogger(__name__)

Array = NDArray[np.float64]

CONSERVED = 100 * 2.0**-24
"""The largest motion of a conserved unit, relative to its magnitude: 100 float32 roundings."""


@dataclass(frozen=True)
class Comparison:
    """steps [records]; measured, magnitude, baseline and predicted[law] [records, units].

    predicted: the laws that make a prediction of this group. steady: the motion that gradients of
    a constant norm would cause, up to a factor, [records, units], or one for all units [records,
    1]. diverged: the group stops being finite, and is compared up to its last finite record.
    pairs: of general_linear, the row and the column of the entry that each unit is.
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
    pairs: Sequence[tuple[int, int]] = ()

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

        None without a prediction. The second needs a quantity that gradient norms drive, which is
        neither linear nor driven at the outputs; the third a second unit.
        """
        law = next((law for law in self.predicted if not _KINDS[law].identity), None)
        if law is None:
            return
        motion = self.predicted[law] - self.baseline
        yield "null: 1 % too large", self.baseline + 1.01 * motion
        symmetry = Symmetry(self.symmetry)
        if symmetry.degree == 2 and symmetry is not Symmetry.homogeneity:
            end, share = self.steady[-1], np.zeros_like(self.steady)
            np.divide(self.steady, end, out=share, where=end != 0)  # 0: nothing was ever trained
            yield "null: constant gradient norm", self.baseline + share * motion[-1]
        if motion.shape[1] > 1:
            yield "null: another unit's", self.baseline + np.roll(motion, 1, axis=1)

    def _relative(self, difference: Array) -> Array:
        """|difference| / magnitude; 0 where both are 0, as a bias is at the start."""
        size = np.abs(difference)
        quotient: Array = np.divide(size, self.magnitude, out=np.zeros_like(size), where=size != 0)
        return quotient


_KINDS = kinds_of_sgd(momentum=False)


def name_of(unit: int, pairs: Sequence[tuple[int, int]]) -> str:
    """What tables call a unit: its number, or row and column of the entry of a matrix.

    pairs: as in Comparison. Example: name_of(1, [(0, 1), (0, 2)]) == "0,2"
    """
    return ",".join(map(str, pairs[unit])) if pairs else str(unit)


def comparisons(run: RunDirectory) -> Iterator[Comparison]:
    """Each group of a run, in the order of run.json.

    A diverged run is compared up to its last finite record, with a warning.
    Error: UsageError if the run has fewer than two records, which show no motion.
    Example: worst = max(one.residual("exact").max() for one in comparisons(run))
    """
    info = run.info()
    planned = _Planned.of(info)
    recorded = BASELINE if {*BASELINE} <= {*info.columns} else ()
    warned = False
    for group in info.groups:
        laws = [law for law in LAWS if law not in info.silent(group)]
        columns = ["measured", "magnitude", *laws, *recorded]
        curves = unit_curves(run, group.symmetry.value, group.group, columns)
        records = _finite_records(run, curves)
        diverged = records < len(curves.steps)
        if diverged and not warned:
            warned = True
            where = f"{group.group} is not finite after step {curves.steps[records - 1]}"
            _log.warning("%s diverged: %s; compared up to there", run.path, where)
        values = {name: curves.values[name][:records] for name in columns}
        steps, measured = curves.steps[:records], values["measured"]
        baseline, steady = (
            _recorded_baseline(values)
            if planned is None or recorded
            else planned.baseline(run, group, steps, measured[0])
        )
        yield Comparison(
            group.symmetry.value,
            group.group,
            steps,
            measured,
            values["magnitude"],
            baseline,
            {law: values[law] for law in laws},
            steady,
            diverged,
            group.matrix_entries if group.is_of_pairs else (),
        )
        del curves, values, measured, baseline, steady  # the next group's would lie beside them


def _finite_records(run: RunDirectory, curves: Curves) -> int:
    """How many records there are until one is not finite. Error: UsageError if fewer than two."""
    if len(curves.steps) < 2:
        raise UsageError(f"{run.path} has a single record so far: nothing can have moved")
    finite = np.isfinite(curves.values["measured"]).min(axis=1)
    records = finite.size if finite.all() else int(np.argmin(finite))
    if records < 2:
        raise UsageError(f"{run.path} diverged before its second record: nothing to compare")
    return records


@dataclass(frozen=True)
class _Planned:
    """The settings of a run, as they bear on its baseline at each update: times and steady motion
    [planned steps + 1], and the weight decay of its flow."""

    flow_times: Array
    steady: Array
    decay: float

    @classmethod
    def of(cls, info: RunInfo) -> "_Planned | None":
        """None if the settings do not tell the learning rates."""
        optim = info.planned_optim
        if optim is None:
            return None
        rates = learning_rates(optim, info.planned_steps)
        steady = steady_forcing(rates, optim.flow_rate * rates, 2 * optim.flow_decay)
        flow_times = optim.flow_rate * times(optim, info.planned_steps)
        return cls(flow_times, steady, optim.flow_decay)

    def baseline(
        self, run: RunDirectory, group: GroupInfo, steps: NDArray[np.int64], initial: Array
    ) -> tuple[Array, Array]:
        """Baseline and steady motion at `steps`, as in Comparison. Error: as in `at_steps`."""
        recorded = at_steps(self.flow_times, steps, run)
        flow = gradient_flow(initial, recorded, group.symmetry.degree, self.decay)
        return flow, self.steady[steps][:, None]


def _recorded_baseline(values: Mapping[str, Array]) -> tuple[Array, Array]:
    """Baseline and steady motion of the tables; where they have none, as of a group that no law
    predicts, the quantity at the start and no motion."""
    measured = values["measured"]
    if "baseline" not in values or np.isnan(values["baseline"]).all():
        return np.broadcast_to(measured[0], measured.shape), np.zeros_like(measured)
    return values["baseline"], values["steady"]


def predicting_laws(run: RunDirectory) -> list[str]:
    """The laws that make a prediction in this run. Error: UsageError if none does."""
    info = run.info()
    laws = [law for law in LAWS if info.predicts(law)]
    if not laws:
        raise UsageError(f"{run.path}: no law predicts it: {next(iter(info.unpredicted.values()))}")
    return laws


def at_steps(flow_times: Array, steps: NDArray[np.int64], run: RunDirectory) -> Array:
    """The times of the recorded `steps`; `flow_times` are those of all planned steps.

    Error: UsageError if tables and run.json do not belong together.
    """
    planned = len(flow_times) - 1
    if steps[0] < 0 or steps[-1] > planned:
        reach = f"from step {steps[0]} to {steps[-1]}"
        raise UsageError(f"{run.path}: the tables go {reach}, run.json plans {planned} steps")
    found: Array = flow_times[steps]
    return found
