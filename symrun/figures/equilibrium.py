"""Whether units of scale have reached equilibrium: how far each update turns them, and how long
they are."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.figures.captions import captions, optimiser, settings, step_label
from symrun.figures.layers import depth_colours, depth_handles
from symrun.figures.selection import AnyRuns
from symrun.figures.style import PREDICTED, add_lines, evenly, frame, label_steps, styled
from symrun.laws.equilibrium import Equilibrium
from symrun.optimizers import OptimConfig
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import DYNAMICS, unit_curves
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

DEAD = 0.01
"""A unit is dead if its |g|^2 |A|^2, meaned over the last half of the records, is at most this
share of its layer's mean."""

_MOST_POINTS = 40
_WIDTH = 1.2
_TITLE = 38  # characters: as many as stand above a panel
_RELAXED: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":"}


@dataclass(frozen=True)
class _Predicted:
    """What a layer settles at: RMS angle, RMS norm, and the updates that it takes, [points]."""

    angle: Array
    norm: Array
    relaxation: Array


@dataclass(frozen=True)
class _Layer:
    """The live units of one group over stretches of records, [points].

    steps: the middle of each stretch. angle, norm: RMS over its records and the units. predicted:
    None if no equilibrium is known.
    """

    live: int
    units: int
    steps: NDArray[np.int64]
    angle: Array
    norm: Array
    predicted: _Predicted | None


def _fits(info: RunInfo) -> bool:
    return {*DYNAMICS} <= {*info.columns} and bool(info.groups_of(Symmetry.scale))


