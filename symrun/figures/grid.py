"""The paper's grids: a panel for each setting of the optimiser, measured and predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.figures.captions import common_caption, law_label, optimiser, settings
from symrun.figures.layers import (
    QUANTITIES,
    Array,
    depth_colours,
    depth_handles,
    groups_of,
    layer_sums,
)
from symrun.figures.selection import Family
from symrun.figures.style import PREDICTED, add_lines, drawable, frame, label_steps, styled
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import unit_curves

Info = dict[str, Any]

_COLUMNS_SHOWN = 10
_WIDTH = 1.8
_PANEL = (1.75, 1.55)  # inches
_LAST = "translation"


@dataclass(frozen=True)
class Grid:
    """Columns of panels: weight decay; rows: all other settings of the optimiser.

    A line is a layer: the sum over its units; for translation it is a column of the last layer.
    symmetry: None for scale in a network that has it, else rescale.
    """

    symmetry: str | None

    @property
    def RUNS(self) -> Family:
        preset = f"symrun train experiment=grid_{self.symmetry or 'scale'}"
        return Family("optim", lambda info: self._shown(info) is not None, 1, preset)

    def _shown(self, info: Info) -> str | None:
        wanted = [self.symmetry] if self.symmetry else ["scale", "rescale"]
        return next((symmetry for symmetry in wanted if groups_of(info, symmetry)), None)

    @styled
    def draw(self, runs: Sequence[RunDirectory]) -> Figure:
        """One panel a run, all on the same axes.

        Error: UsageError if a run has fewer than two records.
        """
        infos = [run.info() for run in runs]
        symmetry = self._shown(infos[0])
        assert symmetry is not None, "chosen by RUNS"
        rows = sorted({_row(info) for info in infos}, reverse=True)
        decays = sorted({_decay(info) for info in infos})
        what = "columns of the last layer" if symmetry == _LAST else "sums over each layer"
        heading = f"{symmetry.capitalize()}, {what}, on {settings(infos)}"
        last_step = max(info["last_step"] for info in infos)
        kinds = " and ".join(dict.fromkeys(optimiser(info)[0] for info in infos))
        caption = common_caption(infos, last_step, [kinds])
        width, height = _PANEL[0] * len(decays) + 0.6, _PANEL[1] * len(rows) + 1.1
        figure, panels = frame((max(width, 5.0), height), heading, [caption])
        grid = panels.subplots(len(rows), len(decays), squeeze=False, sharex=True, sharey=True)
        drawn = set()
        for run, info in zip(runs, infos, strict=True):
            place = rows.index(_row(info)), decays.index(_decay(info))
            drawn.add(place)
            lines = _draw_panel(grid[place], run, info, symmetry)
        for place, axes in np.ndenumerate(grid):
            if place not in drawn:
                axes.set_axis_off()
            if place[0] == 0:
                axes.set_title(f"$λ$ = {decays[place[1]]:g}")
            if place[1] == 0:
                axes.set_ylabel(f"{rows[place[0]][1]}\n{QUANTITIES[symmetry]}")
            if place[0] == len(rows) - 1:
                label_steps(axes, "Step $n$")
        label = law_label(infos)
        theory = [Line2D([], [], label=label, **PREDICTED)] if label else []
        panels.legend(handles=[*lines, *theory], loc="outside upper center", ncols=2)
        return figure


def _decay(info: Info) -> float:
    return float(info["config"]["optim"]["weight_decay"])


def _row(info: Info) -> tuple[float, str]:
    """What a row of panels shares: its learning rate, to sort by, and its settings, a line each."""
    name, rate, _, *switches = optimiser(info)
    words = [*([name] if name != "SGD" else []), rate, *switches]
    return float(info["config"]["optim"]["lr"]), "\n".join(words)


def _draw_panel(axes: Axes, run: RunDirectory, info: Info, symmetry: str) -> list[Line2D]:
    """Draws one run; returns the legend of its lines."""
    if symmetry == _LAST:
        steps, measured, flow = _columns(run, info)
        colours = matplotlib.colormaps["viridis"](np.linspace(0.25, 0.9, measured.shape[1]))
        handles = [Line2D([], [], color=colours[len(colours) // 2], lw=_WIDTH, label="measured")]
    else:
        sums = layer_sums(run, symmetry)
        steps, measured, flow = sums.steps, sums.measured, sums.flow
        colours = depth_colours(len(sums.groups))
        handles = depth_handles(sums.groups, linewidth=_WIDTH)
    add_lines(axes, steps, measured, colors=colours, linewidths=_WIDTH)
    if "flow" in info["unpredicted"]:
        axes.text(0.04, 0.96, "not predicted", transform=axes.transAxes, va="top", fontsize=7)
    else:
        add_lines(axes, steps, flow, **PREDICTED)
    return handles


def _columns(run: RunDirectory, info: Info) -> tuple[NDArray[np.int64], Array, Array]:
    """Steps, and the first columns of the last layer, measured and predicted."""
    group = next(g["group"] for g in info["groups"] if g["symmetry"] == _LAST and g["units"] > 1)
    curves = drawable(run, unit_curves(run, _LAST, group, ["measured", "flow"]))
    measured, flow = (curves.values[name][:, :_COLUMNS_SHOWN] for name in ("measured", "flow"))
    return curves.steps, measured, flow
