"""Measures a network whose optimiser moves some groups by one rule and some by another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun.config import Sums
from symrun.laws import Input, Law
from symrun.symmetry import Group, Symmetry
from symrun.tracking.measure import GradientReductions, Measure, WeightReductions
from symrun.tracking.momentum import Momentum
from symrun.tracking.shares import Shares


@dataclass(frozen=True)
class Part:
    """Groups that are moved by one rule.

    groups: their places among all groups. laws: by column, at the start. momentum: the reader of
    the buffers that move them. observed: whether the update is known only once it is made.
    """

    groups: tuple[int, ...]
    laws: Mapping[str, Law]
    momentum: Momentum | None = None
    observed: bool = False


class PartMeasures:
    """Reduces a model's parameters to the units of its groups, each part by a Measure of its own.

    parts: in any order; each group is in one. rule_of: the place of each unit's part, int64
    [units]. momentum, observed: whether any part has it.
    Error: as in Measure.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        parts: Sequence[Part],
        sums: Sums,
        shares: Shares,
    ) -> None:
        self.parts = parts
        self._measures = []
        for part in parts:
            moved = [groups[place] for place in part.groups]
            measure = Measure(model, moved, part.momentum, sums, part.observed, shares)
            self._measures.append(measure)
        self.momentum = any(part.momentum is not None for part in parts)
        self.observed = any(part.observed for part in parts)
        sizes = [group.units for group in groups]
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()
        places = [
            torch.cat([torch.arange(ends[one], ends[one + 1]) for one in part.groups])
            for part in parts
        ]
        device = next(model.parameters()).device
        self._places = [place.to(device) for place in places]
        order = torch.cat(places)
        self._order: Tensor | None = None
        """The place of each unit among those of the parts, one after the other."""
        if not torch.equal(order, torch.arange(len(order))):
            self._order = order.argsort().to(device)
        rules = [torch.full((one.degree.numel(),), n) for n, one in enumerate(self._measures)]
        self.rule_of = self._ordered(torch.cat(rules).to(device))
        self.degree = self._joined([one.degree for one in self._measures])
        """The degree of each unit's quantity, float64 [units], on the parameters' device."""
        of_scale = [group.symmetry is Symmetry.scale for group in groups]
        self.of_scale = torch.tensor(of_scale, device=device).repeat_interleave(
            torch.tensor(sizes, device=device)
        )
        """Which units have the symmetry of scale, bool [units]."""

    def weights(self) -> WeightReductions:
        found = [measure.weights() for measure in self._measures]
        return WeightReductions(
            self._joined([one.measured for one in found]),
            self._joined([one.magnitude for one in found]),
        )

    def gradients(self, due: bool) -> GradientReductions:
        """due: whether a record needs them; else what no law takes in is 0.

        Error: RunError if a parameter whose update is not observed has no gradient.
        """
        found = [
            measure.gradients(norms=due) if due or not part.observed else measure.nothing()
            for part, measure in zip(self.parts, self._measures, strict=True)
        ]
        return GradientReductions(
            self._joined([one.grad_norm_sq for one in found]),
            self._joined([self._padded(one.inputs) for one in found]),
        )

    def carried(self) -> list[Tensor | None]:
        """As `Measure.carried` for each part, over all units."""
        found = []
        for place, measure in zip(self._places, self._measures, strict=True):
            carried = measure.carried()
            if carried is not None:
                everywhere = self.degree.new_zeros(len(self.degree))
                carried = everywhere.index_copy_(0, place, carried)
            found.append(carried)
        return found

    def keep(self) -> None:
        """Remember the weights of the parts whose update is observed."""
        for part, measure in zip(self.parts, self._measures, strict=True):
            if part.observed:
                measure.keep()

    def step(self, inputs: Tensor) -> Tensor:
        """`inputs` with those of the update that was made since `keep` where it is observed."""
        found = inputs.clone()
        for part, place, measure in zip(self.parts, self._places, self._measures, strict=True):
            if part.observed:
                found.index_copy_(1, place, self._padded(measure.step()))
        return found

    def _padded(self, inputs: Tensor) -> Tensor:
        """Inputs with 0 for those of momentum, where another part needs them."""
        more = Input.count(self.momentum) - len(inputs)
        return F.pad(inputs, (0, 0, 0, more)) if more else inputs

    def _joined(self, values: Sequence[Tensor]) -> Tensor:
        """[..., units of a part] of each part as [..., units], in the order of the groups."""
        return self._ordered(values[0] if len(values) == 1 else torch.cat(list(values), -1))

    def _ordered(self, values: Tensor) -> Tensor:
        return values if self._order is None else values.index_select(-1, self._order)
