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
from symrun.errors import UsageError
from symrun.figures.captions import captions, left_out, settings, step_label
from symrun.figures.selection import Roles
from symrun.figures.style import add_lines, frame, label_steps, shaded, styled
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

_GUIDE: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":"}
_WIDTH = 0.9
_STRETCHES: dict[str, Any] = {"near the input": "-", "in the middle": "--", "near the output": "-."}


RUNS = Roles({"with a symmetry": "fig1"}, lambda info, _: bool(info.groups))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A column for each law: above, the residual; below, the unexplained share of the motion.

    A line is a group, its hue the symmetry; its shade and its dashes tell the depth, from the input
    (dark, solid) to the output. Both axes are logarithmic: zeros are not drawn, and a group in
    which no unit moved has no line below.

    Error: UsageError if the run has fewer than two records, no law predicts it, or no law is ever
    off.
    """
    (run,) = runs
    info = run.info()
    laws = predicting_laws(run)
    groups = list(comparisons(run))
    heading = f"How far each law is off, by layer, on {settings([info])}"
    last_step = max(int(group.steps[-1]) for group in groups)
    figure, panels = frame(
        (max(2.3 * len(laws) + 0.5, 5.1), 4.4),
        heading,
        [*captions([(info, last_step)]), *left_out(info)],
    )
    grid = panels.subplots(2, len(laws), squeeze=False, sharex=True, sharey="row")
    float64 = info.precision is Precision.float64
    for column, law in enumerate(laws):
        above, below = grid[:, column]
        above.set_title(law)
        for axes in (above, below):
            axes.set_yscale("log")  # first: limits around a single value depend on it
        for group, look in zip(groups, _looks(groups), strict=True):
            if law not in group.predicted:
                continue
            _draw(above, group, group.residual(law), look)
            if group.moved.any():
                _draw(below, group, group.unexplained(law), look)
        for axes in (above, below):
            if not axes.collections:
                axes.set_yscale("linear")
            axes.set_xlim(0, last_step)
        above.axhline(2.0**-53 if float64 else 2.0**-24, zorder=0, **_GUIDE)
        label_steps(below, step_label(info))
    if not any(axes.collections for axes in grid.flat):
        exact = f"{', '.join(laws)} is never off, which a logarithmic axis cannot show"
        raise UsageError(f"{run.path}: {exact}: symrun check gives the residuals")
    grid[0, 0].set_ylabel("Residual,\nlargest over units")
    grid[1, 0].set_ylabel("1 − explained (1 − R²)\nso far, median over units")
    shown = dict.fromkeys(group.symmetry for group in groups)
    handles = [Line2D([], [], color=Symmetry(name).colour, label=name) for name in shown]
    weights = "float64" if float64 else "float32"
    handles.append(Line2D([], [], label=f"one rounding of {weights} weights", **_GUIDE))
    for number, (where, dashes) in enumerate(_STRETCHES.items()):
        grey = shaded(to_rgb("0.5"), _shade(number / 2))
        handles.append(Line2D([], [], color=grey, linewidth=_WIDTH, linestyle=dashes, label=where))
    panels.legend(handles=handles, loc="outside upper center", ncols=min(4, len(laws) + 2))
    return figure


def _draw(axes: Axes, group: Comparison, values: Array, look: dict[str, Any]) -> None:
    drawn = np.where(values > 0, values, np.nan)[:, None]
    if not np.isnan(drawn).all():
        add_lines(axes, group.steps, drawn, linewidths=_WIDTH, **look)


def _looks(groups: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The hue of the symmetry, from dark to light with depth; the dashes of each third."""
    dashes, looks = list(_STRETCHES.values()), []
    for number, group in enumerate(groups):
        alike = [i for i, other in enumerate(groups) if other.symmetry == group.symmetry]
        depth = alike.index(number) / max(len(alike) - 1, 1)
        shade = _shade(depth) if len(alike) > 1 else 0.0
        colour = shaded(to_rgb(Symmetry(group.symmetry).colour), shade)
        looks.append({"colors": [colour], "linestyles": [dashes[min(int(3 * depth), 2)]]})
    return looks


def _shade(depth: float) -> float:
    return 0.45 * (2 * depth - 1)
