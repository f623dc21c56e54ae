"""A symmetry group as a reducer over parameters: one conserved scalar per unit.

Units: a unit is one filter, one channel, one column; its parameters are a set A.

    translation   linear reducer       T = sum over A of theta                    degree 1
    scale         quadratic reducer    B(x, y) = sum over A of x y                degree 2
    rescale       quadratic reducer    the same, with sign -1 on what enters      degree 2

A symmetry that scales theta_i by e^{s a_i} has the reducer B(x, y) = sum over A of a_i x_i y_i:
`sign` holds a_i, which is another integer than 1 and -1 behind an activation of higher degree.

    general_linear   B_ab(x, y) = sum over i of a_i (x_ai y_bi + x_bi y_ai) / 2     degree 2

Where any invertible matrix may mix some units, as between the queries and keys of a head, a whole
matrix is conserved. Its diagonal is rescale; an entry off it is the reducer B_ab of two units a and
b, whose parameters are paired in their order, i.

    homogeneity      quadratic reducer    the outputs scale too: balanced, not conserved

The conserved quantity is T, or Q = B(theta, theta). Scaling theta by c scales it by c^degree,
which is all that the laws need to know of a symmetry.

Source: Kunin et al. 2021, section 3; Marcotte et al. 2023 and 2025 for matrices.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from itertools import combinations


class Symmetry(Enum):
    """The families of symmetry, each with all that is particular to it. The paper treats the first
    three.

    degree: the degree of the conserved quantity in the parameters; 1 sums theta, 2 sums products.
    label: the axis label of the quantity in figures. colour: the colour in figures.
    """

    translation = "translation", 1, "Sum of parameters", "#009E73"
    scale = "scale", 2, "Squared norm", "#0072B2"
    rescale = "rescale", 2, "Squared norms, out − in", "#D55E00"
    general_linear = "general_linear", 2, "Inner products, out − in", "#CC79A7"
    homogeneity = "homogeneity", 2, "Weighted squared norm", "#56B4E9"

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

    A parameter [n, ...] is seen as a matrix [n, all else], a vector as [n, 1], a scalar as [1, 1].
    Its lines are the rows of that matrix if `axis` is 0, and its columns if `axis` is 1. The rows
    may be cut into `parts` of n / parts rows each, which have columns of their own.

    units: the unit of each line, counted from 0 and part by part; -1 for a line in no unit.
    length: entries in a line. sign: the weight of these entries in the reducer, which is the
    exponent with which the symmetry scales them: -1 for what enters a unit of rescale, 1 for all
    else, and -2 or 3 where an activation is of that degree.

    A convolution [8, 3, 3, 3] in front of a GroupNorm of 2 groups; the 6 columns of a linear layer
    [10, 6] behind 3 channels that were flattened with 2 positions each; and the 4 input channels of
    a convolution [6, 2, 1, 1] of 2 groups:

    Example:
        Members("conv.weight", 0, (0, 0, 0, 0, 1, 1, 1, 1), length=27)
        Members("conv.bias", 0, (0, 0, 0, 0, 1, 1, 1, 1), length=1)
        columns("linear.weight", (10, 6), 3) == Members("linear.weight", 1, (0, 0, 1, 1, 2, 2), 10)
        columns("grouped.weight", (6, 2, 1, 1), 4, parts=2).units == (0, 1, 2, 3)
    """

    parameter: str
    axis: int
    units: tuple[int, ...]
    length: int
    sign: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        assert self.sign != 0, f"{self.parameter}: entries of weight 0 belong to no unit"
        assert self.axis == 1 or self.parts == 1, f"{self.parameter}: only columns have parts"
        assert len(self.units) % self.parts == 0, f"{self.parameter}: parts of unlike width"

    @property
    def count(self) -> int:
        """One more than the highest unit that has a line here."""
        return 1 + max(self.units, default=-1)


def rows(parameter: str, shape: Sequence[int], sign: int = 1) -> Members:
    """Each row of a parameter of `shape` is a unit."""
    return Members(parameter, 0, tuple(range(math.prod(shape[:1]))), math.prod(shape[1:]), sign)


