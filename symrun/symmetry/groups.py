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
from dataclasses import dataclass
from enum import Enum


class Symmetry(Enum):
    """The three families of symmetry that the paper treats."""

    translation = "translation"
    scale = "scale"
    rescale = "rescale"

    @property
    def degree(self) -> int:
        """Degree of the conserved quantity in the parameters."""
        return 1 if self is Symmetry.translation else 2


@dataclass(frozen=True)
class Block:
    """What one parameter contributes to a group: `shape` views it so that `unit_axis` counts units.

    Rows of a weight [out, in]: shape (out, in), unit_axis 0; its columns: unit_axis 1. Columns
    behind a flattened [channels, positions]: shape (out, channels, positions), unit_axis 1.
    """

    parameter: str
    shape: tuple[int, ...]
    unit_axis: int
    sign: int = 1

    @property
    def summed_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.shape)) if axis != self.unit_axis)


@dataclass(frozen=True)
class Group:
    """The units of one symmetry in one place of the network.

    `layers`: the modules whose parameters it holds, producer first.
    """

    symmetry: Symmetry
    name: str
    layers: tuple[str, ...]
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        assert len({block.shape[block.unit_axis] for block in self.blocks}) == 1, self

    @property
    def units(self) -> int:
        return self.blocks[0].shape[self.blocks[0].unit_axis]

    @property
    def entries(self) -> int:
        """Parameters in each unit: what a sum over it runs over."""
        return sum(math.prod(block.shape) for block in self.blocks) // self.units
