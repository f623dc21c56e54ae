"""Groups of units, from the solution of the equations: a unit for each free variable."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import gcd, prod

import torch

from symrun.symmetry.groups import Group, Members, Symmetry, columns
from symrun.symmetry.linear_system import Combination, common_denominator
from symrun.symmetry.parameters import Transformed, in_forward_order

_NAMED = 3
"""Layers that a group's name lists on each side; of more, it lists the first and counts them."""

Entry = tuple[int, int, int, Fraction]
"""A parameter's number, the number of its block, a place in it, and the exponent there."""

Key = tuple[int, int, int]
"""A parameter's number among those that are transformed, the number of its block, an exponent."""


def groups_of(
    parameters: Sequence[Transformed], solution: Sequence[Combination]
) -> tuple[Group, ...]:
    """Scale, rescale, then translation, each in forward order."""
    used = in_forward_order(parameters)
    grouped: dict[frozenset[Key], list[dict[Key, list[int]]]] = {}
    for unit in _units(used, solution):
        grouped.setdefault(frozenset(unit), []).append(unit)
    in_order = sorted(grouped.values(), key=lambda units: next(iter(units[0]))[:2])
    groups = [_group(used, units) for units in in_order]
    groups.sort(key=lambda group: group.symmetry is Symmetry.rescale)
    return (*_distinct([*groups, *_translations(used, solution)]),)


