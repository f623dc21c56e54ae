"""Says which lines of a parameter, rows or columns, make up each unit.

This file imports torch, which `groups.py` must not.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from symrun.symmetry.groups import Members


def lines_of(members: Members, values: Tensor) -> Tensor:
    """The lines that `members.units` counts, of a tensor shaped as the parameter is:
    [lines, length]."""
    if members.axis == 0:
        return values.reshape(len(members.units), -1)
    parts = values.reshape(members.parts, members.length, -1)
    return parts.mT.flatten(0, 1)


def entries_of_units(members: Members, values: Tensor, units: Sequence[int]) -> Tensor:
    """The entries of each of `units`, line after line: [units, entries].

    Assumes: these units have as many lines as each other.
    """
    return lines_of(members, values)[_lines(members, units).T.to(values.device)].flatten(1)


def with_entries(members: Members, values: Tensor, units: Sequence[int], entries: Tensor) -> Tensor:
    """`values`, of the shape of the parameter, with `entries` in place of those of `units`.

    entries: [units, entries], as in `entries_of_units`.
    """
    lines = lines_of(members, values).clone()
    lines[_lines(members, units).T.flatten().to(values.device)] = entries.view(-1, members.length)
    if members.axis == 1:
        lines = lines.unflatten(0, (members.parts, -1)).mT
    return lines.reshape(values.shape)


def _lines(members: Members, units: Sequence[int]) -> Tensor:
    """[lines of each, units]"""
    count = max(members.count, 1 + max(units))
    found = _table(members.units, count)[:, list(units)]
    return found[found[:, 0] < len(members.units)]


@lru_cache(maxsize=128)
def _table(units: tuple[int, ...], count: int) -> Tensor:
    """As `lines_by_unit`, kept: many blocks of a group are taken one after the other."""
    return lines_by_unit(torch.tensor(units), count)


def lines_by_unit(units: Tensor, count: int) -> Tensor:
    """The lines of each unit in ascending order, one unit per column: int64 [most, count].

    A unit with fewer lines is padded with len(units), one past the last line.

    units: int64 [lines], the unit of each line, of `count` units; -1: none.
    Example: lines_by_unit(torch.tensor([0, 1, -1, 0]), 2).tolist() == [[0, 1], [3, 4]]
    """
    lines, ranks, sizes = sorted_by_owner(units, count)
    table = torch.full((int(sizes.max()), count), len(units))
    table[ranks, units[lines]] = lines
    return table


def sorted_by_owner(owners: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entries of `owners` that are not -1, sorted: first those of owner 0, then those of 1.

    Returns: where each stands in `owners`; its rank, from 0, among those of its owner; and how
    many each of `count` owners has. All int64.
    """
    places = owners.argsort(stable=True)[int((owners < 0).sum()) :]
    sizes = owners[places].bincount(minlength=count)
    starts = sizes.cumsum(0) - sizes
    return places, torch.arange(len(places)) - starts[owners[places]], sizes
