"""Conserved matrices, as of the heads of attention: how they look, how they drift, what is
predicted."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from symrun.analysis.comparison import CONSERVED
from symrun.analysis.report import scientific
from symrun.figures.captions import captions, law_label, left_out, settings, step_label
from symrun.figures.matrices import Evolution, chosen, title_of, which
from symrun.figures.measured import evenly_by_rank
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
from symrun.runs.info import RunInfo
from symrun.runs.matrices import Matrix, require_matrices
from symrun.runs.tables import Curves
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

_MOST_ENTRIES = 16
_WIDTH = 1.2
_DOTS = {"on the diagonal": Symmetry.rescale, "off the diagonal": Symmetry.general_linear}
"""The families of the entries of a matrix, the diagonal first, as they come."""


@dataclass(frozen=True)
class _Shown:
    """One matrix.

    ends: its entries in the first and the last record [2, entries]. curves: of some entries, their
    change since the start. motion: measured and predicted at the end, away from gradient flow, [2,
    entries]; None if no law predicts it. unexplained: 1 - R^2 of the whole matrix over the run;
    None as well if it did not move.
    """

    matrix: Matrix
    ends: Array
    curves: Curves
    motion: Array | None
    unexplained: float | None


RUNS = Roles(
    {"that recorded its matrices (track.matrices=full)": "heads"},
    lambda info, _: bool(info.groups_of(Symmetry.general_linear)),
)


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A row for each matrix that `chosen` takes: the matrix at the start and at the end, its
    entries over time with the prediction dashed over them, and the motion of all entries against
    the predicted one.

    Of a sample of entries there are no maps. Motion is what the optimiser adds to gradient flow, as
    in `symrun check`.

    Error: UsageError if the run has fewer than two records, or no entry but the diagonals.
    """
    (run,) = runs
    info = run.info()
    matrices = require_matrices(run)
    shown = chosen(run, matrices, partial(_shown, run))
    maps = all(one.matrix.is_whole for one in shown)
    heading = f"Conserved matrices, measured and predicted, on {settings([info])}"
    lines = captions([(info, max(int(one.curves.steps[-1]) for one in shown))])
    lines += [*left_out(info), _note([one.matrix for one in shown], matrices, maps)]
    figure, panels = frame((7.2 if maps else 5.2, 1.55 * len(shown) + 1.3), heading, lines)
    ratios = (1, 1, 1.5, 1.2) if maps else (1.5, 1.2)
    grid = panels.add_gridspec(len(shown), len(ratios), width_ratios=ratios)
    recorded = [_recorded(one.matrix) for one in shown]
    for row, (one, title, above) in enumerate(zip(shown, recorded, ["", *recorded], strict=False)):
        _draw_row(panels, grid, row, one, info, "" if title == above else title)
    handles = [Line2D([], [], color=unit_colours(3)[1], linewidth=_WIDTH, label="measured")]
    handles += [Line2D([], [], label=label, **PREDICTED) for label in [law_label([info])] if label]
    dots = _DOTS if any(one.motion is not None for one in shown) else {}
    handles += [
        Line2D([], [], color=symmetry.colour, marker="o", markersize=3, linewidth=0, label=where)
        for where, symmetry in dots.items()
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=4 if maps else 2)
    return figure


def _shown(run: RunDirectory, one: Evolution) -> _Shown:
    measured, flow = one.entries("measured"), one.predicted("flow")
    values = {"measured": measured} if flow is None else {"measured": measured, "flow": flow}
    drawn = evenly_by_rank(measured[-1] - measured[0], _MOST_ENTRIES)
    changes = {name: (curve - measured[0])[:, drawn] for name, curve in values.items()}
    curves = drawable(run, Curves(one.steps, changes))
    motion, unexplained = None, None
    if flow is not None:
        baseline = one.entries("baseline")
        motion = np.stack([measured[-1], flow[-1]]) - baseline[-1]
        missed, broken = (
            np.square(one.matrix.norm(measured - other)).sum() for other in (flow, baseline)
        )
        unexplained = float(missed / broken) if one.moved > CONSERVED else None
    return _Shown(one.matrix, measured[[0, -1]], curves, motion, unexplained)


