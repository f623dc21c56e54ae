"""Fig. 1: single parameters are noisy, the norms of filters are smooth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from symrun.errors import UsageError
from symrun.figures.captions import captions, step_label, title, width_label
from symrun.figures.layers import depth_colours
from symrun.figures.selection import Roles
from symrun.figures.style import (
    HUES,
    Colour,
    StepLines,
    drawable,
    frame,
    label_steps,
    shaded,
    styled,
)
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import Curves, parameter_curves, unit_curves
from symrun.symmetry import Symmetry

RUNS = Roles({"with BN behind convolutions": "fig1"}, lambda info, _: bool(_filter_groups(info)))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """The sampled parameters (left) and the squared norms of all filters (right) of convolutions.

    A hue is a block of convolutions, a shade a layer of it; with many blocks a colour from dark to
    light is their depth. Lines are drawn in rounds, each with at most one line of every layer,
    later layers on top: so no layer hides the others.

    Error: UsageError if the run has fewer than two records, or sampled no parameters.
    """
    (run,) = runs
    info = run.info()
    if info.config.track.parameters == 0:
        raise UsageError(f"{run.path} sampled no parameters: train one with track.parameters > 0")
    blocks = _blocks(info)
    colours = _colours(blocks)
    norms = {
        layer: drawable(run, unit_curves(run, "scale", group, ["measured"]))
        for layer, group in _filter_groups(info).items()
    }
    last_step = int(next(iter(norms.values())).steps[-1])
    lines = captions([(info, last_step)]) + _start_of_narrow(info, next(iter(norms.values())))
    figure, panels = frame((5.5, 3.5), title(1, 1e-4, [info]), lines)
    left, right = panels.subplots(1, 2)
    parameters = {layer: drawable(run, parameter_curves(run, layer)) for layer in blocks}
    _draw_lines(left, parameters, "value", colours)
    _draw_lines(right, norms, "measured", colours)
    for axes, label in ((left, "Parameter"), (right, "Squared filter norm")):
        axes.set_ylabel(label)
        label_steps(axes, step_label(info))
    right.set_ylim(bottom=0)
    hues = _hues(blocks)
    handles = [
        Line2D([], [], color=hues[block], label=f"block {block + 1}") for block in _named(hues)
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_lines(
    axes: Axes, curves: dict[str, Curves], column: str, colours: dict[str, Colour]
) -> None:
    """The lines of all layers, in rounds; the last round, on top, has a line of every layer."""
    lines = [
        (-number, np.column_stack([shown.steps, values]), colours[layer])
        for layer, shown in curves.items()
        for number, values in enumerate(shown.values[column].T)
    ]
    lines.sort(key=lambda line: line[0])  # it keeps the order of the layers within a round
    look = {"alpha": 0.7, "linewidths": 0.4, "rasterized": True}
    paths, shades = [path for _, path, _ in lines], [shade for *_, shade in lines]
    axes.add_collection(StepLines(paths, colors=shades, **look))
    axes.margins(x=0)


def _start_of_narrow(info: RunInfo, first: Curves) -> list[str]:
    """For a VGG of another width than the paper's, a line about the first layer's start."""
    if info.model.width in (None, 1) or not info.model.is_vgg:
        return []
    start = f"{first.values['measured'][0].mean():.2g}, not near 0.09 as at width 1"
    reason = "its fan_out changes with the width, its fan_in does not"
    return [f"At {width_label(info)} the first layer's norms start near {start}: {reason}."]


def _filter_groups(info: RunInfo) -> dict[str, str]:
    """Convolution -> its scale group, in the order of the forward pass."""
    groups = {group.layers[0]: group.group for group in info.groups_of(Symmetry.scale)}
    return {layer: groups[layer] for layer in _blocks(info) if layer in groups}


def _blocks(info: RunInfo) -> dict[str, int]:
    """Convolution -> index of its block, in the order of the forward pass."""
    return {row.layer: row.block for row in info.convolutions if row.block is not None}


def _colours(blocks: dict[str, int]) -> dict[str, Colour]:
    """Convolution -> colour: the hue of its block, from dark to light within the block."""
    colours, hues = {}, _hues(blocks)
    for block in hues:
        layers = [layer for layer in blocks if blocks[layer] == block]
        for layer, shade in zip(layers, np.linspace(-0.2, 0.2, len(layers)), strict=True):
            colours[layer] = shaded(hues[block], shade if len(layers) > 1 else 0)
    return colours


def _hues(blocks: dict[str, int]) -> dict[int, Colour]:
    """Block -> hue, in order; where there are more blocks than hues, colours from dark to light."""
    numbers = sorted(set(blocks.values()))
    if numbers[-1] < len(HUES):
        return {block: to_rgb(HUES[block]) for block in numbers}
    return dict(zip(numbers, map(to_rgb, depth_colours(len(numbers))), strict=True))


def _named(hues: dict[int, Colour]) -> list[int]:
    """The blocks that the legend names: of many only the first, the middle and the last."""
    numbers = list(hues)
    many = len(numbers) > len(HUES)
    return [numbers[0], numbers[len(numbers) // 2], numbers[-1]] if many else numbers
