"""Tables that cut parameters into tiles, and say which partial sums make up each slot.

A tile, up to 64 x 256 entries of a parameter, is the work of one program on a GPU. The program
writes a partial sum for each row and column of the tile; a slot adds up those of its unit. Where a
parameter has parts, no tile reaches from one part into the next.

Memory for full VGG16-BN: 18 M entries make 1,200 tiles and 0.37 M partial sums, 12 MB for four
planes of float64; the tables take another 1.6 MB. Taller tiles would leave fewer partial sums, but
a GPU runs about a thousand tiles at a time, and needs as many near the end to stay busy. A part of
few rows, as in a convolution of many groups, leaves a partial sum for each column of these rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from symrun.symmetry.lines import sorted_by_owner
from symrun.tracking.reductions import Reductions

LANES = 32
"""A warp has this many threads."""
BLOCK = 64
"""One program adds up this many slots."""


@dataclass(frozen=True)
class TileShape:
    """The most rows and columns of a tile, and the warps that sum it, a row each at a time.

    Each lane of a warp keeps the sum of one row, so a tile has at most 32 rows a warp.

    Example: TileShape(rows=128, warps=8)
    """

    rows: int = 64
    columns: int = 256
    warps: int = 2

    def __post_init__(self) -> None:
        assert 0 < self.rows <= LANES * self.warps, f"a lane keeps one row: {self}"
        for size in (self.columns // LANES, self.warps):
            assert size > 0 and size & (size - 1) == 0, f"Triton needs powers of two: {self}"
        assert self.columns % LANES == 0, f"a warp reads {LANES} columns at a time: {self}"


@dataclass(frozen=True)
class Tiles:
    """Tables for the kernels, on the parameters' device.

    tiles: int64 [tiles, 8]: parameter number, offset of the first entry, row stride, rows, columns,
        index of the first row's partial sum, index of the first column's (-1: not summed; the
        other rows and columns follow), degree. Large tiles come first, so that small ones fill the
        gaps at the end.
    partials: the number of partial sums.
    terms: int32 indices of partial sums, by blocks of BLOCK slots: the first term of each slot,
        then the second of each, and so on, padded with -1.
    blocks: int64 [blocks, 2]: where a block's terms begin, and how many terms a slot has.
    """

    tiles: Tensor
    partials: int
    terms: Tensor
    blocks: Tensor


@dataclass(frozen=True)
class _Matrix:
    """A parameter, or a part of one, as a matrix [rows, columns], and the slots of its sums.

    offset: of its first entry in the parameter. row_slots: int64 [rows] each. column_slots: int64
    [columns] each. -1: the sum enters no slot.
    """

    number: int
    offset: int
    rows: int
    columns: int
    degree: int
    row_slots: list[Tensor]
    column_slots: list[Tensor]


def tiles_of(reductions: Reductions, shape: TileShape) -> Tiles:
    """The tables for tiles of `shape`. Assumes: all sources are dense, and not all are empty."""
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
                        matrix.offset + row * matrix.columns + column,
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
        parts, columns, start = source.parts, source.columns, 0
        if source.empty:
            number += len(source.parameters)
            continue
        for parameter in source.local(source.parameters.values()):
            rows = parameter.numel() // columns // parts
            here = slice(start, start + rows)
            start += rows
            for (degree, of_rows, of_columns), part in product(source.passes, range(parts)):
                row_slots = [one.slots.view(-1, parts)[here, part] for one in of_rows]
                column_slots = [one.slots.view(parts, -1)[part] for one in of_columns]
                offset = part * rows * columns
                if columns > 1 or column_slots:
                    yield _Matrix(number, offset, rows, columns, degree, row_slots, column_slots)
                else:  # as a single row, which is contiguous
                    yield _Matrix(number, offset, 1, rows, degree, [], row_slots)
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
