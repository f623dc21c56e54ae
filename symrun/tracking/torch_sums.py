"""The sums in plain torch, a block of rows at a time, so that no network is copied to float64."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import Reductions, Source

_CPU_BLOCK = 2**16
"""Entries: few enough for float64 copies to stay in the cache, enough to amortise the calls."""
_GPU_BLOCK = 2**19
"""Entries: with momentum, their float64 copies take about 50 MB."""


def entries_at_once(device: torch.device) -> int:
    """How many entries are best summed together on a device."""
    return _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK


class _Views(NamedTuple):
    """Views of the scratch memory for blocks of one shape; indexing at every block would cost."""

    theta: Tensor
    gradient: Tensor
    both: Tensor
    products: Tensor
    """theta g and g^2; with momentum also u^2; with Nesterov also u b, which is else u^2."""
    of_both: Tensor
    """The first two planes of `products`."""
    updates: Tensor
    """For buffer and update; without planes if there is no momentum."""


class TorchSums:
    """The reference implementation of the sums, and the fastest on the CPU.

    momentum: reads the momentum buffers; None for SGD without momentum.
    block: entries at a time; the default depends on the device.
    """

    def __init__(
        self, reductions: Reductions, momentum: Momentum | None, block: int | None = None
    ) -> None:
        self._reductions = reductions
        self._momentum = momentum
        self._block = block or entries_at_once(reductions.device)
        shapes = [source.weights().shape for source in reductions.sources]
        largest = max(
            (min(math.prod(shape), max(self._block, math.prod(shape[1:]))) for shape in shapes),
            default=0,
        )
        # Without Nesterov's look-ahead u is b
        self._planes = 2 if momentum is None else 4 if momentum.nesterov else 3
        self._all_planes = 2 + self._planes + (0 if momentum is None else 2)
        size = self._all_planes * largest
        self._scratch = torch.empty(size, dtype=torch.float64, device=reductions.device)
        self._views: dict[torch.Size, _Views] = {}

    def weights(self) -> Tensor:
        """theta^2 twice, for degree 1 theta and |theta|: [2, slots]."""
        return self.sums(2, lambda source: [source.weights()], _weight_products)

    def gradients(self, norms: bool = True) -> Tensor:
        """theta g and g^2; with momentum also u^2 and u b: [2 or 4, slots].

        For degree 1 g, g^2, 0 and 0. norms: whether g^2 is asked for where no law needs it, with
        momentum; it is 0 else, which spares a quarter of the time.

        Error: RunError if a parameter has no gradient.
        """
        norms = norms or self._momentum is None
        products = partial(self._gradient_products, norms)
        sums = self.sums(self._planes - (not norms), self._gradient_matrices, products)
        if not norms:
            sums = torch.cat([sums[:1], torch.zeros_like(sums[:1]), sums[1:]])
        return torch.cat([sums, sums[2:]]) if self._planes == 3 else sums

    def _gradient_matrices(self, source: Source) -> list[Tensor]:
        found = [source.weights(), source.gradients()]
        if self._momentum is not None and not self._momentum.first:
            buffers = map(self._momentum.buffer, source.parameters.values())
            found.append(source.matrix(source.local(buffers)))
        return found

    def _gradient_products(
        self, norms: bool, degree: int, theta: Tensor, gradient: Tensor, *last: Tensor
    ) -> Tensor:
        """Reuses one buffer, which stays in the cache and needs no allocation."""
        if degree == 1:
            g = gradient.double()
            found = [g, g.square()] if norms else [g]
            return torch.stack([*found, *[torch.zeros_like(g)] * (self._planes - 2)])
        views = self._views_of(theta.shape)
        views.theta.copy_(theta)
        views.gradient.copy_(gradient)
        if norms:
            torch.mul(views.both, views.gradient, out=views.of_both)
        else:
            torch.mul(views.theta, views.gradient, out=views.of_both[1])
        if self._momentum is not None:
            before = last[0] if last else None
            buffer, update = self._momentum.buffer_and_update(
                views.theta, views.gradient, before, views.updates
            )
            torch.mul(update, update, out=views.products[2])
            if self._planes == 4:
                torch.mul(update, buffer, out=views.products[3])
        return views.products if norms else views.products[1:]

    def steps(self, before: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """theta w and w^2 of the step w from `before` to the weights as they are: [2, slots].

        For degree 1 w and 0. before: this rank's share of theta, as it was.
        """

        def matrices(source: Source) -> list[Tensor]:
            kept = (before[one] for one in source.parameters.values())
            return [source.matrix(kept), source.weights()]

        return self.sums(2, matrices, self._step_products)

    def _step_products(self, degree: int, before: Tensor, after: Tensor) -> Tensor:
        if degree == 1:
            step = before.double() - after
            return torch.stack([step, torch.zeros_like(step)])
        views = self._views_of(before.shape)
        views.theta.copy_(before)
        torch.sub(views.theta, after, out=views.gradient)
        return torch.mul(views.both, views.gradient, out=views.of_both)

    def _views_of(self, shape: torch.Size) -> _Views:
        if shape not in self._views:
            size = self._all_planes * math.prod(shape)
            planes = self._scratch[:size].view(-1, *shape)
            end = 2 + self._planes
            self._views[shape] = _Views(
                planes[0], planes[1], planes[:2], planes[2:end], planes[2:4], planes[end:]
            )
        return self._views[shape]

    def sums(
        self,
        planes: int,
        matrices: Callable[[Source], Sequence[Tensor]],
        products: Callable[..., Tensor],
    ) -> Tensor:
        """[planes, slots], of any products of matrices that have the shapes of the sources.

        products(degree, *blocks of the matrices): float64 [planes, *shape of a block].
        """
        nothing = torch.zeros(planes, 1, dtype=torch.float64, device=self._reductions.device)
        found: list[Tensor] = []
        for source in self._reductions.sources:
            if source.empty:
                found.append(nothing.expand(-1, source.slots))
                continue
            whole = matrices(source)
            height = max(1, self._block // whole[0][0].numel())
            blocks = [torch.split(matrix, height) for matrix in whole]
            for degree, rows, columns in source.passes:
                row_sums = nothing.new_empty(planes, *whole[0].shape[:-1])
                column_sums: Tensor | None = None
                for row_sum, *block in zip(torch.split(row_sums, height, 1), *blocks, strict=True):
                    terms = products(degree, *block)
                    if rows:
                        torch.sum(terms, -1, out=row_sum)
                    if columns:
                        more = terms.sum(1)
                        column_sums = more if column_sums is None else column_sums.add_(more)
                found += [layout.by_unit(row_sums.flatten(1)) for layout in rows]
                if column_sums is not None:
                    found += [layout.by_unit(column_sums.flatten(1)) for layout in columns]
        return torch.cat([*found, nothing], 1)


def _weight_products(degree: int, theta: Tensor) -> Tensor:
    theta = theta.double()
    if degree == 1:
        return torch.stack([theta, theta.abs()])
    return theta.square().expand(2, *theta.shape)
