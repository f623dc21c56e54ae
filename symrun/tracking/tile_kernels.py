"""The two Triton kernels of the measuring pass: sums over tiles, and slots made of these sums.

They read tensors in memory order and sum in float64 registers without atomics, so the same input
gives the same bits. `tiles.py` defines the tables, and `kernel.py` launches the kernels.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def, no-untyped-call"
# Triton has no types.

import triton
import triton.language as tl

from symrun.tracking.tiles import LANES as _LANES

LANES = tl.constexpr(_LANES)
"""A warp reads this many adjacent columns at a time."""


@triton.jit
def sum_tiles(
    tiles,
    addresses,
    parameters,
    settings,
    partials,
    partial_count,
    DTYPE: tl.constexpr,
    READ: tl.constexpr,
    PLANES: tl.constexpr,
    NESTEROV: tl.constexpr,
    WARPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each program writes the row sums and column sums of one tile into `partials`.

    tiles: int64 [tiles, 8], as in `tiles.py`. addresses: int64 [READ, parameters], of weights,
    gradients and momentum buffers, all DTYPE. settings: float64, weight decay, momentum and
    1 - dampening. partials: float64 [PLANES, partial_count].
    """
    tile = tiles + 8 * tl.program_id(0)
    if tl.load(tile + 7) == 1:
        _sum_tile(
            tile, addresses, parameters, settings, partials, partial_count,
            True, DTYPE, READ, PLANES, NESTEROV, WARPS, WIDTH,
        )  # fmt: skip
    else:
        _sum_tile(
            tile, addresses, parameters, settings, partials, partial_count,
            False, DTYPE, READ, PLANES, NESTEROV, WARPS, WIDTH,
        )  # fmt: skip


