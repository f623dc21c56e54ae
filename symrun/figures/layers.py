"""Curves of whole layers: a symmetry's quantity, measured and predicted, as means over the units.

Sums would hide the layers that have few units."""

import re
from os.path import commonprefix
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.figures.style import drawable
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import Curves, unit_curves
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]

HIDDEN = (Symmetry.scale, Symmetry.rescale)
"""The symmetries of hidden layers whose means say something: the entries off the diagonal of a
matrix have either sign, and homogeneity has one unit for all layers."""

_COMMON = 10  # characters, which tell the blocks of a network apart
_NAME = 28  # characters: two longer names do not fit side by side


def groups_of(info: RunInfo, symmetry: str) -> list[str]:
    """Names of the groups of `symmetry` in the order of the forward pass."""
    return [group.group for group in info.groups_of(symmetry)]


def hidden_symmetries(info: RunInfo) -> list[str]:
    """The symmetries of HIDDEN that this run has."""
    return [symmetry.value for symmetry in HIDDEN if groups_of(info, symmetry.value)]


def layer_means(run: RunDirectory, symmetry: str) -> Curves:
    """The mean over the units of each group of `symmetry`.

    Columns `measured` and `flow`, [records, groups]; NaN where the law is silent.

    Error: UsageError if the run has fewer than two records.
    """
    columns = ("measured", "flow")
    steps: list[NDArray[np.int64]] = []
    means: list[list[Array]] = []
    for group in groups_of(run.info(), symmetry):
        curves = unit_curves(run, symmetry, group, columns)
        steps.append(curves.steps)
        means.append([curves.values[column].mean(axis=1) for column in columns])
    common = min(map(len, steps))  # a run that goes on has written more meanwhile
    values = {
        name: np.stack([curve[:common] for curve in column], axis=1)
        for name, *column in zip(columns, *means, strict=True)
    }
    return drawable(run, Curves(steps[0][:common], values))


def depth_colours(count: int) -> Array:
    """A colour for each of `count` layers, from the input (dark) to the output; [count, 4].

    The darkest is not so dark that black dashes would vanish on it.
    """
    colours: Array = matplotlib.colormaps["viridis"](np.linspace(0.2, 0.95, count))
    return colours


def shortened(name: str, most: int) -> str:
    """A group's name in at most `most` characters. If need be, modules that both sides begin with
    are named once, and then the end of each side is left out.

    Example: shortened("bn1, bn2, bn3 -> conv1, conv2", 19) == "bn1, b… -> conv1, …"
    """
    if len(name) <= most:
        return name
    left, arrow, right = name.partition(" -> ")
    common, once = without_common(name) if arrow else ("", name)
    if common:
        room = most - len(f": {once}")
        enough = room >= min(len(common), _COMMON)
        return f"{_cut(common, room)}: {once}" if enough else shortened(once, most)
    room = most - len(arrow)
    half = room // 2 if arrow else room
    of_left = max(half, room - len(right)) if arrow else room
    return f"{_cut(left, of_left)}{arrow}{_cut(right, room - min(len(left), of_left))}"


def without_common(name: str) -> tuple[str, str]:
    """The modules that all layers of a group are in, and the group's name without them.

    Example: without_common("a.b.q -> a.b.k, a.b.v") == ("a.b", "q -> k, v")
    """
    layers = [layer.split(".") for layer in re.split(", | -> ", name)]
    common = ".".join(commonprefix([layer[:-1] for layer in layers]))
    rest = re.sub(rf"(^|, | -> ){re.escape(common)}\.", r"\1", name) if common else name
    return common, rest


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def depth_handles(groups: list[str], **look: Any) -> list[Line2D]:
    """For a legend: the first, the middle and the last layer."""
    colours = depth_colours(len(groups))
    shown = {0: "first", len(groups) // 2: "middle", len(groups) - 1: "last"}
    return [
        Line2D(
            [], [], color=colours[place], label=f"{word}: {shortened(groups[place], _NAME)}", **look
        )
        for place, word in sorted(shown.items())
    ]
