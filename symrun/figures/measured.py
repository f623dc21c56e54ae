"""Units measured, in colour, under what the theory says of them; and below, what it misses."""

import math
import textwrap
from collections.abc import Collection

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from symrun.figures.captions import law_label, step_label
from symrun.figures.style import PREDICTED, add_lines, evenly, label_steps, unit_colours
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import Curves
from symrun.symmetry import Symmetry

_WIDTH, _STRIP_WIDTH = 1.8, 0.8


def rows_and_columns(count: int) -> tuple[int, int]:
    """Of a grid for `count` panels: one row of up to three, or two rows."""
    rows = 1 if count <= 3 else 2
    return rows, math.ceil(count / rows)


def grid_of(panels: SubFigure, rows: int, columns: int) -> GridSpec:
    """Places for `rows` x `columns` panels, each with a strip below it."""
    return panels.add_gridspec(2 * rows, columns, height_ratios=(3, 1) * rows)


def draw_units(
    panels: SubFigure,
    place: tuple[GridSpec, int, int],
    info: RunInfo,
    group: GroupInfo,
    curves: Curves,
    law: str = "flow",
) -> Axes:
    """A panel with the columns `measured` and `law` of `curves`, a line a unit of `group`, and
    below it a strip of their difference. Returns the axes of the panel.

    place: a grid of `grid_of`, the row and the column. Where the law is silent, its reason stands
    in place of dashed lines and strip.
    """
    grid, row, column = place
    reason = info.silent(group).get(law)
    high = 2 * row if reason is None else slice(2 * row, 2 * row + 2)
    above = lowest = panels.add_subplot(grid[high, column])
    _draw_lines(above, curves.steps, curves.values["measured"], _WIDTH)
    if reason is not None:
        _say_why(above, reason)
    else:
        add_lines(above, curves.steps, curves.values[law], **PREDICTED)
        lowest = panels.add_subplot(grid[2 * row + 1, column], sharex=above)
        missed = curves.values["measured"] - curves.values[law]
        _draw_strip(lowest, curves.steps, missed)
        above.tick_params(labelbottom=False)
    label_steps(lowest, step_label(info))
    return above


def draw_legend(panels: SubFigure, infos: Collection[RunInfo], law: str = "flow") -> None:
    """What coloured and dashed lines are, above the panels."""
    handles = [Line2D([], [], color=unit_colours(3)[1], linewidth=_WIDTH, label="measured")]
    if predicted := law_label(infos, law):
        handles.append(Line2D([], [], label=predicted, **PREDICTED))
    panels.legend(handles=handles, loc="outside upper center", ncols=2)


def notes(infos: Collection[RunInfo]) -> list[str]:
    """What colours and strips are, and what a law can show in such runs."""
    colours = "Colours: rank of the final value, dark: lowest"
    if not any(info.predicts("flow") for info in infos):
        return [f"{colours}."]
    lines = [
        f"{colours}. Strips: measured − predicted, each on its own scale. All but translation "
        "are predicted from measured gradients: their laws explain a run, they do not forecast it."
    ]
    if any(info.groups_of(Symmetry.homogeneity) for info in infos):
        lines.append(
            "Homogeneity is balanced rather than conserved: what the loss does at the outputs "
            "drives it, and is measured there."
        )
    if not any(_has_a_limit(info) for info in infos):
        lines.append(
            "At λ = 0 without momentum, the laws flow and discrete are the same: "
            "the figure tests the symmetries, not the limit of continuous time."
        )
    return lines


def _has_a_limit(info: RunInfo) -> bool:
    """Whether flow may be another law than discrete, its limit; in a loop of the user's own other
    parameters may have another weight decay."""
    optim = info.planned_optim
    return optim is None or bool(optim.weight_decay or getattr(optim, "momentum", 0))


def evenly_by_rank(final: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """At most `most` units, from the one that ends lowest to the one that ends highest."""
    units: NDArray[np.intp] = np.argsort(final)[evenly(len(final), most)]
    return units


def _say_why(axes: Axes, reason: str) -> None:
    text = f"theory: not predicted\n{textwrap.fill(reason, 24)}"
    axes.text(0.04, 0.98, text, transform=axes.transAxes, va="top", fontsize=7)
    low, high = axes.get_ylim()
    axes.set_ylim(top=high + 0.5 * (high - low))  # room for the text above the lines


def _draw_strip(axes: Axes, steps: NDArray[np.int64], missed: NDArray[np.float64]) -> None:
    """What the prediction misses: too little to be seen in the panel."""
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    _draw_lines(axes, steps, missed, _STRIP_WIDTH)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel("Measured\n− predicted")


def _draw_lines(
    axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], width: float
) -> None:
    add_lines(axes, steps, values, colors=unit_colours(values.shape[1]), linewidths=width)