def _note(shown: Sequence[Matrix], matrices: Sequence[Matrix], maps: bool) -> str:
    """Which matrices are drawn, and what the panels mean."""
    scale = " Both maps of a row have one scale." if maps else ""
    share = "is of the whole matrix, over the run"
    if not all(matrix.is_whole for matrix in shown):
        share += ", estimated from the entries that are recorded"
    return (
        f"{which(shown, matrices)}{scale} Colours: rank of the final change. Motion is the "
        "distance at the end from where gradient flow, with weight decay, would have the entry; "
        f"1 − R² {share}."
    )


def _recorded(matrix: Matrix) -> str:
    """A title for the motion of its entries."""
    if matrix.is_whole:
        return "All entries at the end"
    every = matrix.size * (matrix.size + 1) // 2
    return f"Entries at the end,\na sample of {len(matrix.rows):,} of {every:,}"


def _draw_row(
    panels: SubFigure, grid: GridSpec, row: int, one: _Shown, info: RunInfo, title: str
) -> None:
    """title: of the last panel, where it is not that of the row above."""
    places = [panels.add_subplot(grid[row, column]) for column in range(grid.ncols)]
    *maps, drift, motion = places
    if maps:
        _draw_maps(panels, maps, one)
    _draw_drift(drift, one)
    _draw_motion(motion, one, info)
    places[0].set_ylabel(title_of(one.matrix), fontsize=6.5)
    motion.set_title(title)
    if row == 0:
        for axes, words in zip(maps, ("At the start", "At the end"), strict=False):
            axes.set_title(words)
        drift.set_title("Change of entries")
    if row == grid.nrows - 1:
        label_steps(drift, step_label(info))
        motion.set_xlabel("Predicted motion")


def _draw_maps(panels: SubFigure, places: Sequence[Axes], one: _Shown) -> None:
    largest = float(np.abs(one.ends).max()) or 1.0
    for axes, entries in zip(places, one.ends, strict=True):
        image = axes.imshow(
            one.matrix.square(entries), cmap="RdBu_r", vmin=-largest, vmax=largest, rasterized=True
        )
        axes.set_xticks([])
        axes.set_yticks([])
    panels.colorbar(image, ax=places, shrink=0.9, ticks=MaxNLocator(3, symmetric=True))


def _draw_drift(axes: Axes, one: _Shown) -> None:
    measured = one.curves.values["measured"]
    colours = unit_colours(measured.shape[1])
    add_lines(axes, one.curves.steps, measured, colors=colours, linewidths=_WIDTH)
    if "flow" in one.curves.values:
        add_lines(axes, one.curves.steps, one.curves.values["flow"], **PREDICTED)
    axes.autoscale_view()
    label_steps(axes, "")
    axes.yaxis.set_major_locator(MaxNLocator(4))


def _draw_motion(axes: Axes, one: _Shown, info: RunInfo) -> None:
    """A point for each entry, those of the diagonal above the others; or why there is none."""
    if one.motion is None:
        (group,) = (g for g in info.groups_of(Symmetry.rescale) if g.group == one.matrix.group)
        axes.set_axis_off()
        reason = textwrap.fill(next(iter(info.silent(group).values())), 24)
        axes.text(0, 1, f"not predicted:\n{reason}", va="top", fontsize=7)
        return
    measured, predicted = one.motion
    parts = slice(one.matrix.size), slice(one.matrix.size, None)
    look: dict[str, Any] = {"s": 4, "linewidths": 0, "rasterized": True}
    for part, symmetry, order in zip(parts, _DOTS.values(), (3, 2), strict=True):
        axes.scatter(predicted[part], measured[part], color=symmetry.colour, zorder=order, **look)
    axes.axline((0, 0), slope=1, zorder=0, **PREDICTED)
    largest = 1.1 * float(np.abs(one.motion).max()) or 1.0
    axes.set(xlim=(-largest, largest), ylim=(-largest, largest))
    axes.xaxis.get_offset_text().set_visible(False)  # it is that of the other axis
    axes.set_ylabel("Measured motion")
    share = "conserved" if one.unexplained is None else f"1 − R² = {scientific(one.unexplained)}"
    axes.text(0.04, 0.96, share, transform=axes.transAxes, va="top", fontsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))
