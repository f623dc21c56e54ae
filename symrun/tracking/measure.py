"""Sums weights and gradients over each unit, in float64, on the parameters' device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symrun.config import Sums
from symrun.symmetry import Group
from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import Reductions
from symrun.tracking.select import select_sums


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

    inputs: the inputs of the laws for the next update, [2 or 4, units], in the order of `Input`.
    """

    grad_norm_sq: Tensor
    inputs: Tensor


class Measure:
    """Reduces a model's parameters to the units of its groups, one group after the other.

    Nothing here waits for the device or changes the parameters.

    momentum: reads the momentum buffers; None for SGD without momentum.
    Error: UsageError if the kernel is asked for where it cannot run.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        momentum: Momentum | None = None,
        sums: Sums = Sums.auto,
    ) -> None:
        self._reductions = Reductions(model, groups)
        self._sums = select_sums(sums, self._reductions, momentum)
        self._momentum = momentum
        self.degree = self._reductions.degree
        """The degree of each unit's quantity, float64 [units], on the parameters' device."""
        self._forced = (self.degree > 1).to(self.degree)
        """0 for a linear quantity, which B(g, g) does not drive; else 1."""

    @torch.no_grad()
    def weights(self) -> WeightReductions:
        sums = self._sums.weights()
        (measured,) = self._reductions.signed(sums[:1])
        (magnitude,) = self._reductions.unsigned(sums[1:])
        return WeightReductions(measured, magnitude)

    @torch.no_grad()
    def gradients(self) -> GradientReductions:
        """Error: RunError if a parameter has no gradient."""
        sums = self._sums.gradients()
        defect, force, *carried = self._reductions.signed(sums)
        (grad_norm_sq,) = self._reductions.unsigned(sums[1:2])
        return GradientReductions(
            grad_norm_sq, torch.stack([self._forced * force, defect, *carried])
        )
