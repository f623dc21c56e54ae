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
from torch import Tensor, nn

from symrun.tracking.slots import Slots, Source

LANES = 32
"""Threads of a warp."""
BLOCK = 64
"""Slots that one program adds up."""


@dataclass(frozen=True)
class TileShape:
    """The most rows and columns of a tile, and the warps that sum it, a row each at a time.

    Each lane of a warp keeps the sum of one row, so a tile has at most 32 rows a warp.

    Example: KernelSums(slots, momentum, TileShape(rows=128, warps=8))
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
        of its first column's, the others follow, -1 for none; 1 if values are summed, for a linear
        reducer, and 0 if products. Large tiles stand first: small ones fill the gaps at the end.
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
    """A parameter as [rows, columns]. Its sums over single rows belong to `row_slots`, int64
    [rows], those over columns to each of `column_slots`, int64 [columns]."""

    number: int
    rows: int
    columns: int
    linear: bool
    row_slots: list[Tensor]
    column_slots: list[Tensor]


def parameters_of(slots: Slots) -> list[nn.Parameter]:
    """By the numbers that tiles give them."""
    return [parameter for source in slots.sources for parameter in source.parameters.values()]


def tiles_of(slots: Slots, shape: TileShape) -> Tiles:
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

    for matrix in _matrices(slots):
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
                        int(matrix.linear),
                    )
                )
    tiles.sort(key=lambda tile: tile[3] * tile[4], reverse=True)
    terms, blocks = _terms(torch.cat(owners), torch.cat(places), slots.count)
    device = slots.device
    return Tiles(torch.tensor(tiles).to(device), partials, terms.to(device), blocks.to(device))


def _matrices(slots: Slots) -> Iterator[_Matrix]:
    number = 0
    for source in slots.sources:
        row_slots = [] if source.rows is None else [_numbers(source.rows)]
        start = 0
        for parameter in source.parameters.values():
            if parameter.dim() == 1 and row_slots:  # as a single row: its columns lie together
                units = row_slots[0][start : start + len(parameter)]
                start += len(parameter)
                yield _Matrix(number, 1, len(parameter), False, [], [units])
            else:
                rows, columns = len(parameter), parameter.numel() // len(parameter)
                for linear in source.reducers:
                    column_slots = _column_slots(source, linear, columns)
                    quadratic_rows = [] if linear else row_slots
                    yield _Matrix(number, rows, columns, linear, quadratic_rows, column_slots)
            number += 1


def _column_slots(source: Source, linear: bool, columns: int) -> list[Tensor]:
    found = []
    for place in source.columns_of(linear):
        by_unit = source.ordered_by_unit(torch.arange(columns)[None], place)[0]
        slot = torch.empty(columns, dtype=torch.int64)
        slot[by_unit] = _numbers(place.slots)[:, None]
        found.append(slot)
    return found


def _numbers(slots: slice) -> Tensor:
    return torch.arange(slots.start, slots.stop)


def _terms(owners: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`terms` and `blocks` of `count` slots, where slot owners[i] needs partial sum places[i]."""
    order = owners.argsort(stable=True)
    owners, places = owners[order], places[order]
    blocks = -(-count // BLOCK)
    counts = owners.bincount(minlength=blocks * BLOCK)
    lengths = counts.view(blocks, BLOCK).amax(1)
    starts = BLOCK * (lengths.cumsum(0) - lengths)
    rank = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    terms = torch.full((BLOCK * int(lengths.sum()),), -1, dtype=torch.int32)
    terms[starts[owners // BLOCK] + rank * BLOCK + owners % BLOCK] = places.int()
    return terms, torch.stack([starts, lengths], 1)
