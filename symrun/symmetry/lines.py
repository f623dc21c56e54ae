"""Says which lines of a parameter, rows or columns, make up each unit.

This file imports torch, which `groups.py` must not.
"""

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
