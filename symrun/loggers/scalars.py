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
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import BASELINE, unit_curves
from symrun.schedule import times

Array = NDArray[np.float64]

_SHOWN = ("flow", "exact")
"""The first of them that predicts a group is held against it."""


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
        optim = info.planned_optim
        self._decayed: Array | None = None
        if optim is not None:
            passed = times(optim, info.planned_steps)
            self._decayed = optim.flow_rate * optim.flow_decay * passed
        self._recorded = BASELINE[:1] if {*BASELINE} <= {*info.columns} else ()
        self._groups: list[tuple[slice, _Group]] = []
        start = 0
        for group in info.groups:
            units = slice(start, start := start + group.units)
            law = next((law for law in _SHOWN if law not in info.silent(group)), None)
            if law is not None:
                self._groups.append((units, _Group(group, law)))

    @property
    def curves(self) -> list[tuple[str, str]]:
        """The symmetry and the law of each pair of curves."""
        return list(dict.fromkeys((one.symmetry, one.law) for _, one in self._groups))

    def after(self, step: int, values: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """The numbers of this record, the next one. values: as a `Watcher` sees them."""
        for units, group in self._groups:
            self._add(group, step, {name: column[units] for name, column in values.items()})
        scalars: dict[str, float] = {}
        for symmetry, law in self.curves:
            alike = [one for _, one in self._groups if (one.symmetry, one.law) == (symmetry, law)]
            largest = np.max([one.residual for one in alike])  # max() can pass over NaN
            scalars[f"symrun/residual/{symmetry}/{law}"] = float(largest)
            shares = np.concatenate([one.unexplained() for one in alike])
            if shares.size:
                scalars[f"symrun/unexplained/{symmetry}/{law}"] = float(np.median(shares))
        return scalars

    def catch_up(self, run: RunDirectory) -> None:
        """Count in the records that `run` has already: those before it was resumed."""
        for _, group in self._groups:
            columns = ["measured", "magnitude", group.law, *self._recorded]
            curves = unit_curves(run, group.symmetry, group.name, columns)
            for record, step in enumerate(curves.steps.tolist()):
                row = {name: column[record] for name, column in curves.values.items()}
                self._add(group, step, row)

    def _add(self, group: "_Group", step: int, row: Mapping[str, NDArray[Any]]) -> None:
        """row: of one group, [units]."""
        measured, magnitude, predicted = (
            row[name].astype(np.float64) for name in ("measured", "magnitude", group.law)
        )
        decayed = 0.0 if self._decayed is None else float(self._decayed[step])
        baseline = group.conserved(measured, decayed)
        for name in self._recorded:
            known = row[name].astype(np.float64)
            baseline = baseline if np.isnan(known).all() else known
        group.add(measured, magnitude, predicted, baseline)


class _Group:
    """The sums of one group over the records so far. Once a record is not finite, it changes no
    more."""

    def __init__(self, group: GroupInfo, law: str) -> None:
        self.symmetry, self.name, self.law = group.symmetry.value, group.group, law
        self.residual = 0.0
        self._degree = group.symmetry.degree
        self._initial: Array | None = None
        self._finite = True
        self._motion, self._broken, self._missed = np.zeros((3, group.units))

    def conserved(self, measured: Array, decayed: float) -> Array:
        """The quantity under gradient flow. decayed: weight decay by the time that has passed."""
        self._initial = measured if self._initial is None else self._initial
        (flow,) = gradient_flow(self._initial, np.array([decayed]), self._degree, weight_decay=1.0)
        return np.asarray(flow)

    def add(self, measured: Array, magnitude: Array, predicted: Array, baseline: Array) -> None:
        """The next record, [units] each."""
        self._finite = self._finite and bool(np.isfinite(measured).all())
        if not self._finite:
            return
        one = Comparison(
            self.symmetry,
            self.name,
            np.zeros(1, np.int64),
            measured[None],
            magnitude[None],
            baseline[None],
            {self.law: predicted[None]},
            np.zeros_like(baseline[None]),
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
