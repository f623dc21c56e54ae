"""The constraints that a symmetry puts on the Hessian H of the loss, by Hessian-vector products.

    translation   H 1_A = 0
    scale         H theta_A = -g_A
    rescale       H (theta_A2 - theta_A1) = -(g_A2 - g_A1)
    homogeneity   H v = -(a_p g_p for each parameter p) + h grad S,   v = (a_p theta_p)

in short H v_u = -g_u for each unit u, v_u being its generator (generator.py) and g_u the gradient
with the same signs on the unit's parameters, 0 elsewhere; for translation g_u stands for 0. Both
sides are vectors over all parameters. The signs may be any integers: B(theta, g) = 0 everywhere,
and this is its derivative. Of homogeneity B(theta, g) = h S, with S the sum of z dl/dz over the
outputs z.

A product for each unit would be thousands; one product for the sum of all units would let their
violations cancel. So there is one product a group, for a random combination of its units,

    v = sum over u of eps_u v_u,    eps_u ~ N(0, 1):    H v = -sum over u of eps_u g_u,

linear in v, so that a violation in any unit shows with probability one.

Source: Kunin et al. 2021, section 3.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from symrun.errors import UsageError
from symrun.symmetry import Group
from symrun.symmetry.generator import (
    Vector,
    asymmetric,
    generator,
    per_unit,
    unsigned_generator,
    weighted,
)


@dataclass(frozen=True)
class HessianConstraint:
    """One group at one point, in the arithmetic of the model's weights.

    relative_error: |H v + sum of eps_u g_u| over its scale; None where both are 0, as for units
    that are dead. largest_cosine: of the gradient constraint at that very point, over the units;
    None if none has a gradient.

    The scale is what an error should be small beside. Except for translation it is the right side,
    such as |sum of eps_u g_u|, and nothing larger: beside |H v| of an arbitrary v, a gradient as
    small as that of a plateau would vanish, and H v = 0 would pass. (The price: at a minimum
    nothing is left but rounding, 2^-53 |H v| / |g|.) For translation the right side is 0. There
    the scale is |H w|, what the Hessian makes of a direction w in the same parameters that is no
    symmetry: random, in each unit orthogonal to eps_u v_u and as long.
    """

    symmetry: str
    group: str
    units: int
    relative_error: float | None
    largest_cosine: float | None


class Curvature:
    """Gradient and Hessian of the mean loss on one batch, at a model's weights.

    One forward pass in training mode (batch statistics, one draw of dropout, from `seed`), kept
    with the graph of its gradient. Memory: a few times that of a training step. It leaves torch's
    generator seeded, and BatchNorm's running statistics advance, as in every such pass.

    output: the outputs whose S is needed, among what the model returns; None: it is not.
    Example:
        curvature = Curvature(model.double(), images.double(), labels, seed=0)
        curvature.times(curvature.gradient)["features.0.weight"]
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        seed: int,
        criterion: Callable[[Any, Tensor], Tensor] = cross_entropy,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        model.train()
        torch.manual_seed(seed)
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
            returned = model(images)
            loss = criterion(returned, labels)
        outputs = [] if output is None else [output(returned)]
        wanted = [*self._parameters.values(), *outputs]
        gradients = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
        self._graph = dict(zip(self._parameters, gradients, strict=False))
        slopes = gradients[len(self._parameters) :]
        pairs = zip(outputs, slopes, strict=True)
        self._source = sum(((z * slope).sum() for z, slope in pairs), loss.new_zeros(()))
        self.source = float(self._source.detach())
        """S; 0 without `output`."""
        self.weights: Vector = {name: p.detach() for name, p in self._parameters.items()}
        self.gradient: Vector = {name: g.detach() for name, g in self._graph.items()}

    def times(self, vector: Vector) -> Vector:
        """H v, over all parameters: the gradient of <g, v> by a second backward pass.

        Error: UsageError if torch cannot differentiate an operation of the network twice.
        """
        # Only these gradients: the pass then ends at the first layer that v names.
        return self._derivative([self._graph[name] for name in vector], [*vector.values()])

    def source_gradient(self) -> Vector:
        """grad S, over all parameters. Error: as in `times`."""
        return self._derivative([self._source])

    def _derivative(self, of: Sequence[Tensor], along: Sequence[Tensor] | None = None) -> Vector:
        """Of the sum of products of `of` and `along`."""
        parameters = list(self._parameters.values())
        with _twice_differentiable():
            found = torch.autograd.grad(
                of, parameters, along, retain_graph=True, materialize_grads=True
            )
        return dict(zip(self._parameters, found, strict=True))


@contextlib.contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Error: UsageError, naming the operation, where torch lacks a second derivative."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"derivative for (\S+) is not implemented", str(error))
        if found is None:
            raise
        reason = f"torch has no derivative of {found[1]}"
        raise UsageError(f"the Hessian of this network cannot be checked: {reason}") from None


def hessian_constraints(
    model: nn.Module,
    groups: Sequence[Group],
    images: Tensor,
    labels: Tensor,
    seed: int,
    criterion: Callable[[Any, Tensor], Tensor] = cross_entropy,
    output: Callable[[Any], Tensor] = lambda returned: returned,
) -> Iterator[HessianConstraint]:
    """Each group's constraints at the model's weights; eps_u is drawn from `seed` for each group.

    The model decides on the arithmetic: float64, or rounding is all there is to see. output: as in
    `find_homogeneity`.

    Example:
        structure = find_structure(model, images)
        worst = max(row.relative_error for row in
                    hessian_constraints(model, structure.groups, images, labels, seed=0))
    """
    chosen = output if any(group.outputs for group in groups) else None
    curvature = Curvature(model, images, labels, seed, criterion, chosen)
    for group in groups:
        yield HessianConstraint(
            group.symmetry.value,
            group.name,
            group.units,
            _relative_error(curvature, group, Generator().manual_seed(seed)),
            _largest_cosine(curvature, group),
        )


def _relative_error(curvature: Curvature, group: Group, draws: Generator) -> float | None:
    first = curvature.weights[group.members[0].parameter]
    factors = torch.randn(group.units, dtype=torch.float64, generator=draws).to(first)
    vector = generator(group, curvature.weights, factors)
    product = curvature.times(vector)
    if group.symmetry.degree == 1:
        error = _norm(product)
        scale = _norm(curvature.times(asymmetric(group, vector, draws)))
    else:
        right_side = dict(weighted(group, curvature.gradient, factors, signs=True))
        if group.outputs:
            factor = group.outputs * factors[0]
            for name, along in curvature.source_gradient().items():
                right_side[name] = right_side.get(name, 0) - factor * along
        error = _norm({name: product[name] + right_side.get(name, 0) for name in product})
        scale = _norm(right_side)
    if scale == 0:
        return None if error == 0 else math.inf
    return error / scale


def _largest_cosine(curvature: Curvature, group: Group) -> float | None:
    """|<g, v_u>| beside what B without signs allows, the largest over units with a gradient."""
    along, gradient = unsigned_generator(group, curvature.weights), curvature.gradient
    norms_sq = per_unit(group, along, along) * per_unit(group, gradient, gradient)
    alive = norms_sq != 0  # True for NaN: weights that diverged shall show
    if not alive.any():
        return None
    defect = per_unit(group, along, gradient, signs=True) - group.outputs * curvature.source
    return float((defect.abs()[alive] / norms_sq[alive].sqrt()).max())


def _norm(vector: Vector) -> float:
    """Over all parameters together."""
    return float(torch.stack([values.norm() for values in vector.values()]).norm())
