"""Other ways to sum over units, to compare with the one in use."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from symrun.bench.clock import Work
from symrun.errors import RunError
from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import Reductions, Source
from symrun.tracking.select import UnitSums, agree
from symrun.tracking.tiles import TileShape
from symrun.tracking.torch_sums import TorchSums

SHAPES = (
    TileShape(64, 128, 2), TileShape(64, 128, 4), TileShape(32, 128, 2), TileShape(32, 128, 1),
    TileShape(64, 64, 2), TileShape(32, 64, 1), TileShape(64, 256, 2),
)  # fmt: skip
"""Tile shapes of the kernel. Compiled for an H100, none spills a register, also with momentum."""

Making = Callable[[], UnitSums]


def ways_to_sum(reductions: Reductions, momentum: Momentum | None) -> dict[str, Making]:
    """Ways to sum, by name: plain torch and, on a GPU, kernels of several tile shapes."""
    ways: dict[str, Making] = {"plain torch": lambda: TorchSums(reductions, momentum)}
    if reductions.device.type == "cuda":
        for shape in SHAPES:
            name = f"kernel, tiles of {shape.rows} x {shape.columns}, {shape.warps} warps"
            ways[name] = partial(_kernel, reductions, momentum, shape)
    return ways


def _kernel(reductions: Reductions, momentum: Momentum | None, shape: TileShape) -> UnitSums:
    from symrun.tracking.kernel import KernelSums  # needs triton

    return KernelSums(reductions, momentum, shape)


def checked(making: Making, reductions: Reductions, momentum: Momentum | None) -> Work:
    """Work that sums for one update. Error: RunError unless the sums agree with plain torch."""
    sums = making()
    if not agree(sums, TorchSums(reductions, momentum), reductions):
        raise RunError("wrong: its sums are not those of plain torch")
    return Work(torch.no_grad()(sums.gradients))


class CompiledSums:
    """`TorchSums` without blocks under torch.compile, which makes some kernels per parameter.

    The constructor compiles, which takes half a minute on a CPU.

    Assumes: all parameters have gradients, and momentum buffers if there is momentum.
    """

    def __init__(self, reductions: Reductions, momentum: Momentum | None) -> None:
        self._reductions = reductions
        self._momentum = momentum
        self._weights = TorchSums(reductions, momentum).weights
        self._planes = 2 if momentum is None else 4
        self._factors = (0.0, 0.0, 0.0) if momentum is None else momentum.factors
        self._nesterov = momentum is not None and momentum.nesterov
        torch._dynamo.reset()  # otherwise dynamo refuses after a few compilations
        self._fast = torch.compile(self._sums, dynamic=False, fullgraph=True)
        with warnings.catch_warnings():  # torch recommends TF32, which is no use to sums
            warnings.simplefilter("ignore")
            self.gradients()

    def weights(self) -> Tensor:
        """As `TorchSums.weights`, and not compiled."""
        return self._weights()

    @torch.no_grad()
    def gradients(self, norms: bool = True) -> Tensor:
        """As `TorchSums.gradients`: [2 or 4, slots], with g^2 in any case."""
        return self._fast(list(map(self._read, self._reductions.sources)))

    def _read(self, source: Source) -> list[Tensor]:
        read = [source.weights(), source.gradients()]
        if self._momentum is not None:
            read.append(source.matrix(map(self._momentum.buffer, source.parameters.values())))
        return read

    def _sums(self, read: list[list[Tensor]]) -> Tensor:
        found: list[Tensor] = []
        for source, matrices in zip(self._reductions.sources, read, strict=True):
            for degree, rows, columns in source.passes:
                planes = self._products(degree, *(matrix.double() for matrix in matrices))
                for axis, layouts in ((-1, rows), (0, columns)):
                    if layouts:
                        sums = torch.stack([plane.sum(axis).flatten() for plane in planes])
                        found += [layout.by_unit(sums) for layout in layouts]
        nothing = torch.zeros(self._planes, 1, dtype=torch.float64, device=self._reductions.device)
        return torch.cat([*found, nothing], 1)

    def _products(
        self, degree: int, theta: Tensor, gradient: Tensor, *last: Tensor
    ) -> list[Tensor]:
        if degree == 1:
            return [gradient, gradient.square(), *[torch.zeros_like(gradient)] * (self._planes - 2)]
        products = [theta * gradient, gradient.square()]
        if last:
            decay, momentum, undamped = self._factors
            decayed = gradient + decay * theta
            buffer = momentum * last[0] + undamped * decayed
            update = decayed + momentum * buffer if self._nesterov else buffer
            products += [update.square(), update * buffer]
        return products
