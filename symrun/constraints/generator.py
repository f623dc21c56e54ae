"""The generator of a symmetry: the direction in which it moves the parameters of each unit.

    translation   v_u = 1 on A
    scale         v_u = theta on A
    rescale       v_u = theta on A2, -theta on A1        (the signs of Block.sign)

A vector over all parameters is a mapping from names to tensors of the parameters' shapes; what it
does not name is 0 there. Every parameter lies in one unit of a group at most, so the sum of all v_u
holds each of them, and a factor for each unit weighs them.

Source: Kunin et al. 2021, section 3.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from symrun.symmetry import Block, Group, Symmetry

Vector = Mapping[str, Tensor]


def generator(group: Group, parameters: Vector) -> Vector:
    """The sum of v_u over the units of `group`, at `parameters`."""
    if group.symmetry is Symmetry.translation:
        parameters = {name: torch.ones_like(values) for name, values in parameters.items()}
    return signed(group, parameters)


def signed(group: Group, vector: Vector) -> Vector:
    """The entries of `vector` that lie in `group`, with the signs of its blocks."""
    return {block.parameter: block.sign * vector[block.parameter] for block in group.blocks}


def weighted(group: Group, vector: Vector, factors: Tensor) -> Vector:
    """`vector` with the entries of each unit times its factor. factors: [units]."""

    def weigh(values: Tensor, block: Block) -> Tensor:
        along = [-1 if axis == block.unit_axis else 1 for axis in range(len(block.shape))]
        return (values.reshape(block.shape) * factors.view(along)).reshape(values.shape)

    return {block.parameter: weigh(vector[block.parameter], block) for block in group.blocks}


def per_unit(group: Group, left: Vector, right: Vector) -> Tensor:
    """The inner product of two vectors within each unit: [units]."""

    def summed(block: Block) -> Tensor:
        products = (left[block.parameter] * right[block.parameter]).reshape(block.shape)
        return products.movedim(block.unit_axis, 0).reshape(group.units, -1).sum(1)

    return torch.stack([summed(block) for block in group.blocks]).sum(0)


def asymmetric(group: Group, vector: Vector, draws: Generator) -> Vector:
    """A random direction that is no symmetry, for comparison: in each unit orthogonal to `vector`
    and as long.

    Random signs on the entries would do for wide layers; but of two entries, a bias of two
    classes, they leave half of all draws the symmetry itself.
    """
    noise = {
        name: torch.randn(values.shape, dtype=values.dtype, generator=draws).to(values.device)
        for name, values in vector.items()
    }
    along = per_unit(group, noise, vector) / per_unit(group, vector, vector)
    parallel = weighted(group, vector, along)
    across = {name: noise[name] - parallel[name] for name in vector}
    stretch = per_unit(group, vector, vector) / per_unit(group, across, across)
    return weighted(group, across, stretch.sqrt())
