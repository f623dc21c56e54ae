"""What a logger shows of each record: how far a law is off, and how much it leaves unexplained.

Both are those of `symrun check`, with its baseline and its bar for units that moved: the largest
residual of all records is the one that it prints, and so is the unexplained share at the last.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symrun.analysis.comparison import CONSERVED, Comparison
from symrun.laws import gradient_flow
from symrun.runs.directory import RunDirectory
from symrun.runs.info import GroupInfo, RunInfo
from symrun.runs.tables import unit_curves
from symrun.schedule import times

Array = NDArray[np.float64]


class Scalars:
    """Turns the records of a run into a few numbers each, by the name of a curve.

        symrun/residual/SYMMETRY/LAW      the largest |measured - law| / magnitude of any unit
        symrun/unexplained/SYMMETRY/LAW   1 - R^2 of the run so far, of the median unit that moved;
                                          absent while none has

    LAW is `flow`; for units that it does not predict it is `exact`, an identity, so that the
    numbers audit the measurement.

    Example: Scalars(run.info()).curves
    """

    def __init__(self, info: RunInfo) -> None:
        self._times: Array | None = None
        if "baseline" not in info.columns:
            self._times = info.config.optim.flow_rate * times(info.config.optim, info.planned_steps)
        self._groups: list[tuple[slice, _Group]] = []
        start = 0
        for group in info.groups:
            units = slice(start, start := start + group.units)
            law = _law_of(group, info)
            if law is not None:
                self._groups.append((units, _Group(group, law, info.config.optim.flow_decay)))

    @property
    def curves(self) -> list[tuple[str, str]]:
        """The symmetry and the law of each pair of curves."""
        return list(dict.fromkeys((one.symmetry, one.law) for _, one in self._groups))

    def after(self, step: int, values: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """The numbers of this record, the next one. values: as a `Watcher` sees them."""
        time = self._time(step)
        for units, group in self._groups:
            group.add(time, {name: column[units] for name, column in values.items()})
        scalars: dict[str, float] = {}
        for symmetry, law in self.curves:
            alike = [one for _, one in self._groups if (one.symmetry, one.law) == (symmetry, law)]
            scalars[f"symrun/residual/{symmetry}/{law}"] = float(
                np.max([one.residual for one in alike])  # max() can pass over NaN
            )
            shares = np.concatenate([one.unexplained() for one in alike])
            if shares.size:
                scalars[f"symrun/unexplained/{symmetry}/{law}"] = float(np.median(shares))
        return scalars

    def catch_up(self, run: RunDirectory) -> None:
        """Count in the records that `run` has already: those before it was resumed."""
        for _, group in self._groups:
            columns = ["measured", "magnitude", group.law]
            columns += ["baseline"] if self._times is None else []
            curves = unit_curves(run, group.symmetry, group.name, columns)
            for record, step in enumerate(curves.steps.tolist()):
                values = {name: column[record] for name, column in curves.values.items()}
                group.add(self._time(step), values)

    def _time(self, step: int) -> float:
        """What has passed of the time of the baseline; NaN where the run records the baseline."""
        return np.nan if self._times is None else float(self._times[step])


class _Group:
    """The sums of one group over the records so far. Once a record is not finite, it changes no
    more."""

    def __init__(self, group: GroupInfo, law: str, decay: float) -> None:
        self.symmetry, self.name, self.law = group.symmetry.value, group.group, law
        self.residual = 0.0
        self._degree, self._decay = group.symmetry.degree, decay
        self._initial: Array | None = None
        self._finite = True
        self._motion, self._broken, self._missed = np.zeros((3, group.units))

    def add(self, time: float, values: Mapping[str, NDArray[Any]]) -> None:
        """values: the columns of the next record, [units]."""
        record = {
            name: values[name].astype(np.float64)
            for name in ("measured", "magnitude", self.law, "baseline")
            if name in values
        }
        measured, predicted = record["measured"], record[self.law]
        self._finite = self._finite and bool(np.isfinite(measured).all())
        if not self._finite:
            return
        baseline = record.get("baseline")
        if baseline is None:
            self._initial = measured if self._initial is None else self._initial
            passed = np.array([time])
            baseline = gradient_flow(self._initial, passed, self._degree, self._decay)[0]
        one = Comparison(
            self.symmetry,
            self.name,
            np.zeros(1, np.int64),
            measured[None],
            record["magnitude"][None],
            baseline[None],
            {self.law: predicted[None]},
            np.zeros(1),
            diverged=False,
        )
        self.residual = float(one.residual(self.law)[0])
        self._motion = np.maximum(self._motion, one.motion)
        self._broken += np.square(measured - baseline)
        self._missed += np.square(measured - predicted)

    def unexplained(self) -> Array:
        """1 - R^2 of each unit that has moved so far."""
        moved = self._motion > CONSERVED
        share: Array = self._missed[moved] / self._broken[moved]
        return share


def _law_of(group: GroupInfo, info: RunInfo) -> str | None:
    """The law that is shown of this group; None if none says anything of it."""
    if "flow" not in info.unpredicted and group.unpredicted is None:
        return "flow"
    return None if "exact" in info.unpredicted else "exact"
