"""Runs that differ in their seed alone: how much of a curve is chance."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from symrun.errors import UsageError
from symrun.figures.captions import common_caption, law_label, optimiser, settings, step_label
from symrun.figures.layers import (
    depth_colours,
    depth_handles,
    groups_of,
    hidden_symmetries,
    layer_means,
)
from symrun.figures.selection import Family
from symrun.figures.style import PREDICTED, add_lines, frame, label_steps, styled
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import Curves
from symrun.symmetry import Symmetry

_WIDTH = 1.8
_BAND: dict[str, Any] = {"alpha": 0.3, "linewidth": 0}


RUNS = Family(
    "seed",
    lambda info: bool(hidden_symmetries(info)),
    2,
    "symrun train -m experiment=quickstart_bn seed=0,1,2",
)


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A panel for each symmetry, a line for each layer: the mean over seeds in a band of extremes.

    It shows the change of the layer's mean since the start, because the mean itself depends more on
    the initial weights than on training.

    Error: UsageError if a run has fewer than two records, or runs recorded other steps.
    """
    infos = [run.info() for run in runs]
    info = infos[0]
    symmetries = hidden_symmetries(info)
    heading = f"{len(runs)} seeds of {settings(infos)}"
    curves = {symmetry: [layer_means(run, symmetry) for run in runs] for symmetry in symmetries}
    steps = curves[symmetries[0]][0].steps
    if any(not np.array_equal(one.steps, steps) for means in curves.values() for one in means):
        raise UsageError("seeds needs runs with records at the same steps")
    caption = common_caption(infos, int(steps[-1]), [*optimiser(info), f"{len(runs)} seeds"])
    figure, panels = frame((3.4 * len(symmetries) + 1.2, 3.6), heading, [caption])
    places = panels.subplots(1, len(symmetries), squeeze=False)[0]
    for axes, (symmetry, means) in zip(places, curves.items(), strict=True):
        _draw_panel(axes, means)
        handles = depth_handles(groups_of(info, symmetry), linewidth=_WIDTH)
        place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
        axes.legend(title=Symmetry(symmetry).title, handles=handles, **place)
        axes.set_ylabel(f"{Symmetry(symmetry).label},\nchange of a layer's mean")
        label_steps(axes, step_label(info))
    kinds: list[Line2D | Patch] = [
        Line2D([], [], color="0.4", linewidth=_WIDTH, label="mean of the seeds"),
        Patch(color="0.4", label="lowest to highest seed", **_BAND),
    ]
    if label := law_label(infos):
        kinds.append(Line2D([], [], label=label, **PREDICTED))
    panels.legend(handles=kinds, loc="outside upper center", ncols=1 + len(symmetries))
    return figure


def _draw_panel(axes: Axes, means: Sequence[Curves]) -> None:
    steps = means[0].steps
    measured, flow = (
        np.stack([one.values[name] - one.values[name][0] for one in means])
        for name in ("measured", "flow")
    )
    flow = flow.mean(axis=0)
    colours = depth_colours(measured.shape[2])
    for layer, colour in enumerate(colours):
        low, high = measured[:, :, layer].min(axis=0), measured[:, :, layer].max(axis=0)
        axes.fill_between(steps, low, high, color=colour, **_BAND)
    add_lines(axes, steps, measured.mean(axis=0), colors=colours, linewidths=_WIDTH)
    if not np.isnan(flow).all():
        add_lines(axes, steps, flow, **PREDICTED)
