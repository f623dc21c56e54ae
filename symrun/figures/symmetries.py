"""Units of every family of symmetry that a run's network has, measured and predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symrun.analysis.comparison import CONSERVED, Comparison, comparisons
from symrun.figures.captions import captions, settings
from symrun.figures.layers import shortened
from symrun.figures.measured import (
    draw_legend,
    draw_units,
    evenly_by_rank,
    grid_of,
    notes,
    rows_and_columns,
)
from symrun.figures.selection import Roles
from symrun.figures.style import drawable, frame, styled
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import Curves
from symrun.symmetry import Symmetry

_MOST_UNITS = 8
_MOST_KINDS = 2
"""Panels of one family."""
_STREAM = 3
"""A group of at least so many layers spans a residual stream, or what several layers read."""
_NAME = 29  # characters: as many as stand above a panel

_Kind = tuple[str, frozenset[str], bool, bool]


@dataclass(frozen=True)
class _Shown:
    """The units of one group that are drawn. rank: by which groups of a family are chosen.

    curves: changes since the start, [records, at most _MOST_UNITS]. rounding: the largest change
    that counts as none.
    """

    group: GroupInfo
    rank: tuple[float, int]
    curves: Curves
    rounding: float


RUNS = Roles({"with a symmetry": "fig1"}, lambda info, _: bool(info.groups))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """Up to two panels for each family: changes since the start, the prediction dashed over them.

    A panel is a group. Groups are of one kind if they have the same family and kinds of layers, and
    both or neither span a residual stream; of each kind that group is drawn whose median unit moved
    most. A group in which no unit moved is drawn on an axis of 100 float32 roundings.

    Error: UsageError if the run has fewer than two records.
    """
    (run,) = runs
    info = run.info()
    shown = _chosen(run, info)
    rows, columns = rows_and_columns(len(shown))
    lines = captions([(info, max(int(one.curves.steps[-1]) for one in shown))])
    lines += [*notes([info]), _left_out(info, len(shown))]
    heading = f"Conserved quantities, measured and predicted, on {settings([info])}"
    figure, panels = frame((max(2.35 * columns, 5), 3.1 * rows + 1.5), heading, lines)
    grid = grid_of(panels, rows, columns)
    for place, one in enumerate(shown):
        axes = draw_units(panels, (grid, *divmod(place, columns)), info, one.group, one.curves)
        _describe(axes, one)
    draw_legend(panels, [info])
    return figure


def _chosen(run: RunDirectory, info: RunInfo) -> list[_Shown]:
    """Of each kind of group the one that moved most, at most _MOST_KINDS of a family."""
    best: dict[_Kind, _Shown] = {}
    for group, compared in zip(info.groups, comparisons(run), strict=True):
        one, kind = _shown(run, group, compared), _kind(info, group)
        if kind not in best or one.rank > best[kind].rank:
            best[kind] = one
    chosen = []
    for symmetry in sorted(Symmetry, key=lambda symmetry: -symmetry.degree):
        family = [one for one in best.values() if one.group.symmetry is symmetry]
        chosen += sorted(family, key=lambda one: one.rank, reverse=True)[:_MOST_KINDS]
    return chosen


def _shown(run: RunDirectory, group: GroupInfo, compared: Comparison) -> _Shown:
    start = compared.measured[0]
    values = {"measured": compared.measured - start}
    if "flow" in compared.predicted:
        values["flow"] = compared.predicted["flow"] - start
    drawn = evenly_by_rank(values["measured"][-1], _MOST_UNITS)
    curves = Curves(compared.steps, values).of_units(drawn)
    moved = float(np.median(compared.motion)) if compared.moved.any() else 0.0
    rounding = CONSERVED * float(compared.magnitude[:, drawn].max())
    rank = moved, group.units
    return _Shown(group, rank, drawable(run, curves), rounding)


def _kind(info: RunInfo, group: GroupInfo) -> _Kind:
    kinds = {layer.layer: layer.kind for layer in info.layers}
    own = frozenset(kinds.get(layer, "") for layer in group.layers)
    return group.symmetry.value, own, len(group.layers) >= _STREAM, group.units > 1


def _describe(axes: Axes, one: _Shown) -> None:
    count, group = one.curves.values["measured"].shape[1], one.group
    heading = f"{group.symmetry.title}: {count} of {group.units:,} unit{'s' * (group.units > 1)}"
    axes.set_title(f"{heading}\n{shortened(group.group, _NAME)}")
    axes.set_ylabel(f"{group.symmetry.label},\nchange since the start")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -one.rounding), max(high, one.rounding))


def _left_out(info: RunInfo, shown: int) -> str:
    """How many groups are not drawn, and why these are."""
    others = len(info.groups) - shown
    if not others:
        return "These are all groups of the network."
    return (
        f"These are {shown} of {len(info.groups)} groups: of each kind the one whose median unit "
        f"moved most; {others} {'are' if others > 1 else 'is'} left out."
    )
