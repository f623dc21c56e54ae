"""Parameters cut into tiles, and slots as sums over what the tiles leave behind.

A tile, up to 64 x 128 entries of a parameter, is the work of one program on a GPU. It leaves a
partial sum for each of its rows and columns; a slot adds up those that its unit runs through.

Full VGG16-BN has 18 M entries. In 2,300 tiles of up to 8,192 they leave 18 M / 64 partial sums of
columns and 18 M / 128 of rows: 0.44 M with the vectors, in float64 3.5 MB a plane, 14 MB for four.
Where each slot finds its own takes another 1.7 MB. Taller tiles would leave less, but a GPU holds
about a thousand at a time, and so many must be left near the end to keep all of it at work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.symmetry.lines import sorted_by_owner
from symrun.tracking.reductions import Reductions

LANES = 32
"""Threads of a warp."""
BLOCK = 64
"""Slots that one program adds up."""


@dataclass(frozen=True)
class TileShape:
    """The most rows and columns of a tile, and the warps that sum it, a row each at a time.

    Each lane of a warp keeps the sum of one row, so a tile has at most 32 rows a warp.

    Example: TileShape(rows=128, warps=8)
    """

    rows: int = 64
    columns: int = 128
    warps: int = 4

    def __post_init__(self) -> None:
        assert 0 < self.rows <= LANES * self.warps, f"a lane keeps one row: {self}"
        for size in (self.columns // LANES, self.warps):
            assert size > 0 and size & (size - 1) == 0, f"Triton needs powers of two: {self}"
        assert self.columns % LANES == 0, f"a warp reads {LANES} columns at a time: {self}"


@dataclass(frozen=True)
class Tiles:
    """Tables for the kernels, on the parameters' device.

    tiles: int64 [tiles, 8], for each: the number of its parameter; the offset of its first entry;
        entries from row to row; rows; columns; the place of its first row's partial sum, and that
        of its first column's, the others follow, -1 for none; the degree, 1 if values are
        summed and 2 if products. Large tiles stand first: small ones fill the gaps at the end.
    partials: how many partial sums there are.
    terms: int32, places of partial sums. Those of BLOCK slots stand together: the first of each,
        then the second of each, and so on, filled up with -1.
    blocks: int64 [blocks, 2]: where a block's terms begin, and how many a slot has.
    """

    tiles: Tensor
    partials: int
    terms: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class _Matrix:
    """A parameter as [rows, columns]. Its sums over single rows belong to each of `row_slots`,
    int64 [rows], those over columns to each of `column_slots`, int64 [columns]; -1: to none."""

    number: int
    rows: int
    columns: int
    degree: int
    row_slots: list[Tensor]
    column_slots: list[Tensor]


def tiles_of(reductions: Reductions, shape: TileShape) -> Tiles:
    """Assumes: all sources are dense."""
    tiles: list[tuple[int, ...]] = []
    owners: list[Tensor] = []
    places: list[Tensor] = []
    partials = 0

    def place(of_slots: list[Tensor], part: slice) -> int:
        nonlocal partials
        if not of_slots:
            return -1
        start = partials
        partials += len(of_slots[0][part])
        for owner in of_slots:
            owners.append(owner[part])
            places.append(torch.arange(start, partials))
        return start

    for matrix in _matrices(reductions):
        for row in range(0, matrix.rows, shape.rows):
            for column in range(0, matrix.columns, shape.columns):
                tiles.append(
                    (
                        matrix.number,
                        row * matrix.columns + column,
                        matrix.columns,
                        min(shape.rows, matrix.rows - row),
                        min(shape.columns, matrix.columns - column),
                        place(matrix.row_slots, slice(row, row + shape.rows)),
                        place(matrix.column_slots, slice(column, column + shape.columns)),
                        matrix.degree,
                    )
                )
    tiles.sort(key=lambda tile: tile[3] * tile[4], reverse=True)
    terms, blocks = _terms(torch.cat(owners), torch.cat(places), reductions.count)
    device = reductions.device
    return Tiles(torch.tensor(tiles).to(device), partials, terms.to(device), blocks.to(device))


def _matrices(reductions: Reductions) -> Iterator[_Matrix]:
    number = 0
    for source in reductions.sources:
        start = 0
        for parameter in source.parameters.values():
            rows, columns = len(parameter), parameter.numel() // len(parameter)
            here = slice(start, start + rows)
            start += rows
            for degree, *layouts in source.passes:
                row_slots, column_slots = ([one.slots for one in some] for some in layouts)
                row_slots = [slots[here] for slots in row_slots]
                if columns > 1 or column_slots:
                    yield _Matrix(number, rows, columns, degree, row_slots, column_slots)
                else:  # as a single row: its columns lie together
                    yield _Matrix(number, 1, rows, degree, [], row_slots)
            number += 1


def _terms(owners: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`terms` and `blocks` of `count` slots, where slot owners[i] needs partial sum places[i]."""
    blocks = -(-count // BLOCK)
    order, rank, counts = sorted_by_owner(owners, blocks * BLOCK)
    owners, places = owners[order], places[order]
    lengths = counts.view(blocks, BLOCK).amax(1)
    starts = BLOCK * (lengths.cumsum(0) - lengths)
    terms = torch.full((BLOCK * int(lengths.sum()),), -1, dtype=torch.int32)
    terms[starts[owners // BLOCK] + rank * BLOCK + owners % BLOCK] = places.int()
    return terms, torch.stack([starts, lengths], 1)
