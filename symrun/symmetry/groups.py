"""A symmetry group as a reducer over parameters: one conserved scalar per unit.

Units: a unit is one filter, one channel, one column; its parameters are a set A.

    translation   linear reducer       T = sum over A of theta                    degree 1
    scale         quadratic reducer    B(x, y) = sum over A of x y                degree 2
    rescale       quadratic reducer    the same, with sign -1 on what enters      degree 2

The conserved quantity is T, or Q = B(theta, theta). Scaling theta by c scales it by c^degree,
which is all that the laws need to know of a symmetry.

Source: Kunin et al. 2021, section 3.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property


class Symmetry(Enum):
    """The families of symmetry that the paper treats, each with all that is particular to it.

    degree: the degree of the conserved quantity in the parameters; 1 sums theta, 2 sums products.
    label: the axis label of the quantity in figures. colour: the colour in figures.
    """

    translation = "translation", 1, "Sum of parameters", "#009E73"
    scale = "scale", 2, "Squared norm", "#0072B2"
    rescale = "rescale", 2, "Squared norms, out − in", "#D55E00"

    degree: int
    label: str
    colour: str

    # The defaults are for type checkers, to which Symmetry("scale") is a call of this.
    def __new__(
        cls, value: object, degree: int = 0, label: str = "", colour: str = ""
    ) -> "Symmetry":
        symmetry = object.__new__(cls)
        symmetry._value_ = value
        symmetry.degree, symmetry.label, symmetry.colour = degree, label, colour
        return symmetry

    @property
    def title(self) -> str:
        """Its name at the head of a figure."""
        name: str = self.value
        return name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Members:
    """The rows or columns of one parameter that belong to the units of a group.

    A parameter [n, ...] is seen as a matrix [n, all else], a vector as [n, 1]. Its lines are the
    rows of that matrix if `axis` is 0, and its columns if `axis` is 1.

    units: the unit of each line, counted from 0; -1 for a line in no unit.
    length: entries in a line. sign: -1 for what enters a unit of rescale, 1 for all else.

    A convolution [8, 3, 3, 3] in front of a GroupNorm of 2 groups, and the 6 columns of a linear
    layer [10, 6] behind 3 channels that were flattened with 2 positions each:

    Example:
        Members("conv.weight", 0, (0, 0, 0, 0, 1, 1, 1, 1), length=27)
        Members("conv.bias", 0, (0, 0, 0, 0, 1, 1, 1, 1), length=1)
        columns("linear.weight", (10, 6), 3) == Members("linear.weight", 1, (0, 0, 1, 1, 2, 2), 10)
    """

    parameter: str
    axis: int
    units: tuple[int, ...]
    length: int
    sign: int = 1
    parts: int = 1

    @property
    def count(self) -> int:
        """One more than the highest unit that has a line here."""
        return 1 + max(self.units, default=-1)


def rows(parameter: str, shape: Sequence[int], sign: int = 1) -> Members:
    """Each row of a parameter of `shape` is a unit."""
    return Members(parameter, 0, tuple(range(shape[0])), math.prod(shape[1:]), sign)


def columns(parameter: str, shape: Sequence[int], units: int, sign: int = 1, parts: int = 1) -> Members:
    """The columns of a parameter of `shape`, divided into `units` units of adjacent columns.

    A unit is an input channel of a convolution with its flattened kernel, or the inputs of a linear
    layer that one channel was flattened into.
    """
    each, rest = divmod(math.prod(shape[1:]), units)
    assert rest == 0, f"{parameter}: columns that make no whole units"
    unit_of = tuple(column // each for column in range(units * each))
    return Members(parameter, 1, unit_of, shape[0], sign)


@dataclass(frozen=True)
class Group:
    """The units of one symmetry in one place of the network.

    `layers`: the modules whose parameters it holds, producer first.
    """

    symmetry: Symmetry
    name: str
    layers: tuple[str, ...]
    members: tuple[Members, ...]

    def __post_init__(self) -> None:
        named = {unit for members in self.members for unit in members.units} - {-1}
        assert named == set(range(self.units)), f"units without parameters: {self.name}"

    @cached_property
    def units(self) -> int:
        return max(members.count for members in self.members)

    @property
    def entries(self) -> int:
        """Parameters in the largest unit: the most that a sum over a unit runs over."""
        sizes: Counter[int] = Counter()
        for members in self.members:
            for unit, lines in Counter(members.units).items():
                sizes[unit] += lines * members.length
        del sizes[-1]
        return max(sizes.values())
