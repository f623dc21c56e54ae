"""The sums on a GPU: two launches, whatever the number of parameters."""

from collections.abc import Sequence

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import Reductions
from symrun.tracking.tile_kernels import add_partials, sum_tiles
from symrun.tracking.tiles import BLOCK, TileShape, tiles_of

_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
_INTERPRETED = not isinstance(sum_tiles, triton.JITFunction)  # TRITON_INTERPRET=1: on the CPU
_TERMS = 32
_TERMS_WARPS = 4
_GRAPHS = 16
"""CUDA graphs can capture this many calls: with and without a record, for each batch size."""


class KernelSums:
    """The sums of `TorchSums`, within float64 rounding, from one pass over memory.

    The first kernel sums the rows and columns of each tile; the second adds these partial sums up
    to slots. Nothing waits for the device, and the same input gives the same bits. A CUDA graph can
    capture a call only after a call like it: a kernel is compiled at its first launch, and
    gradients() uses one kernel for the first update and another for all later ones.

    The default tile shape is the fastest of those that an H200 timed; some took five times as long.
    `symrun bench --parts` times others.

    momentum: reads the momentum buffers; None for SGD without momentum. shape: the tile shape.
    Assumes: `KernelSums.fits(reductions)`, and no weight changes its layout.
    """

    def __init__(
        self, reductions: Reductions, momentum: Momentum | None, shape: TileShape | None = None
    ) -> None:
        assert self.fits(reductions), "parameters that the kernels cannot read"
        self._reductions = reductions
        self._momentum = momentum
        self._parameters = reductions.parameters
        self._type = _TYPES[self._parameters[0].dtype]
        self._tile = shape or TileShape()
        table = tiles_of(reductions, self._tile)
        self._tiles, self._terms, self._blocks = table.tiles, table.terms, table.blocks
        planes = 2 if momentum is None else 4
        # Triton rounds a Python float to float32 on its way to a kernel, but not a tensor.
        factors = (0.0, 0.0, 0.0) if momentum is None else momentum.factors
        self._factors = torch.tensor(factors, dtype=torch.float64, device=reductions.device)
        self._partials = torch.empty(
            planes, table.partials, dtype=torch.float64, device=reductions.device
        )
        self._pinned: list[Tensor] = []
        if reductions.device.type == "cuda":
            places = (3, len(self._parameters))
            self._pinned = [
                torch.empty(places, dtype=torch.int64, pin_memory=True) for _ in range(_GRAPHS)
            ]
        self._captured: list[Tensor] = []

    @staticmethod
    def fits(reductions: Reductions) -> bool:
        """Whether the kernels can read these parameters.

        All must be dense, of one type (float32 or float64), and on a CUDA GPU, or on the CPU if
        Triton interprets (TRITON_INTERPRET=1). There must be something to sum on this rank.
        """
        parameters = reductions.parameters
        types = {parameter.dtype for parameter in parameters}
        devices = {parameter.device.type for parameter in parameters}
        return (
            len(types) == 1
            and types <= _TYPES.keys()
            and devices == {"cpu" if _INTERPRETED else "cuda"}
            and all(source.dense for source in reductions.sources)
            and not all(source.empty for source in reductions.sources)
        )

    def weights(self) -> Tensor:
        """As `TorchSums.weights`: [2, slots]."""
        return self._sums(2, [self._weights()])

    def gradients(self, norms: bool = True) -> Tensor:
        """As `TorchSums.gradients`: [2 or 4, slots]; g^2 costs nothing and is always there.

        Error: RunError if a parameter has no gradient.
        """
        gradients = [
            gradient
            for source in self._reductions.sources
            for gradient in source.single_gradients()
        ]
        weights = self._weights()
        read: list[Sequence[Tensor]] = [weights, self._in_weight_layout(gradients, weights)]
        if self._momentum is None:
            return self._sums(2, read)
        if not self._momentum.first:
            buffers = self._reductions.local(self._momentum.buffer)
            read.append(self._in_weight_layout(buffers, weights))
        return self._sums(4, read)

    def _sums(self, planes: int, read: Sequence[Sequence[Tensor]]) -> Tensor:
        """[planes, slots]; read: the weights, then gradients and momentum buffers if needed."""
        partials, count = self._partials.shape[1], self._reductions.count
        sums = self._partials.new_empty(planes, count)
        with torch.cuda.device_of(sums):
            sum_tiles[len(self._tiles),](
                self._tiles,
                self._addresses(read),
                len(self._parameters),
                self._factors,
                self._partials,
                partials,
                DTYPE=self._type,
                READ=len(read),
                PLANES=planes,
                NESTEROV=self._momentum is not None and self._momentum.nesterov,
                WARPS=self._tile.warps,
                WIDTH=self._tile.columns,
                num_warps=self._tile.warps,
            )
            add_partials[len(self._blocks), planes](
                self._blocks,
                self._terms,
                self._partials,
                partials,
                sums,
                count,
                SLOTS=BLOCK,
                TERMS=_TERMS,
                num_warps=_TERMS_WARPS,
            )
        return sums

    def _addresses(self, read: Sequence[Sequence[Tensor]]) -> Tensor:
        """Addresses of tensors, int64 [len(read), parameters]; gradients move from step to step."""
        pointers = [[tensor.data_ptr() for tensor in tensors] for tensors in read]
        addresses = torch.tensor(pointers, dtype=torch.int64, device="cpu")
        if self._partials.is_cuda and torch.cuda.is_current_stream_capturing():
            # A capture cannot allocate pinned memory, and the graph reads it at every replay.
            addresses = self._pinned.pop()[: len(read)].copy_(addresses)
            self._captured.append(addresses)
        elif self._partials.is_cuda:
            addresses = addresses.pin_memory()
        return addresses.to(self._partials.device, non_blocking=True)

    def _weights(self) -> list[Tensor]:
        return self._reductions.local(lambda weight: weight)

    def _in_weight_layout(
        self, tensors: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """The tensors, each copied if its memory layout differs from its weight's."""
        return [
            tensor if _same_layout(tensor, weight) else torch.empty_like(weight).copy_(tensor)
            for tensor, weight in zip(tensors, weights, strict=True)
        ]


def _same_layout(tensor: Tensor, weight: Tensor) -> bool:
    axes = zip(weight.shape, tensor.stride(), weight.stride(), strict=True)
    return tensor.dtype is weight.dtype and all(
        size == 1 or ours == theirs for size, ours, theirs in axes
    )
