"""The sums in plain torch, a block of rows at a time, so that no network is copied to float64."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from symrun.tracking.momentum import Momentum
from symrun.tracking.slots import Slots, Source

_CPU_BLOCK = 2**14
"""Entries: float64 copies of so many stay in a core's cache, and no operation on them is large
enough for torch to wake a second thread."""
_GPU_BLOCK = 2**19
"""Entries: with momentum their float64 copies take some 50 MB."""


class BlockSums:
    """The reference that other ways to sum are held against; on the CPU also the fastest.

    momentum: what the optimiser adds to the gradient; None for an update along the gradient.
    block: entries at a time; by default what suits the device.
    """

    def __init__(self, slots: Slots, momentum: Momentum | None, block: int | None = None) -> None:
        self._slots = slots
        self._momentum = momentum
        self._block = block or (_CPU_BLOCK if slots.device.type == "cpu" else _GPU_BLOCK)

    def weights(self) -> Tensor:
        """theta^2 twice, for linear reducers theta and |theta|: [2, slots]."""
        return self._sums(2, lambda source: [source.weights()], _weight_products)

    def gradients(self) -> Tensor:
        """theta g and g^2; with momentum also u^2 and u b: [2 or 4, slots].

        For linear reducers g, g^2, 0 and 0.

        Error: RunError if a parameter has no gradient.
        """
        momentum = self._momentum
        if momentum is None:
            return self._sums(2, lambda s: [s.weights(), s.gradients()], _gradient_products)

        def matrices(source: Source) -> list[Tensor]:
            found = [source.weights(), source.gradients()]
            if not momentum.first:
                found.append(source.matrix(map(momentum.buffer, source.parameters.values())))
            return found

        def products(linear: bool, theta: Tensor, gradient: Tensor, *last: Tensor) -> Tensor:
            of_gradient = _gradient_products(linear, theta, gradient)
            if linear:
                return torch.cat([of_gradient, torch.zeros_like(of_gradient)])
            coming = momentum.update(theta.double(), gradient.double(), *last)
            carried = torch.stack([coming.update, coming.buffer]) * coming.update
            return torch.cat([of_gradient, carried])

        return self._sums(4, matrices, products)

    def _sums(
        self,
        planes: int,
        matrices: Callable[[Source], Sequence[Tensor]],
        products: Callable[..., Tensor],
    ) -> Tensor:
        """[planes, slots]

        products(linear, *blocks of the matrices): float64 [planes or 1 for all, rows, columns].
        """
        slots = self._slots
        sums = torch.zeros(planes, slots.count, dtype=torch.float64, device=slots.device)
        for source in slots.sources:
            whole = matrices(source)
            height = max(1, self._block // whole[0].shape[1])
            blocks = [torch.split(matrix, height) for matrix in whole]
            for linear in source.reducers:
                columns = source.columns_of(linear)
                over_rows: Tensor | None = None
                row_slots = None if source.rows is None or linear else source.rows
                for number, block in enumerate(zip(*blocks, strict=True)):
                    found = products(linear, *block)
                    if row_slots is not None:
                        first = row_slots.start + number * height
                        sums[:, first : first + found.shape[1]] = found.sum(2)
                    if columns:
                        here = found.sum(1)
                        over_rows = here if over_rows is None else over_rows.add_(here)
                for place in columns:
                    assert over_rows is not None, "a parameter without rows"
                    sums[:, place.slots] = source.by_unit(over_rows, place)
        return sums


def _weight_products(linear: bool, theta: Tensor) -> Tensor:
    theta = theta.double()
    return torch.stack([theta, theta.abs()]) if linear else theta.square()[None]


def _gradient_products(linear: bool, theta: Tensor, gradient: Tensor) -> Tensor:
    if linear:
        gradient = gradient.double()
        return torch.stack([gradient, gradient.square()])
    both = torch.stack([theta, gradient]).double()
    return both * both[1]
