"""Where and when a law fails: residual and explained of every layer over training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.analysis.comparison import Comparison, comparisons, predicting_laws
from symrun.config import Precision
from symrun.figures.captions import captions, settings, step_label
from symrun.figures.selection import Roles
from symrun.figures.style import Colour, add_lines, frame, label_steps, shaded, styled
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

_GUIDE: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":"}


RUNS = Roles({"with a symmetry": "fig1"}, lambda info, _: bool(info.groups))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A column for each law: above, the residual; below, the unexplained share of the motion.

    A line is a group, its hue the symmetry, its shade the depth from the input (dark) to the
    output. Both axes are logarithmic: zeros are not drawn, and a group in which no unit moved has
    no line below.

    Error: UsageError if the run has fewer than two records, or no law predicts it.
    """
    (run,) = runs
    info = run.info()
    laws = predicting_laws(run)
    groups = list(comparisons(run))
    heading = f"How far each law is off, by layer (dark: near the input), on {settings([info])}"
    last_step = max(int(group.steps[-1]) for group in groups)
    figure, panels = frame((2.3 * len(laws) + 0.5, 4.4), heading, captions([(info, last_step)]))
    grid = panels.subplots(2, len(laws), squeeze=False, sharex=True, sharey="row")
    float64 = info.precision is Precision.float64
    for column, law in enumerate(laws):
        above, below = grid[:, column]
        above.set_title(law)
        for axes in (above, below):
            axes.set_yscale("log")  # first: limits around a single value depend on it
        for group, colour in zip(groups, _colours(groups), strict=True):
            _draw(above, group, group.residual(law), colour)
            if group.moved.any():
                _draw(below, group, group.unexplained(law), colour)
        for axes in (above, below):
            if not axes.collections:
                axes.set_yscale("linear")
            axes.set_xlim(0, last_step)
        above.axhline(2.0**-53 if float64 else 2.0**-24, zorder=0, **_GUIDE)
        label_steps(below, step_label(info))
    grid[0, 0].set_ylabel("Residual,\nlargest over units")
    grid[1, 0].set_ylabel("1 − explained so far,\nmedian over units")
    shown = dict.fromkeys(group.symmetry for group in groups)
    handles = [Line2D([], [], color=Symmetry(name).colour, label=name) for name in shown]
    weights = "float64" if float64 else "float32"
    handles.append(Line2D([], [], label=f"one rounding of {weights} weights", **_GUIDE))
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw(axes: Axes, group: Comparison, values: Array, colour: Colour) -> None:
    drawn = np.where(values > 0, values, np.nan)[:, None]
    if not np.isnan(drawn).all():
        add_lines(axes, group.steps, drawn, colors=[colour], linewidths=0.9)


def _colours(groups: Sequence[Comparison]) -> list[Colour]:
    """The hue of the symmetry, from dark to light with depth."""
    colours = []
    for number, group in enumerate(groups):
        alike = [i for i, other in enumerate(groups) if other.symmetry == group.symmetry]
        depth = alike.index(number) / max(len(alike) - 1, 1)
        colours.append(shaded(to_rgb(Symmetry(group.symmetry).colour), 0.45 * (2 * depth - 1)))
    return colours
