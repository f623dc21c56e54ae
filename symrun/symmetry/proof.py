"""Every symmetry that the search reports is proven on the module itself, in float64.

A finite transformation of random size must leave the loss as it is, and the gradient that backward
gives must obey its constraint. The first shows what the search misread in the network, the second
what no forward pass shows: a part without gradients, or a hook that changes one.

Units of a matrix are mixed by a random matrix, and by its negative: a ReLU between two layers that
cuts nothing off in the batch cuts off all under the other.

The constants that keep divisions safe, such as BatchNorm's eps, are made negligible meanwhile: they
break scale symmetry by as much as they are felt, which the tracker measures as the defect.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.errors import UsageError
from symrun.symmetry.generator import moved, per_unit, weighted
from symrun.symmetry.groups import Group
from symrun.symmetry.guards import guard_of, leads_to_division
from symrun.symmetry.lines import entries_of_units, with_entries
from symrun.symmetry.search import passes_differ
from symrun.symmetry.stand_ins import (
    Criterion,
    each_tensor,
    first_line,
    passed,
    seed_all,
    shapes_of,
    stand_ins,
    standing_in,
    untouched,
)
from symrun.symmetry.trace import tensors_in

LOSS_TOLERANCE = 1e-10
"""Of the loss, relative: a thousand times what rounding does to deep networks, and far below what
breaking the symmetry of a single unit does."""
GRADIENT_TOLERANCE = 1e-6
"""Of |B(theta, g)| / (|theta| |g|) in each unit."""
DRAWS = 8
"""Passes where one makes other operations than the next; else one shows what all do."""
_NEGLIGIBLE = 1e-24
_COARSER = (torch.float32, torch.float16, torch.bfloat16)
SMALL_GRADIENT = 1e-8
"""Of the largest gradient of a unit, what counts as none: its direction is rounding."""


@dataclass(frozen=True)
class Proof:
    """loss_change: the relative change of the loss under the transformations. defect: the largest
    violation of the gradient's constraint over the units. reason: why it is no symmetry; None: it
    is one. passes: how many were made; more than one where a pass differs from the next."""

    group: Group
    loss_change: float
    defect: float
    reason: str | None
    passes: int


def prove(
    model: nn.Module,
    groups: Sequence[Group],
    inputs: Any,
    criterion: Criterion,
    varies: bool | None = None,
    seed: int = 0,
) -> list[Proof]:
    """Hold `groups` against `model`, in the mode in which its modules are; nothing of it changes.

    All groups are transformed at once; only if the loss changes are they divided, to find which do
    it. The parameters are moved at random first, by a tenth, so that no weight is zero or one.

    inputs: a batch, of at least two, as in `find_structure`. criterion: from what the model returns
    to the loss. varies: as in `Structure`; None finds it out.
    Error: UsageError if the model fails in float64.
    Example:
        proofs = prove(model, structure.groups, images, lambda out: out.log_softmax(1).sum())
        [proof.group.name for proof in proofs if proof.reason is not None]
    """
    try:
        with untouched(model):
            return Prover(model, groups, inputs, criterion, varies, seed).proofs()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's forward can raise anything
        failed = f"{type(model).__name__} fails on float64 inputs of shape {shapes_of(inputs)}"
        reason = f"so its symmetries cannot be proven: {first_line(error)}"
        raise UsageError(f"{failed}, {reason}") from error


class Prover:
    """Passes of a network in float64, at a point near its weights.

    start: that point, parameters and buffers. flipped: whether a random half of the parameters'
    entries have the other sign there, which makes other units of a ReLU active.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Any,
        criterion: Criterion,
        varies: bool | None,
        seed: int,
        flipped: bool = False,
    ) -> None:
        self._model, self._groups, self._criterion, self._seed = model, groups, criterion, seed
        self._inputs = each_tensor(
            inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
        )
        seed_all(seed)
        self.start = {name: tensor.detach() for name, tensor in stand_ins(model, _nearby).items()}
        if flipped:
            for name, _ in model.named_parameters():
                signs = 2 * torch.randint(2, self.start[name].shape) - 1
                self.start[name] = self.start[name] * signs.to(self.start[name])
        self._guards, self._felt = True, False
        if varies is None:
            with _exactly(self._guards):
                varies = passes_differ(model, self._inputs, criterion, torch.float64)
        self._draws = DRAWS if varies else 1
        self._factors = [self._drawn(group) for group in groups]
        self._matrices = [
            [_matrix(factors[list(block)]) for block in group.blocks] if group.pairs else []
            for group, factors in zip(groups, self._factors, strict=True)
        ]

    def _tensors(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """In place of the model's own, with `values`."""
        given = iter(values.values())
        return stand_ins(self._model, lambda _: next(given).clone())

    def _drawn(self, group: Group) -> Tensor:
        """The size of the transformation of each unit: 0.2 to 0.5, of either sign."""
        sizes = 0.2 + 0.3 * torch.rand(group.rows, dtype=torch.float64)
        return sizes * (2 * torch.randint(2, (group.rows,)) - 1)

    def at_start(self) -> tuple[list[float], list[dict[str, Tensor]]]:
        """The loss of each pass at the point where all is proven, and the gradients."""
        losses, gradients = self._pass(self.start, with_gradients=True)
        if self._felt and self._guards:
            self._guards = False
            losses, gradients = self._pass(self.start, with_gradients=True)
        return losses, gradients

    def proofs(self) -> list[Proof]:
        if not self._groups:
            return []
        losses, gradients = self.at_start()
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
        self, values: dict[str, Tensor], with_gradients: bool = False
    ) -> tuple[list[float], list[dict[str, Tensor]]]:
        """The loss of each pass with `values` as parameters and buffers, and the gradients."""
        tensors = self._tensors(values)
        trained = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
        losses: list[float] = []
        gradients: list[dict[str, Tensor]] = []
        with untouched(self._model):
            for draw in range(self._draws):
                seed_all(self._seed + draw)
                with standing_in(self._model, tensors), _exactly(self._guards) as mode:
                    loss = self._criterion(passed(self._model, self._inputs))
                    self._felt |= mode.felt
                    if with_gradients:
                        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
                        gradients.append({
                            name: torch.zeros_like(tensor) if gradient is None else _dense(gradient)
                            for (name, tensor), gradient in zip(trained.items(), found, strict=True)
                        })  # fmt: skip
                losses.append(float(loss.detach()))
        return losses, gradients

    def _change(self, losses: list[float], some: Sequence[int]) -> float:
        """Of the loss, relative, the largest over the passes."""
        values = dict(self.start)
        exponents: dict[str, Tensor] = {}
        mixing = [number for number in some if self._groups[number].pairs]
        for number in some:
            group, factors = self._groups[number], self._factors[number]
            if group.pairs:
                continue
            ones = {one.parameter: torch.ones_like(values[one.parameter]) for one in group.members}
            for name, added in weighted(group, ones, factors, signs=True).items():
                if group.symmetry.degree == 1:
                    values[name] = values[name] + added
                else:
                    exponents[name] = exponents[name] + added if name in exponents else added
        for name, exponent in exponents.items():
            values[name] = values[name] * exponent.exp()
        changes: list[float] = []
        for sign in (1, -1) if mixing else (1,):
            mixed = dict(values)
            for number in mixing:
                self._mix(mixed, number, sign)
            found, _ = self._pass(mixed)
            if not np.isfinite([*found, *losses]).all():
                return float("inf")
            pairs = zip(found, losses, strict=True)
            changes += [abs(a - b) / max(abs(b), 1e-300) for a, b in pairs]
        return max(changes)

    def _mix(self, values: dict[str, Tensor], number: int, sign: int) -> None:
        """Mix the units of each block by its matrix M times `sign`: by M^-T where they enter."""
        group = self._groups[number]
        for block, matrix in zip(group.blocks, self._matrices[number], strict=True):
            for members in group.members:
                before = values[members.parameter]
                by = sign * (matrix if members.sign > 0 else matrix.inverse().T).to(before.device)
                mixed = by @ entries_of_units(members, before, block)
                values[members.parameter] = with_entries(members, before, block, mixed)

    def _defects(self, gradients: list[dict[str, Tensor]]) -> list[float]:
        found = [0.0] * len(self._groups)
        for gradient in gradients:
            floor = SMALL_GRADIENT * max(float(one.abs().max()) for one in gradient.values())
            for number, group in enumerate(self._groups):
                found[number] = max(found[number], self._defect(group, gradient, floor))
        return found

    def _defect(self, group: Group, gradient: dict[str, Tensor], floor: float) -> float:
        along = moved(group, {one.parameter: self.start[one.parameter] for one in group.members})
        inner = per_unit(group, along, gradient, signs=True).abs()
        size = per_unit(group, along, along).sqrt()
        steepness = per_unit(group, gradient, gradient).sqrt()
        worst = float((inner / (size * steepness.clamp(min=floor)).clamp(min=1e-300)).max())
        return worst if np.isfinite(worst) else float("inf")


