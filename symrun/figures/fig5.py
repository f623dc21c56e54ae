"""Fig. 5: how conservation breaks, measured and as the paper's theory predicts it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
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
_WIDTH = 1.8


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
    """A panel for each symmetry: measured lines, coloured by rank, under dashed predicted lines.

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
    figure, panels = frame((7, 3.4), title(5, 0.0, list(info_of.values())), lines)
    for axes, panel, shown in zip(panels.subplots(1, 3), PANELS, curves, strict=True):
        _draw_panel(axes, panel, info_of[panel.role], shown)
    handles = [Line2D([], [], color=unit_colours(3)[1], linewidth=_WIDTH, label="measured")]
    if predicted := law_label(info_of.values()):
        handles.append(Line2D([], [], label=predicted, **PREDICTED))
    panels.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _curves(run: RunDirectory, panel: Panel) -> Curves:
    group = _group(run.info(), panel.symmetry)
    assert group is not None, f"{run.path} was not chosen by role"
    columns = ["measured", "flow"]
    return drawable(run, unit_curves(run, panel.symmetry, group.group, columns))


def _draw_panel(axes: Axes, panel: Panel, info: RunInfo, curves: Curves) -> None:
    measured, flow = curves.values["measured"], curves.values["flow"]
    shown = _evenly_by_rank(measured[-1])
    colours = unit_colours(len(shown))
    add_lines(axes, curves.steps, measured[:, shown], colors=colours, linewidths=_WIDTH)
    if "flow" in info.unpredicted:
        reason = textwrap.fill(info.unpredicted["flow"], 24)
        text = f"theory: not predicted\n{reason}"
        axes.text(0.04, 0.98, text, transform=axes.transAxes, va="top", fontsize=7)
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.5 * (high - low))  # room for the text above the lines
    else:
        add_lines(axes, curves.steps, flow[:, shown], **PREDICTED)
    count = f"{len(shown)} of {measured.shape[1]:,} {panel.units}"
    axes.set_title(f"{panel.symmetry.capitalize()}\n{count}")
    axes.set_ylabel(panel.quantity)
    label_steps(axes, step_label(info))


def _evenly_by_rank(final: NDArray[np.float64]) -> NDArray[np.intp]:
    """At most _MOST_UNITS units, from the one that ends lowest to the one that ends highest."""
    ranks = np.linspace(0, len(final) - 1, min(len(final), _MOST_UNITS)).round().astype(int)
    units: NDArray[np.intp] = np.argsort(final)[ranks]
    return units
