"""The sums in plain torch, a block of rows at a time, so that no network is copied to float64."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
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
        size = (2 if momentum is None else 4) * largest
        self._scratch = torch.empty(size, dtype=torch.float64, device=reductions.device)
        self._views: dict[torch.Size, tuple[Tensor, tuple[Tensor, ...]]] = {}

    def weights(self) -> Tensor:
        """theta^2 twice, for degree 1 theta and |theta|: [2, slots]."""
        return self.sums(2, lambda source: [source.weights()], _weight_products)

    def gradients(self, norms: bool = True) -> Tensor:
        """theta g and g^2; with momentum also u^2 and u b: [2 or 4, slots].

        For degree 1 g, g^2, 0 and 0. norms: whether g^2 is asked for where no law needs it, with
        momentum; it is 0 else, which spares a quarter of the time.

        Error: RunError if a parameter has no gradient.
        """
        return self.completed(self.distinct(norms), norms)

    def distinct(self, norms: bool) -> Tensor:
        """g^2 if asked for or no momentum, and theta g; with momentum also u^2, with Nesterov also
        u b: [1 to 4, slots]."""
        norms = norms or self._momentum is None
        products = partial(self._gradient_products, norms)
        return self.sums(self._planes - (not norms), self._gradient_matrices, products)

    def completed(self, distinct: Tensor, norms: bool) -> Tensor:
        """The rows of `gradients`, from those of `distinct` or sums of them."""
        force = distinct[0] if norms or self._momentum is None else torch.zeros_like(distinct[0])
        along, *updates = distinct[1 - self._planes :]
        return torch.stack([along, force, *(2 * updates if self._planes == 3 else updates)])

    def _gradient_matrices(self, source: Source) -> list[Tensor]:
        found = [source.weights(), source.gradients()]
        if self._momentum is not None and not self._momentum.first:
            buffers = map(self._momentum.buffer, source.parameters.values())
            found.append(source.matrix(source.local(buffers)))
        return found

    def _gradient_products(
        self, norms: bool, degree: int, theta: Tensor, gradient: Tensor, *last: Tensor
    ) -> Tensor:
        """Each product takes the place of a factor, so that all stay in the cache."""
        planes, (g, along, *spare) = self._views_of(theta.shape)
        if degree == 1:
            along.copy_(gradient)
            if norms:
                torch.mul(along, along, out=g)
            return planes[:2] if norms else planes[1:2]
        g.copy_(gradient)
        along.copy_(theta)
        if self._momentum is not None:
            decayed, buffer = spare if self._planes == 4 else reversed(spare)
            before = last[0] if last else None
            _, update = self._momentum.buffer_and_update(along, g, before, (decayed, buffer))
            if update is not buffer:
                buffer.mul_(update)
            update.mul_(update)
        along.mul_(g)
        if norms:
            g.mul_(g)
        return planes[: self._planes] if norms else planes[1 : self._planes]

    def steps(self, before: Mapping[nn.Parameter, Tensor]) -> Tensor:
        """theta w and w^2 of the step w from `before` to the weights as they are: [2, slots].

        For degree 1 w and 0. before: this rank's share of theta, as it was.
        """

        def matrices(source: Source) -> list[Tensor]:
            kept = (before[one] for one in source.parameters.values())
            return [source.matrix(kept), source.weights()]

        return self.sums(2, matrices, self._step_products)

    def _step_products(self, degree: int, before: Tensor, after: Tensor) -> Tensor:
        planes, (along, step, *_) = self._views_of(before.shape)
        along.copy_(before)
        if degree == 1:
            along.sub_(after)
            return planes[:1]
        torch.sub(along, after, out=step)
        along.mul_(step)
        step.mul_(step)
        return planes[:2]

    def _views_of(self, shape: torch.Size) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The scratch memory for blocks of one shape, whole and plane by plane; to index it at
        every block would cost."""
        if shape not in self._views:
            count = 2 if self._momentum is None else 4
            planes = self._scratch[: count * math.prod(shape)].view(count, *shape)
            self._views[shape] = planes, planes.unbind()
        return self._views[shape]

    def sums(
        self,
        planes: int,
        matrices: Callable[[Source], Sequence[Tensor]],
        products: Callable[..., Tensor],
    ) -> Tensor:
        """[planes, slots], of any products of matrices that have the shapes of the sources.

        products(degree, *blocks of the matrices): [planes or fewer, *shape of a block]; the last
        planes are 0 where there are fewer.
        """
        nothing = torch.zeros(planes, 1, dtype=torch.float64, device=self._reductions.device)
        found: list[Tensor] = []
        for source in self._reductions.sources:
            if source.empty:
                found.append(nothing.expand(-1, source.slots))
                continue
            whole = matrices(source)
            height = max(1, self._block // whole[0][0].numel())
            one = len(whole[0]) <= height
            blocks = [(matrix,) if one else torch.split(matrix, height) for matrix in whole]
            for degree, rows, columns in source.passes:
                row_sums: list[Tensor] = []
                column_sums: Tensor | None = None
                for block in zip(*blocks, strict=True):
                    terms = products(degree, *block)
                    if rows:
                        row_sums.append(terms.sum(-1, dtype=torch.float64))
                    if columns:
                        more = terms.sum(1, dtype=torch.float64)
                        column_sums = more if column_sums is None else column_sums.add_(more)
                made: list[Tensor] = []
                if rows:
                    of_rows = torch.cat(row_sums, 1) if len(row_sums) > 1 else row_sums[0]
                    made += [layout.by_unit(of_rows.flatten(1)) for layout in rows]
                if column_sums is not None:
                    made += [layout.by_unit(column_sums.flatten(1)) for layout in columns]
                missing = planes - len(made[0])
                found += [F.pad(one, (0, 0, 0, missing)) for one in made] if missing else made
        return torch.cat([*found, nothing], 1)


def _weight_products(degree: int, theta: Tensor) -> Tensor:
    theta = theta.double()
    if degree == 1:
        return torch.stack([theta, theta.abs()])
    return theta.square().expand(2, *theta.shape)