def _units(
    used: Sequence[Transformed], solution: Sequence[Combination]
) -> Iterable[dict[Key, list[int]]]:
    """Of each unit, the places in each block that have an exponent, by exponent."""
    raw: dict[int, list[Entry]] = {}
    for number, parameter in enumerate(used):
        for part, block in enumerate(parameter.scales):
            for place, variable in enumerate(block.variables.flatten().tolist()):
                for free, exponent in solution[variable].items():
                    raw.setdefault(free, []).append((number, part, place, exponent))
    for free in sorted(raw):
        entries = _settled(used, raw[free])
        if not entries:
            continue
        factor = common_denominator(exponent for *_, exponent in entries)
        exponents = [int(exponent * factor) for *_, exponent in entries]
        shared = gcd(*exponents)
        mixed = min(exponents) < 0 < max(exponents)
        if (exponents[0] > 0) is mixed:
            shared = -shared
        unit: dict[Key, list[int]] = {}
        for (number, part, place, _), exponent in zip(entries, exponents, strict=True):
            unit.setdefault((number, part, exponent // shared), []).append(place)
        yield unit


def _settled(used: Sequence[Transformed], entries: list[Entry]) -> list[Entry]:
    """The same exponents of each parameter, where all of a block that is not the parameter's first
    has one: its first block takes that up."""
    blocks: dict[tuple[int, int], dict[int, Fraction]] = {}
    for number, part, place, exponent in entries:
        blocks.setdefault((number, part), {})[place] = exponent
    moved = [
        (number, part)
        for (number, part), places in blocks.items()
        if part > 0
        and len(places) == used[number].scales[part].variables.numel()
        and len(set(places.values())) == 1
    ]
    if not moved:
        return entries
    for number, part in moved:
        exponent = next(iter(blocks.pop((number, part)).values()))
        first = blocks.setdefault((number, 0), {})
        for place in range(used[number].scales[0].variables.numel()):
            first[place] = first.get(place, Fraction(0)) + exponent
    return [
        (*key, place, exponent)
        for key in sorted(blocks)
        for place, exponent in sorted(blocks[key].items())
        if exponent
    ]


def _group(used: Sequence[Transformed], units: list[dict[Key, list[int]]]) -> Group:
    """The group of units that move the same blocks."""
    keys = list(units[0])  # in forward order
    units = sorted(units, key=lambda unit: unit[keys[0]][0])
    members = {}
    for key in keys:
        number, part, exponent = key
        places = {place: n for n, unit in enumerate(units) for place in unit[key]}
        members[key] = _members(used[number], part, places, exponent)
    mixed = any(exponent < 0 for *_, exponent in keys)
    ordered = sorted(keys, key=lambda key: key[2] > 0)  # what enters a unit comes first
    sides = [
        _unique(_layer(used[number].name) for number, _, exponent in keys if (exponent > 0) is side)
        for side in (False, True)
    ]
    name = " -> ".join(_listed(side) for side in sides if side)
    layers = tuple(_unique([*sides[0], *sides[1]]))
    symmetry = Symmetry.rescale if mixed else Symmetry.scale
    return Group(symmetry, name, layers, tuple(members[key] for key in ordered))


def _members(parameter: Transformed, part: int, places: dict[int, int], exponent: int) -> Members:
    block, shape = parameter.scales[part], parameter.shape
    units = torch.tensor([places.get(place, -1) for place in range(block.variables.numel())]).view(
        block.variables.shape
    )
    if len(shape) < 2 or block.axes == (0,):
        return Members(
            parameter.name, 0, tuple(units.flatten().tolist()), prod(shape[1:]), exponent
        )
    rows = shape[0] // block.parts
    of_columns = tuple(units.expand(shape)[::rows].flatten().tolist())
    return Members(parameter.name, 1, of_columns, rows, exponent, block.parts)


def _translations(used: Sequence[Transformed], solution: Sequence[Combination]) -> Iterable[Group]:
    for parameter in used:
        for block in parameter.shifts:
            group = _translation(parameter, block.axes, [
                next(iter(solution[variable]), -1)
                for variable in block.variables.flatten().tolist()
            ])  # fmt: skip
            if group is not None:
                yield group


def _translation(parameter: Transformed, axes: tuple[int, ...], owners: list[int]) -> Group | None:
    """Units: what of the parameter is shifted together. None if nothing is.

    owners: the class of each place along the block's axis; -1: it may not be shifted.
    """
    name, shape = parameter.name, parameter.shape
    classes = list(dict.fromkeys(owner for owner in owners if owner >= 0))
    if not classes or min(owners.count(owner) for owner in classes) < 2:
        return None
    sizes = [owners.count(owner) for owner in classes]
    even = owners == [owner for owner in classes for _ in range(sizes[0])]
    rest = prod(shape[1:])
    if len(shape) == 1:
        if len(classes) == 1 and even:
            members = columns(name, shape, 1)
        else:
            number = {owner: n for n, owner in enumerate(classes)} | {-1: -1}
            members = Members(name, 0, tuple(number[owner] for owner in owners), 1)
    elif axes == (0,) and even:
        members = columns(name, shape, rest * len(classes), parts=len(classes))
    elif len(classes) == 1 and even and shape[axes[0]] == rest:
        members = Members(name, 0, tuple(range(shape[0])), rest)
    elif len(classes) == 1 and even and shape[0] == 1:
        others = [1 if axis in axes else size for axis, size in enumerate(shape)]
        units = torch.arange(prod(others)).view(others).expand(shape).flatten()
        members = Members(name, 1, tuple(units.tolist()), 1)
    else:
        return None
    layer = _layer(name)
    title = f"{layer}.bias" if name.endswith(".bias") else layer
    return Group(Symmetry.translation, title, (layer,), (members,))


def _layer(parameter: str) -> str:
    head, _, leaf = parameter.rpartition(".")
    return head if leaf in ("weight", "bias") and head else parameter


def _listed(layers: Sequence[str]) -> str:
    if len(layers) <= _NAMED:
        return ", ".join(layers)
    return f"{layers[0]} and {len(layers) - 1} more"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _distinct(groups: Sequence[Group]) -> Iterable[Group]:
    """The groups, with a number behind a name that two of a family have."""
    seen: dict[tuple[Symmetry, str], int] = {}
    for group in groups:
        number = seen[group.symmetry, group.name] = seen.get((group.symmetry, group.name), 0) + 1
        name = group.name if number == 1 else f"{group.name} ({number})"
        yield Group(group.symmetry, name, group.layers, group.members)