def _matrix(factors: Tensor) -> Tensor:
    """Random, with e^factors as its singular values."""
    one, other = (torch.linalg.qr(torch.randn(len(factors), len(factors)).double()) for _ in "UV")
    return one.Q * factors.exp() @ other.Q


def _reason(change: float, defect: float) -> str | None:
    if not change <= LOSS_TOLERANCE:
        return f"the loss changes by {change:.1e} of itself under its transformation"
    if not defect <= GRADIENT_TOLERANCE:
        return f"the gradient breaks its constraint by {defect:.1e}, though the loss keeps it"
    return None


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _nearby(tensor: Tensor) -> Tensor:
    """In float64; a parameter is moved by a tenth, so that nothing of it is zero or one."""
    if not tensor.is_floating_point():
        return tensor.clone()
    exact = tensor.detach().to(torch.float64, copy=True)
    if isinstance(tensor, nn.Parameter) and tensor.numel():
        size = max(float(tensor.detach().norm()) / tensor.numel() ** 0.5, 0.1)
        exact.add_(torch.randn(tensor.shape).to(exact.device), alpha=0.1 * size)
    return exact


@contextlib.contextmanager
def _exactly(guards: bool) -> Iterator["_Exact"]:
    """Within it, what a network makes of its own is in float64, and constants that keep divisions
    safe are too small to be felt. guards: also those that it adds or bounds by itself."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Exact(guards) as mode:
            yield mode
    finally:
        torch.set_default_dtype(default)


class _Exact(TorchDispatchMode):
    """felt: whether something other than a division followed such a constant."""

    def __init__(self, guards: bool) -> None:
        TorchDispatchMode.__init__(self)
        self.felt = False
        self._guards = guards
        self._guarded: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        schema = function._schema
        names = [argument.name for argument in schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = schema.name.split("::")[-1].rstrip("_")
        for argument, value in values.items() if self._guarded else ():
            for tensor in tensors_in(value):
                if tensor.layout is torch.strided:
                    guarded = tensor.untyped_storage()._cdata in self._guarded
                    self.felt |= guarded and not leads_to_division(name, argument)
        guard = guard_of(name, values) if self._guards else None
        small = [one for one in ("eps", "epsilon", guard) if one in names]
        values |= dict.fromkeys(small, _NEGLIGIBLE)
        if values.get("dtype") in _COARSER:  # what the network casts to a coarser type
            values["dtype"] = torch.float64
        given = [values.pop(one.name) for one in schema.arguments[: len(args)]]
        output = function(*given, **values)
        if guard is not None:
            self._guarded[output.untyped_storage()._cdata] = output
        return output
