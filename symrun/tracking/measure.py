"""Sums weights and gradients over each unit, in float64, on the parameters' device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symrun.config import Sums
from symrun.laws import Input
from symrun.symmetry import Group
from symrun.tracking.momentum import Momentum
from symrun.tracking.pairs import PairSums
from symrun.tracking.reductions import Reductions, Source
from symrun.tracking.select import select_sums
from symrun.tracking.shares import Shares
from symrun.tracking.torch_sums import TorchSums


@dataclass(frozen=True)
class WeightReductions:
    """Each float64 [units].

    measured: the conserved quantity, sum of theta or B(theta, theta).
    magnitude: its natural scale, sum of |sign theta| or of |sign| theta^2.
    """

    measured: Tensor
    magnitude: Tensor


@dataclass(frozen=True)
class GradientReductions:
    """grad_norm_sq: sum of |sign| g^2 over all of a unit's parameters, float64 [units].

    inputs: the inputs of the laws for the next update, [3 or 5, units], in the order of `Input`;
    the source, which the tracker knows, is 0.
    """

    grad_norm_sq: Tensor
    inputs: Tensor


class Measure:
    """Reduces a model's parameters to the units of its groups, one group after the other.

    Nothing here waits for the device or changes the parameters. Each method but `keep` adds up the
    sums of all ranks, so all of these call it.

    groups: those of general_linear after all others.
    momentum: reads the momentum buffers; None for SGD without momentum. observed: the update is
    found from the weights before and after it, so a parameter may lack a gradient.
    shares: what this rank sums; None: everything.
    Error: UsageError if the kernel is asked for where it cannot run, or pairs of units where the
    weights are spread over ranks.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        momentum: Momentum | None = None,
        sums: Sums = Sums.auto,
        observed: bool = False,
        shares: Shares | None = None,
    ) -> None:
        shares = shares or Shares(model)
        plain = [one for one in groups if not one.pairs]
        mixing = [one for one in groups if one.pairs]
        assert list(groups) == plain + mixing, "groups of general_linear come last"
        self._kinds: list[GroupSums | PairSums] = []
        if plain:
            self._kinds.append(GroupSums(model, plain, momentum, sums, observed, shares))
        if mixing:
            self._kinds.append(PairSums(model, mixing, momentum, observed, shares))
        self._momentum = momentum
        self.degree = torch.cat([one.degree for one in self._kinds])
        """The degree of each unit's quantity, float64 [units], on the parameters' device."""

    @torch.no_grad()
    def weights(self) -> WeightReductions:
        return WeightReductions(*self._joined([one.weights() for one in self._kinds]))

    @torch.no_grad()
    def gradients(self, norms: bool = True) -> GradientReductions:
        """norms: as in `TorchSums.gradients`. Error: RunError if a parameter has no gradient."""
        found = self._joined([one.gradients(norms) for one in self._kinds])
        source = torch.zeros_like(found[:1])
        return GradientReductions(found[-1], torch.cat([found[:2], source, found[2:-1]]))

    def nothing(self) -> GradientReductions:
        """What `gradients` gives, all 0."""
        zero = torch.zeros_like(self.degree)
        return GradientReductions(zero, zero.expand(Input.count(self._momentum is not None), -1))

    @torch.no_grad()
    def carried(self) -> Tensor | None:
        """B(theta_n, b_{n-1}), or the sum of b_{n-1}, float64 [units]; None without buffers."""
        momentum = self._momentum
        if momentum is None or momentum.first:
            return None
        return self._joined([one.carried(momentum) for one in self._kinds])

    @torch.no_grad()
    def keep(self) -> None:
        """Remember theta_n until `step` is called, in memory that is taken once."""
        for one in self._kinds:
            one.keep()

    @torch.no_grad()
    def step(self) -> Tensor:
        """Of w_n = theta_n - theta_{n+1} since `keep`, as inputs of `ObservedUpdate`: B(w, w), 0
        for a linear quantity, B(theta, w), or the sum of w, and no source; float64 [3, units]."""
        found = self._joined([one.steps() for one in self._kinds])
        return torch.cat([found, torch.zeros_like(found[:1])])

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        return values[0] if len(values) == 1 else torch.cat(list(values), -1)


class GroupSums:
    """Sums over each unit of groups whose units have lines of their own.

    Tensors are float64 [planes, units].
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        momentum: Momentum | None,
        sums: Sums,
        lenient: bool,
        shares: Shares,
    ) -> None:
        self._reductions = Reductions(model, groups, lenient, shares)
        self._shares = shares
        self._sums = select_sums(sums, self._reductions, momentum)
        self._plain = (
            self._sums if isinstance(self._sums, TorchSums) else TorchSums(self._reductions, None)
        )
        self._before: dict[nn.Parameter, Tensor] = {}
        self.degree = self._reductions.degree
        self._forced = (self.degree > 1).to(self.degree)
        """0 for a linear quantity, which B(g, g) does not drive; else 1."""

    def weights(self) -> Tensor:
        """The quantity, and its scale."""
        sums = self._shares.added(self._sums.weights())
        return torch.cat([self._reductions.signed(sums[:1]), self._reductions.unsigned(sums[1:])])

    def gradients(self, norms: bool) -> Tensor:
        """The inputs of the laws in the order of `Input`, then sums of |sign| g^2."""
        if isinstance(self._sums, TorchSums):
            sums = self._shares.added(self._sums.distinct(norms))
            units = self._sums.completed(self._reductions.signed(sums), norms)
            squares = sums[:1]
        else:
            sums = self._shares.added(self._sums.gradients(norms))
            units, squares = self._reductions.signed(sums), sums[1:2]
        defect, force, *carried = units
        scale = self._reductions.unsigned(squares)[0] if norms else torch.zeros_like(defect)
        return torch.stack([self._forced * force, defect, *carried, scale])

    def carried(self, momentum: Momentum) -> Tensor:
        """Of theta_n and b_{n-1}, [units]."""

        def matrices(source: Source) -> list[Tensor]:
            buffers = map(momentum.buffer, source.parameters.values())
            return [source.weights(), source.matrix(source.local(buffers))]

        sums = self._shares.added(self._plain.sums(2, matrices, _along))
        carried: Tensor = self._reductions.signed(sums)[0]
        return carried

    def keep(self) -> None:
        local = self._reductions.local(lambda weight: weight)
        weights = dict(zip(self._reductions.parameters, local, strict=True))  # each once
        if not self._before:
            self._before = {one: torch.empty_like(weight) for one, weight in weights.items()}
        torch._foreach_copy_(list(self._before.values()), list(weights.values()))

    def steps(self) -> Tensor:
        """B(w, w), then B(theta, w), of the step w since `keep`."""
        sums = self._shares.added(self._plain.steps(self._before))
        along, force = self._reductions.signed(sums)
        return torch.stack([self._forced * force, along])


def _along(degree: int, theta: Tensor, vector: Tensor) -> Tensor:
    vector = vector.double()
    if degree == 1:
        return torch.stack([vector, torch.zeros_like(vector)])
    return torch.stack([theta.double() * vector, vector.square()])
