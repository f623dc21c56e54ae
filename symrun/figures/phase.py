"""Phase portrait: the conserved quantity against its velocity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.analysis.comparison import at_steps
from symrun.figures.captions import captions, law_label, left_out, settings
from symrun.figures.layers import (
    depth_colours,
    depth_handles,
    groups_of,
    hidden_symmetries,
    layer_means,
    shortened,
)
from symrun.figures.selection import Roles
from symrun.figures.style import PREDICTED, Trajectory, drawable, frame, styled, unit_colours
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import Curves, unit_curves
from symrun.schedule import times
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

_MOST_UNITS = 6
_MOST_POINTS = 60
_WIDTH = 2.2
_NAME = 34  # characters: as many as stand above a panel, beside the number of units
_DASHES = PREDICTED | {"linewidth": 0.5, "linestyle": (0, (4, 9))}
"""Far apart: paths are so steep and close that others would hide their colours."""
_END: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linestyle": ""}
_DECAY: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":"}
_FIXED: dict[str, Any] = {"color": "0.5", "linewidth": 0.8}


RUNS = Roles(
    {"with scale or rescale symmetry": "fig1"}, lambda info, _: bool(hidden_symmetries(info))
)


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """Layers, as means over their units (left), and single units of the middle layer (right).

    The velocity is the change between records over the time between them, t = sum of lr. On the
    fixed line dQ/dt = 0 a quantity is at rest. The dotted line is the velocity of weight decay
    alone; finite steps lift the curves above it. A dot marks the end. Where no settings tell the
    learning rates, in a loop of the user's own, the velocity is that per update.

    Error: UsageError if the run has fewer than two records.
    """
    (run,) = runs
    info = run.info()
    symmetry = hidden_symmetries(info)[0]
    means = layer_means(run, symmetry)
    groups = groups_of(info, symmetry)
    middle = groups[len(groups) // 2]
    curves = drawable(run, unit_curves(run, symmetry, middle, ["measured", "flow"]))
    count = curves.values["measured"].shape[1]
    units = np.linspace(0, count - 1, min(count, _MOST_UNITS)).astype(int)
    heading = f"Phase portrait of {symmetry} on {settings([info])}"
    caption = [*captions([(info, int(curves.steps[-1]))]), *left_out(info)]
    velocity = "$dQ/dn$" if info.planned_optim is None else "$dQ/dt$"
    figure, panels = frame((7, 3.8), heading, caption)
    left, right = panels.subplots(1, 2)
    _draw_panel(left, run, means, depth_colours(len(groups)))
    _draw_panel(right, run, curves.of_units(units), unit_colours(len(units)))
    left.set_title("Layers, means over their units")
    right.set_title(f"{shortened(middle, _NAME)}: {len(units)} of {count:,} units")
    for axes in (left, right):
        axes.set_xlabel(f"{Symmetry(symmetry).label} $Q$")
        axes.set_ylabel(f"Velocity {velocity}")
    handles = depth_handles(groups, linewidth=_WIDTH)
    if label := law_label([info]):
        handles.append(Line2D([], [], label=label, **_DASHES))
    handles.append(Line2D([], [], label=f"fixed line, {velocity} = 0", **_FIXED))
    handles.append(Line2D([], [], color="0.4", label="end", **_END))
    if _decay_rate(info):
        handles.append(Line2D([], [], label="weight decay alone", **_DECAY))
    panels.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _decay_rate(info: RunInfo) -> float:
    """The rate at which weight decay alone shrinks a quantity of degree 2, per unit of time; 0 if
    nobody knows the time."""
    optim = info.planned_optim
    return 0.0 if optim is None else 2 * optim.flow_decay * optim.flow_rate


def _times(run: RunDirectory, steps: NDArray[np.int64]) -> Array:
    """The time of each record, or the number of updates if nobody knows it."""
    info = run.info()
    optim = info.planned_optim
    if optim is None:
        return steps.astype(np.float64)
    return at_steps(times(optim, info.planned_steps), steps, run)


def _draw_panel(axes: Axes, run: RunDirectory, curves: Curves, colours: Array) -> None:
    """colours [lines, 4]: a colour for each line of `curves`."""
    info = run.info()
    measured, flow = curves.values["measured"], curves.values["flow"]
    recorded = _times(run, curves.steps)
    # Evenly apart in time: as lr goes to 0, a difference would be the rounding of the table
    part = np.floor(recorded / recorded[-1] * _MOST_POINTS)
    _, kept = np.unique(part, return_index=True)
    elapsed = recorded[kept]
    for path, colour in zip(_portrait(elapsed, measured[kept]), colours, strict=True):
        axes.add_line(Trajectory(path, color=colour, linewidth=_WIDTH))
        axes.plot(*path[:, -1], color=colour, **_END)
    if not np.isnan(flow).all():
        for path in _portrait(elapsed, flow[kept]):
            axes.add_line(Trajectory(path, **_DASHES))
    axes.autoscale_view()
    low, high = axes.get_xlim()
    axes.axhline(0, zorder=0, **_FIXED)
    if decay_rate := _decay_rate(info):
        ends = np.array([low, high])
        axes.plot(ends, -decay_rate * ends, zorder=0, scaley=False, **_DECAY)
    axes.set_xlim(low, high)


def _portrait(elapsed: Array, values: Array) -> Array:
    """Position and velocity between records; elapsed [records], values [records, lines].

    Returns [lines, 2, records - 1].
    """
    position = (values[1:] + values[:-1]) / 2
    velocity = np.diff(values, axis=0) / np.diff(elapsed)[:, None]
    paths: Array = np.stack([position, velocity]).transpose(2, 0, 1)
    return paths
