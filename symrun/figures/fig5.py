"""Fig. 5: how conservation breaks, measured and as the paper's theory predicts it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from symrun.figures.captions import captions, law_label, step_label, title
from symrun.figures.selection import Roles
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
from symrun.runs.info import GroupInfo, RunInfo
from symrun.runs.tables import Curves, unit_curves


@dataclass(frozen=True)
class Panel:
    """It shows a group of `symmetry` in the run of `role`; `units`: what its units are called."""

    symmetry: str
    role: str
    quantity: str
    units: str


PANELS = (
    Panel("translation", "without BN", "Column sum,\nlast linear layer", "columns"),
    Panel("scale", "with BN", "Squared channel norm,\n2nd convolution", "channels"),
    Panel("rescale", "without BN", "Squared channel norms,\n5th − 4th convolution", "channels"),
)

_MOST_UNITS = 16
_WIDTH, _STRIP_WIDTH = 1.8, 0.8


def _fits(info: RunInfo, role: str) -> bool:
    return all(_group(info, panel.symmetry) for panel in PANELS if panel.role == role)


RUNS = Roles({"without BN": "fig5_plain", "with BN": "fig5_bn"}, _fits)


def _group(info: RunInfo, symmetry: str) -> GroupInfo | None:
    """The group of that symmetry which the paper shows; None if this run has none."""
    convolutions = tuple(row.layer for row in info.convolutions)
    for group in info.groups_of(symmetry):
        shown = {
            "translation": group.units > 1,
            "scale": group.layers[:1] == convolutions[1:2],
            "rescale": group.layers == convolutions[3:5],
        }
        if shown[symmetry]:
            return group
    return None


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A panel for each symmetry: measured lines under dashed predicted lines, below it their
    difference.

    The laws of scale and rescale take measured norms of gradients as input: they explain a run, and
    do not forecast it. That of translation has no input: without momentum the sums follow
    e^{-lambda t}, from which their motion is measured. Without weight decay and momentum, modified
    gradient flow is the recursion of SGD itself; such a figure tests the symmetries, and not the
    limit of continuous time.

    runs: one without BN, one with BN.

    Error: UsageError if a run has fewer than two records.
    """
    run_of = dict(zip(RUNS.presets, runs, strict=True))
    info_of = {role: run.info() for role, run in run_of.items()}
    curves = [_curves(run_of[panel.role], panel) for panel in PANELS]
    last_steps = {
        panel.role: int(shown.steps[-1]) for panel, shown in zip(PANELS, curves, strict=True)
    }
    lines = captions((info, last_steps[role]) for role, info in info_of.items())
    lines += _notes(list(info_of.values()))
    figure, panels = frame((7, 4.6), title(5, 0.0, list(info_of.values())), lines)
    grid = panels.add_gridspec(2, len(PANELS), height_ratios=(3, 1))
    for column, (panel, shown) in enumerate(zip(PANELS, curves, strict=True)):
        info = info_of[panel.role]
        silent = "flow" in info.unpredicted
        above = lowest = panels.add_subplot(grid[slice(None) if silent else 0, column])
        _draw_panel(above, panel, info, shown)
        if not silent:
            lowest = panels.add_subplot(grid[1, column], sharex=above)
            _draw_strip(lowest, shown)
            above.tick_params(labelbottom=False)
        label_steps(lowest, step_label(info))
    handles = [Line2D([], [], color=unit_colours(3)[1], linewidth=_WIDTH, label="measured")]
    if predicted := law_label(info_of.values()):
        handles.append(Line2D([], [], label=predicted, **PREDICTED))
    panels.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _notes(infos: Sequence[RunInfo]) -> list[str]:
    """What colours and strips are, and what a law can show in such runs."""
    colours = "Colours: rank of the final value, dark: lowest"
    if all("flow" in info.unpredicted for info in infos):
        return [f"{colours}."]
    notes = [
        f"{colours}. Strips: measured − predicted, each on its own scale. Scale and rescale are "
        "predicted from measured gradient norms: their laws explain a run, they do not forecast it."
    ]
    optims = [info.config.optim for info in infos]
    if not any(optim.weight_decay or getattr(optim, "momentum", 0) for optim in optims):
        notes.append(
            "At λ = 0 without momentum, the laws flow and discrete are the same: "
            "the figure tests the symmetries, not the limit of continuous time."
        )
    return notes


def _curves(run: RunDirectory, panel: Panel) -> Curves:
    """Those of at most _MOST_UNITS units, by rank of the final value."""
    group = _group(run.info(), panel.symmetry)
    assert group is not None, f"{run.path} was not chosen by role"
    columns = ["measured", "flow"]
    curves = drawable(run, unit_curves(run, panel.symmetry, group.group, columns))
    shown = _evenly_by_rank(curves.values["measured"][-1])
    return Curves(curves.steps, {name: curve[:, shown] for name, curve in curves.values.items()})


def _draw_panel(axes: Axes, panel: Panel, info: RunInfo, curves: Curves) -> None:
    _draw_units(axes, curves.steps, curves.values["measured"], _WIDTH)
    if "flow" in info.unpredicted:
        reason = textwrap.fill(info.unpredicted["flow"], 24)
        text = f"theory: not predicted\n{reason}"
        axes.text(0.04, 0.98, text, transform=axes.transAxes, va="top", fontsize=7)
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.5 * (high - low))  # room for the text above the lines
    else:
        add_lines(axes, curves.steps, curves.values["flow"], **PREDICTED)
    group = _group(info, panel.symmetry)
    assert group is not None
    count = f"{curves.values['measured'].shape[1]} of {group.units:,} {panel.units}"
    axes.set_title(f"{panel.symmetry.capitalize()}\n{count}")
    axes.set_ylabel(panel.quantity)


def _draw_strip(axes: Axes, curves: Curves) -> None:
    """What the prediction misses: too little to be seen in the panel."""
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    missed = curves.values["measured"] - curves.values["flow"]
    _draw_units(axes, curves.steps, missed, _STRIP_WIDTH)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel("Measured\n− predicted")


def _draw_units(
    axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], width: float
) -> None:
    add_lines(axes, steps, values, colors=unit_colours(values.shape[1]), linewidths=width)


def _evenly_by_rank(final: NDArray[np.float64]) -> NDArray[np.intp]:
    """At most _MOST_UNITS units, from the one that ends lowest to the one that ends highest."""
    ranks = np.linspace(0, len(final) - 1, min(len(final), _MOST_UNITS)).round().astype(int)
    units: NDArray[np.intp] = np.argsort(final)[ranks]
    return units