@triton.jit
def _sum_tile(
    tile,
    addresses,
    parameters,
    settings,
    partials,
    partial_count,
    LINEAR: tl.constexpr,
    DTYPE: tl.constexpr,
    READ: tl.constexpr,
    PLANES: tl.constexpr,
    NESTEROV: tl.constexpr,
    WARPS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Walk down a tile, one row per warp: [WIDTH / LANES, WARPS, LANES] entries at a time.

    With the lanes last and the warps before them, a thread holds WIDTH / LANES columns: it adds
    them up over the rows in registers, and a row's sum needs its own warp alone. Lane number n
    keeps the row sum of the n-th step, so that nothing is stored before the end.
    """
    parameter = tl.load(tile)
    start = tl.load(tile + 1)
    row_stride = tl.load(tile + 2).to(tl.int32)
    height = tl.load(tile + 3).to(tl.int32)
    width = tl.load(tile + 4).to(tl.int32)
    row_place = tl.load(tile + 5)
    column_place = tl.load(tile + 6)

    address = addresses + parameter
    weights = tl.load(address).to(tl.pointer_type(DTYPE)) + start
    gradients = weights
    buffers = weights
    if READ >= 2:
        gradients = tl.load(address + parameters).to(tl.pointer_type(DTYPE)) + start
    if READ >= 3:
        buffers = tl.load(address + 2 * parameters).to(tl.pointer_type(DTYPE)) + start

    lane = tl.arange(0, LANES)
    warp = tl.arange(0, WARPS)
    column = (tl.arange(0, WIDTH // LANES) * LANES)[:, None] + lane[None, :]
    zero = tl.zeros([WIDTH // LANES, WARPS, LANES], tl.float64)
    columns_0, columns_1, columns_2, columns_3 = zero, zero, zero, zero
    none = tl.zeros([WARPS, LANES], tl.float64)
    rows_0, rows_1, rows_2, rows_3 = none, none, none, none

    for step in range(0, tl.cdiv(height, WARPS)):
        row = step * WARPS + warp
        entry = row[None, :, None] * row_stride + column[:, None, :]
        inside = (row < height)[None, :, None] & (column < width)[:, None, :]
        theta = tl.load(weights + entry, mask=inside, other=0.0).to(tl.float64)
        gradient, last = theta, theta
        if READ >= 2:
            gradient = tl.load(gradients + entry, mask=inside, other=0.0).to(tl.float64)
        if READ >= 3 and not LINEAR:
            last = tl.load(buffers + entry, mask=inside, other=0.0).to(tl.float64)
        first, second = _products(theta, gradient, LINEAR, READ)
        columns_0 += first
        columns_1 += second
        here = (lane == step)[None, :]
        rows_0 = _store_row_sums(first, here, rows_0)
        rows_1 = _store_row_sums(second, here, rows_1)
        if PLANES == 4 and not LINEAR:
            third, fourth = _momentum_products(theta, gradient, last, settings, READ, NESTEROV)
            columns_2 += third
            columns_3 += fourth
            rows_2 = _store_row_sums(third, here, rows_2)
            rows_3 = _store_row_sums(fourth, here, rows_3)

    to = partials + column_place + column
    wanted = (column < width) & (column_place >= 0)
    tl.store(to, tl.sum(columns_0, 1), mask=wanted)
    tl.store(to + partial_count, tl.sum(columns_1, 1), mask=wanted)
    if PLANES == 4:
        tl.store(to + 2 * partial_count, tl.sum(columns_2, 1), mask=wanted)
        tl.store(to + 3 * partial_count, tl.sum(columns_3, 1), mask=wanted)
    rows = lane[None, :] * WARPS + warp[:, None]
    to = partials + row_place + rows
    wanted = (rows < height) & (row_place >= 0)
    tl.store(to, rows_0, mask=wanted)
    tl.store(to + partial_count, rows_1, mask=wanted)
    if PLANES == 4:
        tl.store(to + 2 * partial_count, rows_2, mask=wanted)
        tl.store(to + 3 * partial_count, rows_3, mask=wanted)


@triton.jit
def _products(theta, gradient, LINEAR: tl.constexpr, READ: tl.constexpr):
    """The terms of the first two planes, as in `TorchSums`."""
    if READ == 1:
        if LINEAR:
            first, second = theta, tl.abs(theta)
        else:
            first, second = theta * theta, theta * theta
    else:
        second = gradient * gradient
        if LINEAR:
            first = gradient
        else:
            first = theta * gradient
    return first, second


@triton.jit
def _momentum_products(theta, gradient, last, settings, READ: tl.constexpr, NESTEROV: tl.constexpr):
    """u^2 and u b, as in `Momentum.buffer_and_update`. READ == 2: there is no buffer yet."""
    decayed = gradient + tl.load(settings) * theta
    momentum = tl.load(settings + 1)
    buffer = decayed
    if READ >= 3:
        buffer = momentum * last + tl.load(settings + 2) * decayed
    update = buffer
    if NESTEROV:
        update = decayed + momentum * buffer
    return update * update, update * buffer


@triton.jit
def _store_row_sums(products, here, rows):
    """`rows`, [WARPS, LANES], replaced where `here` by each warp's row sum of `products`."""
    return tl.where(here, tl.sum(tl.sum(products, 0), 1)[:, None], rows)


@triton.jit
def add_partials(
    blocks,
    terms,
    partials,
    partial_count,
    slots,
    slot_count,
    SLOTS: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Each program adds up, in a fixed order, the terms of one block of slots in one plane.

    blocks: int64 [blocks, 2] and terms: int32, as in `tiles.py`. partials: float64
    [planes, partial_count]. slots: float64 [planes, slot_count].
    """
    block = tl.program_id(0)
    plane = tl.program_id(1).to(tl.int64)
    first = tl.load(blocks + 2 * block)
    length = tl.load(blocks + 2 * block + 1).to(tl.int32)
    slot = tl.arange(0, SLOTS)
    sums = tl.zeros([TERMS, SLOTS], tl.float64)
    for step in range(0, length, TERMS):
        number = step + tl.arange(0, TERMS)
        entry = terms + first + number[:, None] * SLOTS + slot[None, :]
        place = tl.load(entry, mask=(number < length)[:, None], other=-1)
        sums += tl.load(partials + plane * partial_count + place, mask=place >= 0, other=0.0)
    slot += block * SLOTS
    tl.store(slots + plane * slot_count + slot, tl.sum(sums, 0), mask=slot < slot_count)
