"""The figures of scripts/networks_study.py, drawn from the tables of its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.figures.captions import common_caption, settings
from symrun.figures.style import HUES, PREDICTED, frame, label_steps, styled, unit_colours
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.matrices import matrices_of
from symrun.runs.network import GroupInfo
from symrun.runs.tables import unit_curves
from symrun.symmetry import Symmetry

if TYPE_CHECKING:
    from networks_study import Row

Array = NDArray[np.float64]

LAW = "discrete"
"""Without weight decay and momentum, which these figures do without, `flow` is the same law."""
LAW_LABEL = "predicted (law 3, without a fitted constant)"
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "bf16": 2.0**-24}
"""Of the weights, which bf16 keeps in float32."""
MARKS: dict[str, dict[str, Any]] = {
    "nothing moves": {"marker": "|", "markersize": 7},
    "flow": {"marker": "o", "markersize": 5.5, "fillstyle": "none"},
    "discrete": {"marker": "s", "markersize": 3, "fillstyle": "none"},
    "exact": {"marker": "x", "markersize": 4},
}


@styled
def convolutions(runs: Sequence[RunDirectory]) -> Figure:
    """Left: the difference of the squared norms of two convolutions, beside its start, in each run.
    Right: the squared norm of each of their filters, in the first run of the largest rate.

    Assumes: each filter is a unit of scale, as in front of BatchNorm.
    """
    infos = [run.info() for run in runs]
    first, second = two_alike(infos[0].groups_of(Symmetry.scale))
    rates = sorted({info.config.optim.lr for info in infos})
    lines = [varied_caption(infos, rates)]
    lines.append(
        f"Left: units of {first.group} and {second.group} together. Right: each by itself, "
        f"η = {rates[-1]:g}, seed {infos[0].config.seed}."
    )
    heading = f"Conserved under gradient flow: {title_of(infos[0])}"
    figure, panels = frame((7, 3.6), heading, lines)
    left, right = panels.subplots(1, 2)
    for run, info in zip(runs, infos, strict=True):
        steps, *sums = totals(run, first, second)
        draw(left, steps, [one - one[0] for one in sums], colour(rates, info))
    fastest = next(i for i, info in enumerate(infos) if info.config.optim.lr == rates[-1])
    for group, hue in ((first, HUES[0]), (second, HUES[1])):
        steps, *norms = measured_and_law(runs[fastest], group)
        draw(right, steps, [one - one[0] for one in norms], hue)
    left.set_title("Two convolutions: difference of squared norms")
    right.set_title("Each filter: squared norm")
    left.set_ylabel("Distance from the start")
    handles = [*rate_handles(rates), Line2D([], [], color=HUES[0], label=first.group)]
    handles.append(Line2D([], [], color=HUES[1], label=second.group))
    handles.append(Line2D([], [], label=LAW_LABEL, **PREDICTED))
    panels.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@styled
def matrices(runs: Sequence[RunDirectory]) -> Figure:
    """The distance of each conserved matrix from its start, in the Frobenius norm: a panel a place
    in the network, a line a head."""
    infos = [run.info() for run in runs]
    rates = sorted({info.config.optim.lr for info in infos})
    groups = infos[0].groups_of(Symmetry.general_linear)
    heading = f"Matrices that gradient flow conserves: {title_of(infos[0])}"
    size = len(groups[0].blocks[0])
    note = f"The Frobenius norm; a line is a head, its matrix {size}×{size}."
    figure, panels = frame((7, 5), heading, [varied_caption(infos, rates), note])
    grid = panels.subplots(-(-len(groups) // 2), 2, sharex=True, squeeze=False)
    for axes, group in zip(grid.flat, groups, strict=False):
        axes.set_title(group.group)
        for run, info in zip(runs, infos, strict=True):
            steps, *both = distances(run, group)
            draw(axes, steps, both, colour(rates, info))
    for axes in grid[:, 0]:
        axes.set_ylabel("Distance from the start")
    handles = [*rate_handles(rates), Line2D([], [], label=LAW_LABEL, **PREDICTED)]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


@styled
def overview(rows: "Sequence[Row]", names: Mapping[str, str]) -> Figure:
    """Residuals by network and optimiser, a panel a precision. names: of the networks, to show."""
    lines = [
        "Residual: the largest over units and records, relative to the unit's magnitude; 0 has no "
        "place. AdamW has no law but the identity, exact, which audits the measurement."
    ]
    heading = "The laws, on networks of reduced size"
    figure, panels = frame((7, 6), heading, lines)
    precisions = list(dict.fromkeys(row.precision for row in rows))
    places = list(dict.fromkeys((row.network, row.optimiser) for row in rows))
    families = list(dict.fromkeys(row.symmetry for row in rows))
    grid = panels.subplots(1, len(precisions), sharey=True, sharex=True, squeeze=False)
    for axes, precision in zip(grid.flat, precisions, strict=True):
        axes.set_xscale("log")
        axes.set_title(precision)
        axes.axvline(ROUNDING[precision], color="0.6", linewidth=0.7, linestyle=":")
        for row in rows:
            if row.precision == precision:
                place = places.index((row.network, row.optimiser))
                offset = (families.index(row.symmetry) + 0.5) / len(families) - 0.5
                draw_row(axes, row, place + 0.8 * offset)
        for place in range(3, len(places), 3):
            axes.axhline(place - 0.5, color="0.85", linewidth=0.6)
    labels = [
        f"{names[name]}\n{how}" if i % 3 == 1 else how for i, (name, how) in enumerate(places)
    ]
    grid[0, 0].set_yticks(range(len(places)), labels)
    grid[0, 0].invert_yaxis()
    panels.supxlabel("Residual", fontsize="medium")
    handles = [
        Line2D([], [], color=Symmetry(one).colour, linewidth=3, label=Symmetry(one).title)
        for one in families
    ]
    handles += [
        Line2D([], [], color="0.25", linestyle="", label=law, **MARKS[law]) for law in MARKS
    ]
    handles.append(Line2D([], [], color="0.6", linestyle=":", label="one rounding of the weights"))
    panels.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure


def draw_row(axes: Axes, row: "Row", height: float) -> None:
    """The change and the residual of each law, at `height`; zeros have no place."""
    for law, value in {"nothing moves": row.change, **row.residual}.items():
        if value > 0:
            axes.plot(value, height, color=Symmetry(row.symmetry).colour, **MARKS[law])


def draw(axes: Axes, steps: Array, pair: Sequence[Array], hue: Any) -> None:
    """|measured| in colour and |predicted| over it, [records, lines], without the first record."""
    measured, predicted = (np.abs(values[1:]) for values in pair)
    axes.set_yscale("log")
    axes.plot(steps[1:], measured, color=hue, linewidth=1.1, alpha=0.8)
    axes.plot(steps[1:], predicted, **PREDICTED)
    label_steps(axes, "Step $n$")


def measured_and_law(run: RunDirectory, group: GroupInfo) -> tuple[Array, Array, Array]:
    """steps [records]; measured and predicted [records, units]."""
    curves = unit_curves(run, group.symmetry.value, group.group, ["measured", LAW])
    return curves.steps, curves.values["measured"], curves.values[LAW]


def totals(run: RunDirectory, first: GroupInfo, second: GroupInfo) -> tuple[Array, Array, Array]:
    """steps, then measured and predicted differences of all units' sums, [records]."""
    steps, *ones = measured_and_law(run, first)
    _, *others = measured_and_law(run, second)
    measured, predicted = (
        two.sum(axis=1) - one.sum(axis=1) for one, two in zip(ones, others, strict=True)
    )
    return steps, measured, predicted


