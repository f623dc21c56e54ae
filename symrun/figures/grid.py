"""The paper's grids: a panel for each setting of the optimiser, measured and predicted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from symrun.figures.captions import common_caption, law_label, optimiser, settings
from symrun.figures.layers import (
    depth_colours,
    depth_handles,
    groups_of,
    hidden_symmetries,
    layer_means,
)
from symrun.figures.selection import Family
from symrun.figures.style import (
    PREDICTED,
    add_lines,
    drawable,
    frame,
    label_steps,
    styled,
    unit_colours,
)
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import Curves, unit_curves
from symrun.symmetry import Symmetry

_COLUMNS_SHOWN = 10
_WIDTH = 1.8
_PANEL = (1.75, 1.55)  # inches
_LAST = "translation"
_SELDOM_VARIED = ("milestones", "gamma", "warmup", "beta1", "beta2", "eps", "alpha")
"""Settings that captions leave out."""


@dataclass(frozen=True)
class Grid:
    """Columns of panels: weight decay; rows: all other settings of the optimiser.

    A line is a layer: the mean over its units, since small layers would vanish beside the sums of
    large ones; for translation it is a column of the last layer.
    symmetry: None for scale in a network that has it, else rescale.
    """

    symmetry: str | None

    @property
    def RUNS(self) -> Family:
        preset = f"symrun train experiment=grid_{self.symmetry or 'scale'}"
        return Family("optim", lambda info: self._shown(info) is not None, 1, preset)

    def _shown(self, info: RunInfo) -> str | None:
        if self.symmetry is None:
            return next(iter(hidden_symmetries(info)), None)
        drawn = _several(info) if self.symmetry == _LAST else groups_of(info, self.symmetry)
        return self.symmetry if drawn else None

    @styled
    def draw(self, runs: Sequence[RunDirectory]) -> Figure:
        """One panel a run, all on the same axes.

        Error: UsageError if a run has fewer than two records.
        """
        infos = [run.info() for run in runs]
        symmetry = self._shown(infos[0])
        assert symmetry is not None, "chosen by RUNS"
        shown = [_columns(run) if symmetry == _LAST else layer_means(run, symmetry) for run in runs]
        places, rows, decays = _places(infos)
        what = _columns_of(infos[0]) if symmetry == _LAST else "means over each layer"
        heading = f"{Symmetry(symmetry).title}, {what}, on {settings(infos)}"
        kinds = " and ".join(dict.fromkeys(optimiser(info)[0] for info in infos))
        last_step = max(int(curves.steps[-1]) for curves in shown)
        caption = common_caption(infos, last_step, [kinds])
        width, height = _PANEL[0] * len(decays) + 0.6, _PANEL[1] * len(rows) + 1.1
        figure, panels = frame((max(width, 5.0), height), heading, [caption])
        grid = panels.subplots(len(rows), len(decays), squeeze=False, sharex=True, sharey=True)
        for place, info, curves in zip(places, infos, shown, strict=True):
            _draw_panel(grid[place], info, curves, symmetry)
        for place, axes in np.ndenumerate(grid):
            if place not in places:  # its tick labels may be those of its row or column
                axes.spines[:].set_visible(False)
                axes.tick_params(length=0)
            if place[0] == 0:
                axes.set_title(f"$λ$ = {decays[place[1]]:g}")
            if place[1] == 0:
                axes.set_ylabel(f"{rows[place[0]]}\n{Symmetry(symmetry).label}")
            if place[0] == len(rows) - 1:
                label_steps(axes, "Step $n$")
        middle = unit_colours(3)[1]
        handles = (
            [Line2D([], [], color=middle, linewidth=_WIDTH, label="measured")]
            if symmetry == _LAST
            else depth_handles(groups_of(infos[0], symmetry), linewidth=_WIDTH)
        )
        label = law_label(infos)
        if label:
            handles.append(Line2D([], [], label=label, **PREDICTED))
        both_laws = label.count("law") > 1
        panels.legend(handles=handles, loc="outside upper center", ncols=1 if both_laws else 2)
        return figure


def _places(infos: Sequence[RunInfo]) -> tuple[list[tuple[int, int]], list[str], list[float]]:
    """The place of each run, the labels of the rows (highest lr first), the weight decays.

    A label names every setting of the optimiser that varies between runs, except weight decay.
    """
    optims = [info.config.optim for info in infos]
    varied = [
        name
        for name in _SELDOM_VARIED
        # by repr, since a list has no hash; an optimiser without the setting does not count
        if len({repr(value) for info in infos if (value := _setting(info, name)) is not None}) > 1
    ]
    labels = []
    for info in infos:
        name, rate, _, *switches = optimiser(info)
        values = ((key, _setting(info, key)) for key in varied)
        others = [f"{key} {value}" for key, value in values if value is not None]
        labels.append("\n".join([*([name] if name != "SGD" else []), rate, *switches, *others]))
    rates = {label: optim.lr for label, optim in zip(labels, optims, strict=True)}
    rows = sorted(rates, key=lambda label: (rates[label], label), reverse=True)
    decays = sorted({optim.weight_decay for optim in optims})
    places = [
        (rows.index(label), decays.index(optim.weight_decay))
        for label, optim in zip(labels, optims, strict=True)
    ]
    return places, rows, decays


def _setting(info: RunInfo, name: str) -> object:
    """A recorded setting of the optimiser; None if this optimiser has no such setting."""
    return info.config.by_name.get(f"optim.{name}")


def _draw_panel(axes: Axes, info: RunInfo, curves: Curves, symmetry: str) -> None:
    measured, flow = curves.values["measured"], curves.values["flow"]
    count = measured.shape[1]
    colours = unit_colours(count) if symmetry == _LAST else depth_colours(count)
    add_lines(axes, curves.steps, measured, colors=colours, linewidths=_WIDTH)
    if "flow" in info.unpredicted:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        place: dict[str, Any] = {"transform": axes.transAxes, "va": "top", "bbox": box}
        axes.text(0.04, 0.96, "not predicted", fontsize=7, **place)
    else:
        add_lines(axes, curves.steps, flow, **PREDICTED)


def _columns_of(info: RunInfo) -> str:
    """What the units are whose translation is drawn."""
    group = _several(info)[-1]
    last = [layer.layer for layer in info.layers[-1:]]
    return "columns of the last layer" if last == [group] else f"units of {group}"


def _columns(run: RunDirectory) -> Curves:
    """The first columns of the last layer that has any."""
    group = _several(run.info())[-1]
    curves = unit_curves(run, _LAST, group, ["measured", "flow"])
    return drawable(run, curves.of_units(slice(_COLUMNS_SHOWN)))


def _several(info: RunInfo) -> list[str]:
    """The names of the groups that translate more than one unit, in the order of the forward pass.

    That of the last layer's columns is the last, if it has any; a bias is a group of a single unit.
    """
    return [group.group for group in info.groups_of(_LAST) if group.units > 1]
