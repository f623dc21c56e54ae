"""Every symmetry that the search reports is proven on the module itself, in float64.

A finite transformation of random size must leave the loss as it is, and the gradient that backward
gives must obey its constraint. The first shows what the search misread in the network, the second
what no forward pass shows: a part without gradients, or a hook that changes one.

The constants that keep divisions safe, such as BatchNorm's eps, are made negligible meanwhile: they
break scale symmetry by as much as they are felt, which the tracker measures as the defect.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.symmetry.generator import moved, per_unit, weighted
from symrun.symmetry.groups import Group
from symrun.symmetry.rules_elementwise import EPS

LOSS_TOLERANCE = 1e-10
"""Of the loss, relative: a thousand times what rounding does to deep networks, and far below what
breaking the symmetry of a single unit does."""
GRADIENT_TOLERANCE = 1e-6
"""Of |B(theta, g)| / (|theta| |g|) in each unit."""
DRAWS = 4
"""Forward passes with other random numbers, if these matter."""
_NEGLIGIBLE = 1e-24
_SMALL_GRADIENT = 1e-8
"""Of the largest gradient of a unit, what counts as none: its direction is rounding."""

Criterion = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Proof:
    """loss_change: the relative change of the loss under the transformations. defect: the largest
    violation of the gradient's constraint over the units. reason: why it is no symmetry; None: it
    is one. passes: how many were made of each loss; more than 2 if it differs from pass to pass."""

    group: Group
    loss_change: float
    defect: float
    reason: str | None
    passes: int


def prove(
    model: nn.Module, groups: Sequence[Group], inputs: Tensor, criterion: Criterion, seed: int = 0
) -> list[Proof]:
    """Hold `groups` against `model`, in the mode in which its modules are; nothing of it changes.

    All groups are transformed at once; only if the loss changes are they divided, to find which do
    it. The parameters are moved at random first, by a tenth, so that no weight is zero or one.

    inputs: a batch, of at least two. criterion: from what the model returns to the loss.
    Example: [proof.group.name for proof in prove(model, groups, images, loss) if proof.reason]
    """
    with _random_numbers_kept(), torch.enable_grad():
        return _Prover(model, groups, inputs, criterion, seed).proofs()


class _Prover:
    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Tensor,
        criterion: Criterion,
        seed: int,
    ) -> None:
        self._groups, self._criterion, self._seed = groups, criterion, seed
        self._inputs = inputs.double() if inputs.is_floating_point() else inputs
        _seed_all(seed)
        self._model = copy.deepcopy(model).double()
        self._parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            for parameter in self._parameters.values():
                if parameter.is_floating_point() and parameter.numel():
                    size = parameter.square().mean().sqrt().clamp(min=0.1)
                    parameter += 0.1 * size * torch.randn_like(parameter)
        self._start = copy.deepcopy(self._model)
        self._factors = [self._drawn(group) for group in groups]

    def _drawn(self, group: Group) -> Tensor:
        """The size of the transformation of each unit: 0.2 to 0.5, of either sign."""
        sizes = 0.2 + 0.3 * torch.rand(group.units, dtype=torch.float64)
        return sizes * (2 * torch.randint(2, (group.units,)) - 1)

    def proofs(self) -> list[Proof]:
        if not self._groups:
            return []
        losses, gradients = self._pass(self._model, with_gradients=True)
        defects = self._defects(gradients)
        change = self._change(losses, range(len(self._groups)))
        changes = dict.fromkeys(range(len(self._groups)), change)
        if not change <= LOSS_TOLERANCE:
            self._divide(losses, list(range(len(self._groups))), changes)
        return [
            Proof(group, changes[number], defect, _reason(changes[number], defect), len(losses))
            for number, (group, defect) in enumerate(zip(self._groups, defects, strict=True))
        ]

    def _divide(self, losses: list[float], some: list[int], changes: dict[int, float]) -> None:
        """Find by halves which of `some` change the loss."""
        half = len(some) // 2
        for part in (some[:half], some[half:]) if half else ():
            change = self._change(losses, part)
            changes |= dict.fromkeys(part, change)
            if not change <= LOSS_TOLERANCE:
                self._divide(losses, part, changes)

    def _pass(
        self, model: nn.Module, with_gradients: bool = False
    ) -> tuple[list[float], list[dict[str, Tensor]]]:
        """The loss in as many passes as random numbers, or the count of calls, make a difference;
        and the gradients."""
        losses: list[float] = []
        gradients: list[dict[str, Tensor]] = []
        for draw in range(DRAWS):
            _seed_all(self._seed + draw)
            model.zero_grad(set_to_none=True)
            with _negligible_eps():
                loss = self._criterion(model(self._inputs))
                if with_gradients:
                    loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            if with_gradients:
                gradients.append(
                    {
                        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                        for name, p in model.named_parameters()
                    }
                )
            if draw == 1 and losses[0] == losses[1]:
                break
        return losses, gradients

    def _change(self, losses: list[float], some: Sequence[int]) -> float:
        """Of the loss, relative, the largest over the passes."""
        model = copy.deepcopy(self._start)
        parameters = dict(model.named_parameters())
        exponents: dict[str, Tensor | float] = {}
        with torch.no_grad():
            for number in some:
                group, factors = self._groups[number], self._factors[number]
                ones = {one.parameter: torch.ones_like(parameters[one.parameter])
                        for one in group.members}  # fmt: skip
                for name, added in weighted(group, ones, factors, signs=True).items():
                    if group.symmetry.degree == 1:
                        parameters[name] += added
                    else:
                        exponents[name] = exponents.get(name, 0.0) + added
            for name, exponent in exponents.items():
                parameters[name] *= torch.as_tensor(exponent).exp()
        found, _ = self._pass(model)
        if len(found) != len(losses) or not np.isfinite([*found, *losses]).all():
            return float("inf")
        return max(
            abs(a - b) / max(abs(b), 1e-300) for a, b in zip(found, losses, strict=True)
        )

    def _defects(self, gradients: list[dict[str, Tensor]]) -> list[float]:
        with torch.no_grad():
            return [max(self._defect(group, one) for one in gradients) for group in self._groups]

    def _defect(self, group: Group, gradient: dict[str, Tensor]) -> float:
        along = moved(group, self._parameters)
        inner = per_unit(group, along, gradient, signs=True).abs()
        size = per_unit(group, along, along).sqrt()
        steepness = per_unit(group, gradient, gradient).sqrt()
        floor = _SMALL_GRADIENT * max(float(g.abs().max()) for g in gradient.values())
        return float((inner / (size * steepness.clamp(min=floor)).clamp(min=1e-300)).max())


def _reason(change: float, defect: float) -> str | None:
    if not change <= LOSS_TOLERANCE:
        return f"the loss changes by {change:.1e} of itself under its transformation"
    if not defect <= GRADIENT_TOLERANCE:
        return f"the gradient breaks its constraint by {defect:.1e}, though the loss keeps it"
    return None


def _seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class _negligible_eps(TorchDispatchMode):
    """Within it, constants that keep divisions safe are too small to be felt in float64."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        schema = function._schema
        names = [argument.name for argument in schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = schema.name.split("::")[-1].rstrip("_")
        guards = [one for one in ("eps", "epsilon") if one in names]
        if name == "add" and isinstance(values.get("other"), float):
            guards += ["other"] if 0 < values["other"] <= EPS else []
        if name in ("clamp", "clamp_min") and values.get("max") is None:
            bound = values.get("min")
            guards += ["min"] if isinstance(bound, float) and 0 < bound <= EPS else []
        for guard in guards:
            values[guard] = _NEGLIGIBLE
        if not guards:
            return function(*args, **(kwargs or {}))
        positional = [a.name for a in schema.arguments if not a.kwarg_only and a.name in values]
        given = [values.pop(name) for name in positional[: max(len(args), len(positional))]]
        return function(*given, **values)
