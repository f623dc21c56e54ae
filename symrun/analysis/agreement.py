"""How good a prediction is: two numbers for each law, symmetry and group, never one.

    residual    max over units and time of |Q - P| / magnitude
    explained   1 - sum over time (Q - P)^2 / sum (Q - Q(0) e^{-k lambda t})^2, the share of the
                broken conservation that the law accounts for; median over the units that moved

Q is measured, P predicted; Q(0) e^{-k lambda t} is gradient flow with weight decay, which momentum
beta and dampening alpha let run faster: t = sum of lr (1 - alpha) / (1 - beta). For optimisers
other than SGD there is no such flow, and the baseline is Q(0). A unit that stayed within CONSERVED
of its baseline did not move: there `explained` would compare rounding with rounding.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from symrun.config import Config, OptimConfig, SgdConfig
from symrun.errors import UsageError
from symrun.laws import gradient_flow
from symrun.runs.directory import RunDirectory, planned_steps
from symrun.runs.tables import LAWS, unit_curves
from symrun.schedule import times
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

CONSERVED = 100 * 2.0**-24
"""Motion relative to the magnitude up to which a unit is conserved: 100 float32 roundings."""


@dataclass(frozen=True)
class Agreement:
    """One law in one group.

    moved: units that moved. residual: None if the law makes no prediction in this run.
    explained: None likewise, or if no unit moved. drift: the largest motion relative to the
    magnitude among the units that did not move; None if all moved. diverged: the group is not
    finite to the end, and was compared up to there.
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
    info = run.info()
    optim = Config.from_mapping(info["config"]).optim
    flow_times, weight_decay = gradient_flow_times(optim, planned_steps(info))
    columns = ["measured", "magnitude", *LAWS]
    diverged = False
    for group in info["groups"]:
        curves = unit_curves(run, group["symmetry"], group["group"], columns)
        if len(curves.steps) < 2:
            raise UsageError(f"{run.path} has a single record so far: nothing can have moved")
        finite = np.isfinite(curves.values["measured"]).min(axis=1)
        records = finite.size if finite.all() else int(np.argmin(finite))
        if records < finite.size and not diverged:
            diverged = True
            where = f"{group['group']} is not finite after step {curves.steps[records - 1]}"
            warnings.warn(f"{run.path} diverged: {where}; compared up to there", stacklevel=2)
        measured, magnitude = (curves.values[name][:records] for name in columns[:2])
        degree = Symmetry(group["symmetry"]).degree
        elapsed = flow_times[curves.steps[:records]]
        conserved = gradient_flow(measured[0], elapsed, degree, weight_decay)
        motion = _relative(measured - conserved, magnitude).max(axis=0)
        moved = motion > CONSERVED
        drift = None if moved.all() else float(motion[~moved].max())
        for law in LAWS:
            residual = explained = None
            if law not in info["unpredicted"]:
                error = measured - curves.values[law][:records]
                residual = float(_relative(error, magnitude).max())
                if moved.any():
                    broken = np.square(measured - conserved)[:, moved].sum(axis=0)
                    missed = np.square(error)[:, moved].sum(axis=0)
                    explained = float(np.median(1 - missed / broken))
            yield Agreement(
                law,
                group["symmetry"],
                group["group"],
                measured.shape[1],
                int(moved.sum()),
                residual,
                explained,
                drift,
                records < finite.size,
            )


def gradient_flow_times(optim: OptimConfig, steps: int) -> tuple[Array, float]:
    """Time of gradient flow at each of `steps` + 1 steps, and the weight decay that acts in it."""
    if not isinstance(optim, SgdConfig):
        return times(optim, steps), 0.0
    pace = (1 - optim.dampening) / (1 - optim.momentum)
    return pace * times(optim, steps), optim.weight_decay


def _relative(difference: Array, magnitude: Array) -> Array:
    """|difference| / magnitude; 0 where both are 0, as a bias is at the start."""
    size = np.abs(difference)
    quotient: Array = np.divide(size, magnitude, out=np.zeros_like(size), where=size > 0)
    return quotient
