"""Other ways to sum over units at every step, to be timed beside the one that is used.

Once they have been timed on a GPU, all but the fastest can go.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from symrun.bench.clock import Work
from symrun.errors import RunError
from symrun.tracking.blocks import BlockSums
from symrun.tracking.momentum import Momentum
from symrun.tracking.slots import Slots, Source
from symrun.tracking.sums import UnitSums, doubt_of
from symrun.tracking.tiles import TileShape

SHAPES = (
    *(TileShape(rows, 128, warps) for rows in (32, 64, 128) for warps in (2, 4, 8)
      if rows <= 32 * warps),
    TileShape(64, 64, 4),
    TileShape(64, 256, 4),
    TileShape(128, 256, 8),
)  # fmt: skip
"""Of a kernel's tiles. Compiled for an H100, with momentum too, none spills a register."""

Making = Callable[[], UnitSums]


def ways_to_sum(slots: Slots, momentum: Momentum | None) -> dict[str, Making]:
    """What makes the sums in plain torch, and on a GPU in kernels of several shapes, by name."""
    ways: dict[str, Making] = {"plain torch": lambda: BlockSums(slots, momentum)}
    if slots.device.type == "cuda":
        for shape in SHAPES:
            name = f"kernel, tiles of {shape.rows} x {shape.columns}, {shape.warps} warps"
            ways[name] = partial(_kernel, slots, momentum, shape)
    return ways


def _kernel(slots: Slots, momentum: Momentum | None, shape: TileShape) -> UnitSums:
    from symrun.tracking.kernel import KernelSums  # needs triton

    return KernelSums(slots, momentum, shape)


def checked(making: Making, slots: Slots, momentum: Momentum | None) -> Work:
    """The sums of an update. Error: RunError if they are not those of plain torch."""
    sums = making()
    if doubt_of(sums, BlockSums(slots, momentum), slots) is not None:
        raise RunError("wrong: its sums are not those of plain torch")
    return Work(torch.no_grad()(sums.gradients))


class CompiledSums:
    """`BlockSums` without blocks, as torch.compile makes it: some kernels for each parameter.

    It is compiled here, which takes half a minute on a CPU.

    Assumes: all parameters have gradients, and momentum buffers if there is momentum.
    """

    def __init__(self, slots: Slots, momentum: Momentum | None) -> None:
        self._slots = slots
        self._momentum = momentum
        self._weights = BlockSums(slots, momentum).weights
        self._planes = 2 if momentum is None else 4
        self._factors = (0.0, 0.0, 0.0) if momentum is None else momentum.factors
        self._nesterov = momentum is not None and momentum.nesterov
        torch._dynamo.reset()  # or it compiles a few in a process, and then refuses
        self._fast = torch.compile(self._sums, dynamic=False, fullgraph=True)
        with warnings.catch_warnings():  # torch advises to use TF32, which no sum here could
            warnings.simplefilter("ignore")
            self.gradients()

    def weights(self) -> Tensor:
        """As `BlockSums.weights`, and not compiled."""
        return self._weights()

    @torch.no_grad()
    def gradients(self) -> Tensor:
        """As `BlockSums.gradients`: [2 or 4, slots]."""
        return self._fast(list(map(self._read, self._slots.sources)))

    def _read(self, source: Source) -> list[Tensor]:
        read = [source.weights(), source.gradients()]
        if self._momentum is not None:
            read.append(source.matrix(map(self._momentum.buffer, source.parameters.values())))
        return read

    def _sums(self, read: list[list[Tensor]]) -> Tensor:
        found: dict[int, Tensor] = {}
        for source, matrices in zip(self._slots.sources, read, strict=True):
            for linear in source.reducers:
                planes = self._products(linear, *(matrix.double() for matrix in matrices))
                if source.rows is not None and not linear:
                    found[source.rows.start] = torch.stack([plane.sum(1) for plane in planes])
                columns = torch.stack([plane.sum(0) for plane in planes])
                for place in source.columns_of(linear):
                    found[place.slots.start] = source.by_unit(columns, place)
        nothing = torch.zeros(self._planes, 1, dtype=torch.float64, device=self._slots.device)
        return torch.cat([*(found[first] for first in sorted(found)), nothing], 1)

    def _products(
        self, linear: bool, theta: Tensor, gradient: Tensor, *last: Tensor
    ) -> list[Tensor]:
        if linear:
            return [gradient, gradient.square(), *[torch.zeros_like(gradient)] * (self._planes - 2)]
        products = [theta * gradient, gradient.square()]
        if last:
            decay, momentum, undamped = self._factors
            decayed = gradient + decay * theta
            buffer = momentum * last[0] + undamped * decayed
            update = decayed + momentum * buffer if self._nesterov else buffer
            products += [update.square(), update * buffer]
        return products
