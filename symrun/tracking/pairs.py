"""Sums over pairs of units, in float64: the entries off the diagonal of conserved matrices."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from symrun.errors import UsageError
from symrun.symmetry import Group
from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import gradient_of
from symrun.tracking.shares import Shares, is_spread
from symrun.tracking.stacks import Stack, stacks_of
from symrun.tracking.torch_sums import entries_at_once

_Tensors = Mapping[str, Tensor]
_Factors = Callable[[Tensor], Sequence[tuple[Tensor, Tensor] | None]]
"""Takes a piece of each tensor, float64 [tensors, rows, entries]; returns the two factors of each
plane, or None for a plane that stays 0."""


def require_whole(model: nn.Module) -> None:
    """Error: UsageError if weights of `model` are spread over ranks."""
    if is_spread(model):
        raise UsageError(
            "track.matrices needs whole weights on each rank, and those of this model are spread "
            "over ranks as DTensors: record the diagonals alone, with track.matrices=diagonal"
        )


class PairSums:
    """The reducer B_ab of each pair of units that groups of general_linear have.

        B_ab(x, y) = sum over i of a_i (x_ai y_bi + x_bi y_ai) / 2

    Its methods are those of `GroupSums`, with a scale that is the mean of both units' own, so that
    |B_ab(x, y)|^2 is at most the product of the scales of x and y.

    Ranks that hold the same model take turns with the pieces, and add up what they found.

    momentum: reads the momentum buffers; None for SGD without momentum. lenient: whether a
    parameter may lack a gradient, which counts as 0 then.
    Error: UsageError if weights are spread over ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        momentum: Momentum | None,
        lenient: bool,
        shares: Shares,
    ) -> None:
        require_whole(model)
        every = dict(model.named_parameters())
        self._parameters = {
            one.parameter: every[one.parameter] for group in groups for one in group.members
        }
        self._momentum, self._lenient, self._shares = momentum, lenient, shares
        self._before: dict[str, Tensor] = {}
        """The weights before an update that is observed."""
        device = next(iter(every.values())).device
        self._stacks: list[tuple[Stack, slice, slice]] = []
        """Each with the places of its products and of its rows among those of all."""
        self.units = sum(group.units for group in groups)
        index = torch.empty(4, self.units, dtype=torch.int64)
        start = self._products = self._rows = 0
        for group in groups:
            for stack, units in stacks_of(group, device, entries_at_once(device)):
                places = torch.stack([self._products + one for one in stack.places()])
                index[:, start + torch.tensor(units)] = torch.cat(
                    [places, self._rows + stack.pairs]
                )
                products = slice(self._products, self._products + stack.products)
                rows = slice(self._rows, self._rows + stack.rows)
                self._products, self._rows = products.stop, rows.stop
                self._stacks.append((stack, products, rows))
            start += group.units
        self._entries, self._mirrored, self._first, self._second = index.to(device)
        largest = max(
            stack.rows * piece.entries for stack, _, _ in self._stacks for piece in stack.pieces
        )
        planes = 2 if momentum is None else 4
        self._scratch = torch.empty(planes * largest, dtype=torch.float64, device=device)
        self.degree = self._scratch.new_full((self.units,), 2.0)

    def weights(self) -> Tensor:
        """B_ab(theta, theta), and its scale."""
        return self._sums(1, [self._parameters], lambda of: [(of[0], of[0])], scale_of=0)

    def gradients(self, norms: bool = True) -> Tensor:
        """B_ab(g, g) and B_ab(theta, g); with momentum also B_ab(u, u) and B_ab(u, b); then the
        scale of B_ab(g, g).

        norms: whether this scale is asked for, and with momentum B_ab(g, g); they are 0 else.
        Error: RunError if a parameter has no gradient.
        """
        parameters, momentum = self._parameters, self._momentum
        gradients = {
            name: gradient_of(name, one, self._lenient) for name, one in parameters.items()
        }
        scale_of = 1 if norms else None
        if momentum is None:
            return self._sums(
                2, [parameters, gradients], lambda of: [(of[1], of[1]), (of[0], of[1])], scale_of
            )
        first, nesterov = momentum.first, momentum.nesterov
        last = None if first else {n: momentum.buffer(one) for n, one in parameters.items()}

        def factors(of: Tensor) -> Sequence[tuple[Tensor, Tensor] | None]:
            theta, g, _, before = of
            buffer, update = momentum.buffer_and_update(
                theta, g, None if first else before, (of[2], of[3])
            )
            squared = (g, g) if norms else None
            return squared, (theta, g), (update, update), (update, buffer) if nesterov else None

        found = self._sums(4, [parameters, gradients, None, last], factors, scale_of)
        if not nesterov:  # u is b
            found[3].copy_(found[2])
        return found

    def carried(self, momentum: Momentum) -> Tensor:
        """B_ab(theta_n, b_{n-1}), [units]."""
        buffers = {name: momentum.buffer(one) for name, one in self._parameters.items()}
        return self._sums(1, [self._parameters, buffers], lambda of: [(of[0], of[1])])[0]

    def keep(self) -> None:
        """Remember theta_n until `steps` is called, in memory that is taken once."""
        weights = [one.detach() for one in self._parameters.values()]
        if not self._before:
            kept = map(torch.empty_like, weights)
            self._before = dict(zip(self._parameters, kept, strict=True))
        torch._foreach_copy_(list(self._before.values()), weights)

    def steps(self) -> Tensor:
        """B_ab(w, w) and B_ab(theta, w) of the step w since `keep`."""

        def factors(of: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
            theta, step = of[0], torch.sub(of[0], of[1], out=of[1])
            return [(step, step), (theta, step)]

        return self._sums(2, [self._before, self._parameters], factors)[:2]

    def _sums(
        self,
        planes: int,
        read: Sequence[_Tensors | None],
        factors: _Factors,
        scale_of: int | None = None,
    ) -> Tensor:
        """[planes + 1, units], the last of which is the scale of what was read at `scale_of`; 0 if
        that is None.

        read: what a piece is made of; None for memory that `factors` fills.
        """
        sums = self._scratch.new_zeros(planes, self._products)
        sizes = self._scratch.new_zeros(self._rows)
        number = 0
        for stack, products, rows in self._stacks:
            for piece in stack.pieces:
                number += 1
                if not self._shares.takes(number):
                    continue
                size = stack.rows * piece.entries
                memory = self._scratch[: len(read) * size].view(len(read), stack.rows, -1)
                for tensors, plane in zip(read, memory, strict=True):
                    if tensors is not None:
                        piece.copy(tensors, plane)
                for plane, pair in zip(sums, factors(memory), strict=True):
                    if pair is not None:
                        stack.add(plane[products], *pair, piece.sign)
                if scale_of is not None:
                    squares = memory[scale_of].square().sum(1)
                    sizes[rows].add_(squares, alpha=abs(piece.sign))
        entries = sums.index_select(1, self._entries) + sums.index_select(1, self._mirrored)
        scale = sizes.index_select(0, self._first) + sizes.index_select(0, self._second)
        return self._shares.added(torch.cat([entries, scale[None]]).div_(2))
