"""The generator of a symmetry: the direction in which it moves the parameters of each unit.

    translation   v_u = 1 on A
    scale         v_u = theta on A
    rescale       v_u = theta on A2, -theta on A1        (the signs of Members.sign)

and of an entry of a matrix, with the same signs, v_ab = theta_b / 2 on the lines of a and
theta_a / 2 on those of b: the derivative of S theta, S being symmetric.

A vector over all parameters is a mapping from names to tensors of the parameters' shapes; what it
does not name is 0 there. A parameter can lie in several members of a group, its rows in one and its
columns in another. What these make of an entry is added up: it may lie in two units, and where it
is in one unit twice, with opposite signs, nothing of it is left.

Source: Kunin et al. 2021, section 3.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from symrun.symmetry.groups import Group, Members
from symrun.symmetry.lines import entries_of_units, lines_by_unit, lines_of, with_entries

Vector = Mapping[str, Tensor]


def generator(group: Group, parameters: Vector, factors: Tensor) -> Vector:
    """The sum of factors[u] v_u over the units u of `group`, at `parameters`. factors: [units]."""
    return weighted(group, unsigned_generator(group, parameters), factors, signs=True)


def unsigned_generator(group: Group, parameters: Vector) -> Vector:
    """What the symmetry adds to each parameter, but for the sign: itself, or 1 for translation."""
    if group.symmetry.degree == 2:
        return parameters
    return {name: torch.ones_like(values) for name, values in parameters.items()}


def entries_of(group: Group, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Which entries of each parameter the symmetry moves: bool, in the shapes of the parameters.

    Example:
        shapes = {name: p.shape for name, p in model.named_parameters()}
        entries_of(structure.groups[0], shapes)
    """
    names = {members.parameter for members in group.members}
    ones = {name: torch.ones(()).expand(*shapes[name]) for name in names}
    # Random, so that what an entry has of two units does not cancel by chance
    factors = 1 + torch.rand(group.units, generator=Generator().manual_seed(0))
    added = weighted(group, ones, factors, signs=True)
    return {name: values != 0 for name, values in added.items()}


def weighted(group: Group, vector: Vector, factors: Tensor, signs: bool = False) -> Vector:
    """`vector` with the entries of each unit times its factor, those in no unit times 0.

    factors: [units]. signs: whether each entry is also multiplied by the sign of its member.

    Of entries of a matrix: the lines of the diagonal's units, mixed by the symmetric matrix with
    half of `factors` off its diagonal.
    """
    if group.pairs:
        return _mixed(group, vector, factors, signs)
    found: dict[str, Tensor] = {}
    for members in group.members:
        values = vector[members.parameter]
        of_lines = F.pad(factors.to(values), (0, 1))[list(members.units)]  # -1 is the last, 0
        factor = _of_entries(members, of_lines, values.shape) * (members.sign if signs else 1)
        found[members.parameter] = found.get(members.parameter, 0) + factor
    return {name: vector[name] * factor for name, factor in found.items()}


def _mixed(group: Group, vector: Vector, factors: Tensor, signs: bool) -> Vector:
    matrix = torch.zeros(group.rows, group.rows, dtype=factors.dtype, device=factors.device)
    one, other = torch.tensor(group.pairs, device=factors.device).T
    matrix[one, other] = matrix[other, one] = factors / 2
    found: dict[str, Tensor] = {}
    for members in group.members:
        values, sign = vector[members.parameter], members.sign if signs else 1
        added = torch.zeros_like(values)
        for block in group.blocks:
            inside = matrix[list(block)][:, list(block)].to(values)
            mixed = sign * inside @ entries_of_units(members, values, block)
            added = with_entries(members, added, block, mixed)
        found[members.parameter] = found.get(members.parameter, 0) + added
    return found


def _of_entries(members: Members, of_lines: Tensor, shape: torch.Size) -> Tensor:
    """One number for each line, [lines], as one for each entry of `shape`, or broadcast to it."""
    if members.parts > 1:
        of_lines = of_lines.view(members.parts, 1, -1).expand(-1, members.length, -1)
        return of_lines.reshape(shape)
    return of_lines.view(shape[1:] if members.axis else (*shape[:1], *[1] * len(shape[1:])))


def per_unit(group: Group, left: Vector, right: Vector, signs: bool = False) -> Tensor:
    """The reducer B of two vectors in each unit: [units].

    signs: without them entries have the weight |sign|, which makes B an inner product. Of entries
    of a matrix that is the mean over both units: B's absolute value is at most the product of
    roots.
    """
    if group.pairs and signs:
        return _inner_products(group, left, right)

    def summed(members: Members) -> Tensor:
        products = left[members.parameter] * right[members.parameter]
        table = lines_by_unit(torch.tensor(members.units), group.rows)
        neighbours = torch.equal(table.T.flatten(), torch.arange(len(members.units)))
        if neighbours and members.parts == 1:
            if members.axis == 1:
                products = products.reshape(members.length, group.rows, -1).movedim(1, 0)
            return products.reshape(group.rows, -1).sum(1)
        of_lines = F.pad(lines_of(members, products).sum(1), (0, 1))
        return of_lines[table.to(of_lines.device)].sum(0)

    weights = [one.sign if signs else abs(one.sign) for one in group.members]
    sums = [weight * summed(one) for weight, one in zip(weights, group.members, strict=True)]
    of_units = torch.stack(sums).sum(0)
    return of_units[torch.tensor(group.pairs)].mean(1) if group.pairs else of_units


def _inner_products(group: Group, left: Vector, right: Vector) -> Tensor:
    """B_ab of each pair: [pairs]."""
    first = left[group.members[0].parameter]
    matrix = first.new_zeros(group.rows, group.rows)
    for block in group.blocks:
        products = first.new_zeros(len(block), len(block))
        for members in group.members:
            one, other = (
                entries_of_units(members, vector[members.parameter], block)
                for vector in (left, right)
            )
            products += members.sign * one @ other.T
        places = torch.tensor(block, device=first.device)
        matrix[places[:, None], places] = (products + products.T) / 2
    one, other = torch.tensor(group.pairs, device=first.device).T
    return matrix[one, other]


def asymmetric(group: Group, vector: Vector, draws: Generator) -> Vector:
    """A random direction that is no symmetry: in each unit orthogonal to `vector` and as long.

    Random signs would do for wide layers, but for a bias of two classes half of all draws would be
    the symmetry itself.

    Assumes: signs of 1 and -1, and no entry in two units, as in translation.
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