RUNS = AnyRuns("equilibrium", _fits)


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A column for each run: above, the RMS angle of an update; below, the norm; a line a layer.

    Dashed is the equilibrium that the settings and, for the norm under SGD, the gradients of the
    moment predict. A dotted line marks the first relaxation time: a run shorter than a few of them
    has not reached equilibrium.

    Error: UsageError if a run has not the columns, fewer than three records, no live unit, or other
    layers than the first run.
    """
    infos = [run.info() for run in runs]
    layers = [_layers(run, info) for run, info in zip(runs, infos, strict=True)]
    groups = list(layers[0])
    for run, found in zip(runs, layers, strict=True):
        if list(found) != groups:
            raise UsageError(f"equilibrium draws runs of one network; {run.path} has other layers")
    titles = [", ".join(optimiser(info)) for info in infos]
    lines = captions([(info, info.last_step) for info in infos])
    lines += [_outcome(*one) for one in zip(infos, titles, layers, strict=True)]
    lines.append(
        f"Dead, and left out: units whose |g|²|A|² over the last half is at most {DEAD:.0%} of "
        "their layer's mean. The norm under SGD is predicted from the measured |g|²|A|²."
    )
    heading = f"Equilibrium of units of scale on {settings(infos)}"
    size = (max(2.7 * len(runs) + 0.5, 5.2), 4.4 + 0.5 * len(runs))
    figure, panels = frame(size, heading, lines)
    grid = panels.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (info, title, found) in enumerate(zip(infos, titles, layers, strict=True)):
        above, below = grid[:, column]
        above.set_title(textwrap.fill(title, _TITLE))
        _draw(above, below, list(found.values()))
        label_steps(below, step_label(info))
    grid[0, 0].set_ylabel("Angle of an update, radians, RMS")
    grid[1, 0].set_ylabel("Norm $|A|$, RMS")
    handles = depth_handles(groups, linewidth=_WIDTH)
    if any(layer.predicted for found in layers for layer in found.values()):
        handles.append(Line2D([], [], label="predicted equilibrium", **PREDICTED))
        handles.append(Line2D([], [], label="one relaxation time", **_RELAXED))
    panels.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _layers(run: RunDirectory, info: RunInfo) -> dict[str, _Layer]:
    """Each group of scale by name. Error: UsageError as in `draw`."""
    if not _fits(info):
        remedy = "train it with track.dynamics=true"
        if info.loop is not None:
            remedy = "track it with symrun.track(..., dynamics=True)"
        raise UsageError(f"{run.path} has no angles of units of scale: {remedy}")
    layers = {group.group: _layer(run, info, group) for group in info.groups_of(Symmetry.scale)}
    if not any(layer.live for layer in layers.values()):
        raise UsageError(f"{run.path} has no live unit of scale: nothing turns")
    return layers


def _layer(run: RunDirectory, info: RunInfo, group: GroupInfo) -> _Layer:
    curves = unit_curves(
        run, group.symmetry.value, group.group, ["measured", "grad_norm_sq", *DYNAMICS]
    )
    # The last record has no gradient and no update after it
    steps, values = curves.steps[:-1], {name: v[:-1] for name, v in curves.values.items()}
    if len(steps) < 2:
        raise UsageError(f"{run.path} has {len(steps) + 1} records so far: a curve needs three")
    intrinsic = values["grad_norm_sq"] * values["measured"]
    late = intrinsic[len(steps) // 2 :].mean(axis=0)
    live = late > DEAD * late.mean()
    measured, lr, angle_sq, grad_sq = (
        _stretches(value[:, live])
        for value in (
            values["measured"],
            values["effective_lr"] * values["measured"],
            np.square(values["angle"]),
            intrinsic,
        )
    )
    predicted, optim = None, info.config.optim
    if live.any() and isinstance(optim, OptimConfig):
        predicted = _predicted(optim.equilibrium(_mean(lr)[:, None]), grad_sq, group.entries or 0)
    middle = _stretches(steps[:, None].astype(np.float64))[:, 0].round().astype(np.int64)
    angle, norm = np.sqrt(_mean(angle_sq)), np.sqrt(_mean(measured))
    return _Layer(int(live.sum()), group.units, middle, angle, norm, predicted)


def _predicted(settled: Equilibrium | None, grad_sq: Array, entries: int) -> _Predicted | None:
    """settled: for learning rates [points, 1]. grad_sq: |g|^2 |A|^2, [points, units]."""
    if settled is None:
        return None
    angle, relaxation = (np.ravel(value) for value in (settled.angle, settled.relaxation))
    return _Predicted(angle, np.sqrt(_mean(settled.norm_sq(grad_sq, entries))), relaxation)


def _stretches(values: Array) -> Array:
    """[records, units] -> [points, units]: means over at most _MOST_POINTS stretches of records."""
    ends = evenly(len(values) + 1, _MOST_POINTS + 1)
    means: Array = np.add.reduceat(values, ends[:-1], axis=0) / np.diff(ends)[:, None]
    return means


def _mean(values: Array) -> Array:
    """Over the units; NaN if there are none."""
    mean: Array = values.sum(axis=1) / (values.shape[1] or np.nan)
    return mean


def _draw(above: Axes, below: Axes, layers: Sequence[_Layer]) -> None:
    for layer, colour in zip(layers, depth_colours(len(layers)), strict=True):
        if not layer.live:
            continue
        for axes, values in ((above, layer.angle), (below, layer.norm)):
            add_lines(axes, layer.steps, values[:, None], colors=[colour], linewidths=_WIDTH)
    for layer in layers:
        if (predicted := layer.predicted) is not None:
            for axes, values in ((above, predicted.angle), (below, predicted.norm)):
                add_lines(axes, layer.steps, values[:, None], **PREDICTED)
    for axes in (above, below):
        axes.autoscale_view()
        axes.set_ylim(bottom=0)
        if (step := _relaxed(layers)) is not None:
            axes.axvline(step, zorder=0, **_RELAXED)


def _relaxed(layers: Iterable[_Layer]) -> float | None:
    """The step at which one relaxation time has passed; None if none has, or nobody knows."""
    layer = next((layer for layer in layers if layer.predicted is not None), None)
    if layer is None or layer.predicted is None:
        return None
    passed = np.cumsum(np.diff(layer.steps, prepend=0) / layer.predicted.relaxation)
    return float(np.interp(1, passed, layer.steps)) if passed[-1] > 1 else None


def _outcome(info: RunInfo, title: str, layers: dict[str, _Layer]) -> str:
    """How long the run is, how far its angles are off, and how many units are dead."""
    units = sum(layer.units for layer in layers.values())
    dead = units - sum(layer.live for layer in layers.values())
    found = [(layer.angle, layer.predicted) for layer in layers.values() if layer.predicted]
    if not found:
        return f"{title}: no equilibrium is known; {dead:,} of {units:,} units are dead."
    relaxations = info.last_step * (1 / found[0][1].relaxation).mean()
    late = slice(len(found[0][0]) // 2, None)
    ratios = [
        np.sqrt(np.square(angle / predicted.angle)[late].mean()) for angle, predicted in found
    ]
    return (
        f"{title}: {relaxations:.2g} relaxation times; angle over the last half {min(ratios):.2f} "
        f"to {max(ratios):.2f} of the predicted one by layer; {dead:,} of {units:,} units are dead."
    )