def columns(
    parameter: str, shape: Sequence[int], units: int, sign: int = 1, parts: int = 1
) -> Members:
    """The columns of a parameter of `shape`, divided into `units` units of adjacent columns.

    A unit is an input channel of a convolution with its flattened kernel, or the inputs of a linear
    layer that one channel was flattened into. The weight of a convolution of several groups has as
    many parts, and its units are counted from group to group.
    """
    each, rest = divmod(parts * math.prod(shape[1:]), units)
    assert rest == 0, f"{parameter}: columns that make no whole units"
    length, rest = divmod(math.prod(shape[:1]), parts)
    assert rest == 0, f"{parameter}: rows that make no {parts} parts"
    unit_of = tuple(column // each for column in range(units * each))
    return Members(parameter, 1, unit_of, length, sign, parts)


@dataclass(frozen=True)
class Group:
    """The units of one symmetry in one place of the network.

    `layers`: the modules whose parameters it holds, producer first.
    blocks: the sets of units of lines that any invertible matrix may mix. pairs: the units of a
    group of general_linear, row a and column b of an entry each, a < b, as units of lines.
    outputs: of a group of homogeneity, the exponent with which the network's outputs scale.
    """

    symmetry: Symmetry
    name: str
    layers: tuple[str, ...]
    members: tuple[Members, ...]
    blocks: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    outputs: int = 0

    def __post_init__(self) -> None:
        named = {unit for members in self.members for unit in members.units} - {-1}
        assert named == set(range(self.rows)), f"units without parameters: {self.name}"
        alike = all(abs(members.sign) == 1 for members in self.members)
        assert alike or self.symmetry.degree == 2, f"a sum with weights: {self.name}"
        mixing = self.symmetry is Symmetry.general_linear
        assert mixing == bool(self.pairs), f"pairs of units: {self.name}"
        balanced = self.symmetry is Symmetry.homogeneity
        assert balanced == (self.outputs > 0), f"an exponent of the outputs: {self.name}"

    @property
    def rows(self) -> int:
        """The units that lines belong to: those of a matrix's diagonal in general_linear."""
        return max(members.count for members in self.members)

    @cached_property
    def units(self) -> int:
        return len(self.pairs) or self.rows

    @property
    def entries(self) -> int:
        """Parameters in the largest unit: the most that a sum over a unit runs over. Those of both
        units of a pair count."""
        sizes: Counter[int] = Counter()
        for members in self.members:
            for unit, lines in Counter(members.units).items():
                sizes[unit] += lines * members.length
        del sizes[-1]
        if self.pairs:
            return max(sizes[one] + sizes[other] for one, other in self.pairs)
        return max(sizes.values())


def entries_of_blocks(blocks: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Row and column of each entry above the diagonal of matrices with these rows, in order.

    Example: entries_of_blocks([(0, 2, 5), (1, 3)]) == [(0, 2), (0, 5), (2, 5), (1, 3)]
    """
    return [pair for block in blocks for pair in combinations(block, 2)]


def off_diagonal(group: Group, sampled: bool = False, seed: int = 0) -> Group | None:
    """The entries off the diagonal of the conserved matrices whose diagonals `group` holds; None if
    there are none.

    sampled: as many of each matrix as it has rows, drawn from `seed` and the name of the group.

    Example: off_diagonal(Group(Symmetry.rescale, "a", ("a",), (rows("a", (2, 3)),), ((0, 1),)))
    """
    pairs = _sampled(group, seed) if sampled else entries_of_blocks(group.blocks)
    if not pairs:
        return None
    return replace(group, symmetry=Symmetry.general_linear, pairs=tuple(pairs))


def _sampled(group: Group, seed: int) -> list[tuple[int, int]]:
    draws = random.Random(f"{seed} {group.name}")
    pairs: list[tuple[int, int]] = []
    for block in group.blocks:
        count = math.comb(len(block), 2)
        ranks = sorted(draws.sample(range(count), min(len(block), count)))
        places = [_pair(rank, len(block)) for rank in ranks]
        pairs += [(block[first], block[second]) for first, second in places]
    return pairs


def _pair(rank: int, count: int) -> tuple[int, int]:
    """What stands at `rank` among the combinations of two of range(count), in their order."""
    left = math.comb(count, 2) - 1 - rank
    back = (1 + math.isqrt(1 + 8 * left)) // 2
    return count - 1 - back, count - 1 - (left - math.comb(back, 2))