def distances(run: RunDirectory, group: GroupInfo) -> tuple[Array, Array, Array]:
    """steps [records]; the distance of each matrix from its start, as measured and as predicted,
    [records, matrices]. group: of general_linear."""
    steps, *others = measured_and_law(run, group)
    _, *diagonals = measured_and_law(run, replace(group, symmetry=Symmetry.rescale))
    both = []
    for diagonal, off in zip(diagonals, others, strict=True):
        norms = []
        for matrix in matrices_of(run.info(), group.group):
            entries = matrix.entries(diagonal, off)
            norms.append(matrix.norm(entries - entries[0]))
        both.append(np.stack(norms, axis=1))
    return steps, both[0], both[1]


def two_alike(groups: Sequence[GroupInfo]) -> tuple[GroupInfo, GroupInfo]:
    """The first two in a row of one shape, which in a ResNet are those of a block."""
    return next(
        (one, two)
        for one, two in pairwise(groups)
        if (one.units, one.entries) == (two.units, two.entries)
    )


def varied_caption(infos: Sequence[RunInfo], rates: Sequence[float]) -> str:
    """What all runs of a figure share, and their learning rates and seeds."""
    seeds = len({info.config.seed for info in infos})
    varied = ["SGD", f"η = {', '.join(f'{rate:g}' for rate in rates)}"]
    varied += [f"{seeds} seeds"] if seeds > 1 else []
    return f"{common_caption(infos, infos[0].last_step, varied)}."


def title_of(info: RunInfo) -> str:
    """Data and network, with its size: "20 classes of Tiny ImageNet, ResNet-18 at width 1/8"."""
    return settings([info]).replace(info.model.family, info.model.title)


def colour(rates: Sequence[float], info: RunInfo) -> Any:
    return unit_colours(len(rates))[rates.index(info.config.optim.lr)]


def rate_handles(rates: Sequence[float]) -> list[Line2D]:
    hues = unit_colours(len(rates))
    return [
        Line2D([], [], color=hue, label=f"η = {r:g}") for hue, r in zip(hues, rates, strict=True)
    ]
