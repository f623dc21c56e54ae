"""Lays the lines of units that a matrix mixes beside one another, a piece at a time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from symrun.symmetry import Group, Members
from symrun.symmetry.lines import lines_by_unit, lines_of

_SMALL = 128
"""Units of a block up to which the product of all costs no more than to gather sampled pairs."""


class _Lines:
    """The lines that units have in one parameter.

    order: int64 [rows], the units. most: lines of a unit; one that has fewer is padded with 0.
    """

    def __init__(self, members: Members, order: Tensor, count: int, device: torch.device) -> None:
        self.members, self.length = members, members.length
        table = lines_by_unit(torch.tensor(members.units), count)[:, order]
        table = table[(table < len(members.units)).any(1)]
        self.most = len(table)
        lines = table.T.flatten()
        self._first = int(lines.min()) if self.most else 0
        self._end = self._first + len(lines)
        together = torch.equal(lines, torch.arange(self._first, self._end))
        self._index = None if together else lines.to(device)
        self._padded = bool((lines == len(members.units)).any())

    def of(self, tensor: Tensor, first: int, end: int) -> Tensor:
        """Entries `first` to `end` of each line, [rows, most, entries]."""
        lines = lines_of(self.members, tensor)[:, first:end]
        if self._index is None:
            lines = lines[self._first : self._end]
        else:
            if self._padded:
                lines = torch.cat([lines, torch.zeros_like(lines[:1])])
            lines = lines.index_select(0, self._index)
        return lines.view(-1, self.most, end - first)


class Piece(NamedTuple):
    """Lines of one sign, from one place to another. entries: those of a row."""

    sign: int
    lines: list[tuple[_Lines, int, int]]
    entries: int

    def copy(self, tensors: Mapping[str, Tensor], memory: Tensor) -> None:
        """memory: float64 [rows, entries]. tensors: by the name of the parameter."""
        start = 0
        for lines, first, end in self.lines:
            place = memory[:, start : (start := start + lines.most * (end - first))]
            found = lines.of(tensors[lines.members.parameter], first, end)
            place.unflatten(1, (lines.most, -1)).copy_(found)


class Stack:
    """Units of one group, as rows that hold all of their lines, and the pairs that are summed.

    Blocks of one size are multiplied as matrices, all pairs at once. Of a large block of which only
    a sample is asked for, the rows of each pair are gathered.

    rows: the units. pairs: the places of both units of each pair among the rows, int64 [2, pairs].
    blocks: how many of one size the rows make up; 0 if pairs are gathered.
    most: entries of a piece, or a few times as many where a block is large.
    """

    def __init__(
        self,
        group: Group,
        units: Sequence[int],
        pairs: Tensor,
        blocks: int,
        device: torch.device,
        most: int,
    ) -> None:
        self.rows, self.pairs, self._blocks = len(units), pairs, blocks
        self._first, self._second = pairs.to(device)
        self._size = self.rows // blocks if blocks else 0
        """Units of a block."""
        height = max(self.rows, 0 if blocks else pairs.shape[1])
        # A product of few entries would be added to all of a large matrix
        entries = max(1, most // height, self._size // 4)
        order = torch.tensor(units)
        self.pieces: list[Piece] = []
        for sign in sorted({one.sign for one in group.members}):
            lines = [
                _Lines(one, order, group.rows, device) for one in group.members if one.sign == sign
            ]
            self.pieces += _pieces(sign, [one for one in lines if one.most], entries)

    @property
    def products(self) -> int:
        """How many `add` makes."""
        return self.rows * self._size if self._blocks else self.pairs.shape[1]

    def places(self) -> tuple[Tensor, Tensor]:
        """Where B_ab and B_ba of each pair stand among the products, int64 [pairs] each."""
        if not self._blocks:
            here = torch.arange(self.pairs.shape[1])
            return here, here
        first, second = self.pairs
        start = first // self._size * self._size
        return first * self._size + second - start, second * self._size + first - start

    def add(self, products: Tensor, left: Tensor, right: Tensor, sign: int) -> None:
        """Add what two factors, float64 [rows, entries], make of each pair, times `sign`, to
        `products`, [self.products]."""
        if self._blocks:
            left, right = (one.view(self._blocks, self._size, -1) for one in (left, right))
            matrix = products.view(self._blocks, self._size, self._size)
            matrix.baddbmm_(left, right.mT, alpha=sign)
            return
        found = left.index_select(0, self._first).mul_(right.index_select(0, self._second))
        if left is not right:
            other = left.index_select(0, self._second).mul_(right.index_select(0, self._first))
            found = found.add_(other).div_(2)
        products.add_(found.sum(1), alpha=sign)


def stacks_of(group: Group, device: torch.device, most: int) -> list[tuple[Stack, list[int]]]:
    """The stacks of a group of general_linear, each with the places of its pairs among the units.

    most: entries of a piece of a stack.
    """
    block_of = {unit: block for block in group.blocks for unit in block}
    by_block: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, (first, _) in enumerate(group.pairs):
        by_block[block_of[first]].append(place)
    divided: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for block, places in by_block.items():
        size = len(block)
        whole = size <= _SMALL or 2 * len(places) == size * (size - 1)
        divided[size if whole else 0].append(block)
    found = []
    for size, blocks in divided.items():
        units = [unit for block in blocks for unit in block]
        places = [place for block in blocks for place in by_block[block]]
        if not size:
            units = sorted({unit for place in places for unit in group.pairs[place]})
        row_of = {unit: row for row, unit in enumerate(units)}
        pairs = torch.tensor([[row_of[one] for one in group.pairs[place]] for place in places]).T
        found.append((Stack(group, units, pairs, len(blocks) if size else 0, device, most), places))
    return found


def _pieces(sign: int, lines: Sequence[_Lines], entries: int) -> list[Piece]:
    """The lines of one sign after one another, cut into pieces of about `entries` a row."""
    found: list[Piece] = []
    taken: list[tuple[_Lines, int, int]] = []
    used = 0
    for one in lines:
        first = 0
        while first < one.length:
            room = (entries - used) // one.most
            if room < 1 and taken:
                found.append(Piece(sign, taken, used))
                taken, used = [], 0
                continue
            end = min(one.length, first + max(1, room))
            taken.append((one, first, end))
            used += one.most * (end - first)
            first = end
    return [*found, Piece(sign, taken, used)] if taken else found
