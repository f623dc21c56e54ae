"""Reductions of weights and gradients, per unit, in float64, on the parameters' device."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symrun.errors import RunError
from symrun.laws import Drive, MomentumDrive
from symrun.symmetry import Block, Group
from symrun.tracking.momentum import Momentum


@dataclass(frozen=True)
class WeightReductions:
    """Each float64 [units].

    measured: the conserved quantity, sum of theta or B(theta, theta).
    magnitude: its natural scale, sum of |theta| or of theta^2, without signs.
    """

    measured: Tensor
    magnitude: Tensor


@dataclass(frozen=True)
class GradientReductions:
    """grad_norm_sq: sum of g^2 over all of a unit's parameters, without signs, float64 [units].

    drive: what takes the laws over the coming update.
    """

    grad_norm_sq: Tensor
    drive: Drive


class Measure:
    """Reduces a model's parameters to the units of its groups, laid one after the other.

    Nothing here waits for the device, and nothing is written to the parameters.

    momentum: what the optimiser adds to the gradient; None for an update along the gradient.
    """

    def __init__(
        self, model: nn.Module, groups: Sequence[Group], momentum: Momentum | None = None
    ) -> None:
        self._momentum = momentum
        parameters = dict(model.named_parameters())
        self.units = sum(group.units for group in groups)
        self._places: dict[str, list[_Place]] = defaultdict(list)
        start = 0
        for group in groups:
            units = slice(start, start + group.units)
            for block in group.blocks:
                self._places[block.parameter].append(_Place(block, units, group.symmetry.degree))
            start += group.units
        self._parameters = {name: parameters[name] for name in self._places}
        self.device = next(iter(parameters.values())).device
        degrees = [degree for group in groups for degree in [group.symmetry.degree] * group.units]
        self.degree = torch.tensor(degrees, dtype=torch.float64, device=self.device)

    @torch.no_grad()
    def weights(self) -> WeightReductions:
        measured, magnitude = self._zeros(), self._zeros()
        for name, places in self._places.items():
            weight = self._parameters[name].double()
            size, size_sq = weight.abs(), weight.square()
            for place in places:
                units, sign = place.units, place.block.sign
                if place.degree == 1:
                    measured[units] += sign * place.reduce(weight)
                    magnitude[units] += place.reduce(size)
                else:
                    norm_sq = place.reduce(size_sq)
                    measured[units] += sign * norm_sq
                    magnitude[units] += norm_sq
        return WeightReductions(measured, magnitude)

    @torch.no_grad()
    def gradients(self) -> GradientReductions:
        """Error: RunError if a parameter has no gradient."""
        grad_norm_sq, force, defect = self._zeros(), self._zeros(), self._zeros()
        momentum = self._momentum
        carried = MomentumDrive(self._zeros(), self._zeros(), momentum.first) if momentum else None
        for name, places in self._places.items():
            parameter = self._parameters[name]
            if parameter.grad is None:
                raise RunError(f"{name} has no gradient: the loss does not depend on it")
            weight, gradient = parameter.double(), parameter.grad.double()
            gradient_sq, product = gradient.square(), gradient * weight
            for place in places:
                units, sign = place.units, place.block.sign
                norm_sq = place.reduce(gradient_sq)
                grad_norm_sq[units] += norm_sq
                if place.degree == 1:
                    defect[units] += sign * place.reduce(gradient)
                else:
                    force[units] += sign * norm_sq
                    defect[units] += sign * place.reduce(product)
            if momentum is None or carried is None:
                continue
            coming = momentum.update(parameter, weight, gradient)
            update_sq, update_buffer = coming.update.square(), coming.update * coming.buffer
            for place in places:
                if place.degree == 2:
                    units, sign = place.units, place.block.sign
                    carried.force[units] += sign * place.reduce(update_sq)
                    carried.cross[units] += sign * place.reduce(update_buffer)
        return GradientReductions(grad_norm_sq, Drive(self.degree, force, defect, carried))

    def _zeros(self) -> Tensor:
        return torch.zeros(self.units, dtype=torch.float64, device=self.device)


@dataclass(frozen=True)
class _Place:
    """Where a block's units lie among all units."""

    block: Block
    units: slice
    degree: int

    def reduce(self, values: Tensor) -> Tensor:
        axes = self.block.summed_axes
        values = values.reshape(self.block.shape)
        return values.sum(axes) if axes else values  # torch takes no axes for all axes
