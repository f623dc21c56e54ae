"""Fig. 1: single parameters are noisy, the norms of filters are smooth."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from symrun.errors import UsageError
from symrun.figures.captions import captions, step_label, title
from symrun.figures.selection import Roles
from symrun.figures.style import (
    Colour,
    add_lines,
    drawable,
    frame,
    label_steps,
    shaded,
    styled,
)
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import parameter_curves, unit_curves
from symrun.symmetry import Symmetry

# From Okabe and Ito's and Tol's palettes; the shades of the first five stay apart under each kind
# of colour blindness, which orange and vermilion do not
_HUES = ("#0072B2", "#DDAA33", "#009E73", "#CC79A7", "#AA3311", "#56B4E9", "#777777")


RUNS = Roles({"with BN": "fig1"}, lambda info, _: bool(_filter_groups(info)))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """The sampled parameters (left) and the squared norms of all filters (right) of convolutions.

    A hue is a block of convolutions, a shade a layer of it; later layers lie on top.

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
    figure, panels = frame((5.5, 3.5), title(1, 1e-4, [info]), captions([(info, last_step)]))
    left, right = panels.subplots(1, 2)
    for layer in blocks:
        look = {"color": colours[layer], "alpha": 0.35, "linewidth": 0.4, "rasterized": True}
        parameters = drawable(run, parameter_curves(run, layer))
        add_lines(left, parameters.steps, parameters.values["value"], **look)
        if layer in norms:
            add_lines(right, norms[layer].steps, norms[layer].values["measured"], **look)
    for axes, label in ((left, "Parameter"), (right, "Squared filter norm")):
        axes.set_ylabel(label)
        label_steps(axes, step_label(info))
    right.set_ylim(bottom=0)
    handles = [
        Line2D([], [], color=_hue(block), label=f"block {block + 1}")
        for block in sorted(set(blocks.values()))
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _filter_groups(info: RunInfo) -> dict[str, str]:
    """Convolution -> its scale group, in the order of the forward pass."""
    groups = {group.layers[0]: group.group for group in info.groups_of(Symmetry.scale)}
    return {layer: groups[layer] for layer in _blocks(info) if layer in groups}


def _blocks(info: RunInfo) -> dict[str, int]:
    """Convolution -> index of its block, in the order of the forward pass."""
    return {row.layer: row.block for row in info.convolutions if row.block is not None}


def _colours(blocks: dict[str, int]) -> dict[str, Colour]:
    """Convolution -> colour: the hue of its block, from dark to light within the block."""
    colours = {}
    for block in set(blocks.values()):
        layers = [layer for layer in blocks if blocks[layer] == block]
        for layer, shade in zip(layers, np.linspace(-0.25, 0.25, len(layers)), strict=True):
            colours[layer] = shaded(_hue(block), shade if len(layers) > 1 else 0)
    return colours


def _hue(block: int) -> Colour:
    return to_rgb(_HUES[block % len(_HUES)])
