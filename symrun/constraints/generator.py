"""The generator of a symmetry: the direction in which it moves the parameters of each unit.

    translation   v_u = 1 on A
    scale         v_u = theta on A
    rescale       v_u = theta on A2, -theta on A1        (the signs of Members.sign)

A vector over all parameters is a mapping from names to tensors of the parameters' shapes; what it
does not name is 0 there. Every parameter lies in one unit of a group at most, so the sum of all v_u
holds each of them, and a factor for each unit weighs them.

Source: Kunin et al. 2021, section 3.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from symrun.symmetry import Group, Members
from symrun.symmetry.lines import lines_by_unit, lines_of

Vector = Mapping[str, Tensor]


def generator(group: Group, parameters: Vector) -> Vector:
    """The sum of v_u over the units of `group`, at `parameters`."""
    if group.symmetry.degree == 1:
        parameters = {name: torch.ones_like(values) for name, values in parameters.items()}
    return signed(group, parameters)


def signed(group: Group, vector: Vector) -> Vector:
    """The entries of `vector` that lie in units of `group`, with the signs of its members."""
    inside = weighted(group, vector, torch.ones(group.units))
    return {one.parameter: one.sign * inside[one.parameter] for one in group.members}


def weighted(group: Group, vector: Vector, factors: Tensor) -> Vector:
    """`vector` with the entries of each unit times its factor, those in no unit times 0.

    factors: [units].
    """

    def weigh(members: Members) -> Tensor:
        values = vector[members.parameter]
        of_lines = F.pad(factors.to(values), (0, 1))[list(members.units)]  # -1 is the last, 0
        along = values.shape[1:] if members.axis else (-1, *[1] * (values.dim() - 1))
        return values * of_lines.view(along)

    return {members.parameter: weigh(members) for members in group.members}


def per_unit(group: Group, left: Vector, right: Vector) -> Tensor:
    """The inner product of two vectors within each unit: [units]."""

    def summed(members: Members) -> Tensor:
        products = left[members.parameter] * right[members.parameter]
        table = lines_by_unit(torch.tensor(members.units), group.units)
        if torch.equal(table.T.flatten(), torch.arange(len(members.units))):  # neighbours
            if members.axis == 1:
                products = products.reshape(len(products), group.units, -1).movedim(1, 0)
            return products.reshape(group.units, -1).sum(1)
        of_lines = F.pad(lines_of(members, products).sum(1), (0, 1))
        return of_lines[table.to(of_lines.device)].sum(0)

    return torch.stack([summed(members) for members in group.members]).sum(0)


def asymmetric(group: Group, vector: Vector, draws: Generator) -> Vector:
    """A random direction that is no symmetry: in each unit orthogonal to `vector` and as long.

    Random signs would do for wide layers, but for a bias of two classes half of all draws would be
    the symmetry itself.
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
