"""Every symmetry that the search reports is proven on the module itself, in float64.

A finite transformation of random size must leave the loss as it is, and the gradient that backward
gives must obey its constraint. Of homogeneity the outputs must scale as the group says, and the
constraint has their source on its other side. The first shows what the search misread in the
network, the second what no forward pass shows: a part without gradients, or a hook that changes
one.

Units of a matrix are mixed by a random matrix, and by its negative: if a ReLU between two layers
cuts nothing off under one, it cuts all off under the other.

The constants that keep divisions safe, such as BatchNorm's eps, are made negligible meanwhile: they
break scale symmetry by as much as they are felt, which the tracker measures as the defect.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from symrun.errors import UsageError
from symrun.symmetry.exactly import exactly, nearby
from symrun.symmetry.generator import per_unit, unsigned_generator, weighted
from symrun.symmetry.groups import Group, Symmetry
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

LOSS_TOLERANCE = 1e-10
"""Of the loss, relative: a thousand times what rounding does to deep networks, and far below what
breaking the symmetry of a single unit does."""
GRADIENT_TOLERANCE = 1e-6
"""Of |B(theta, g)| / (|theta| |g|) in each unit."""
DRAWS = 8
"""Passes where one makes other operations than the next; else one shows what all do."""
SMALL_GRADIENT = 1e-8
"""Of the largest gradient of a unit, what counts as none: its direction is rounding."""


@dataclass(frozen=True)
class Proof:
    """loss_change: the relative change of the loss under the transformations; of homogeneity, that
    of the outputs beside what the group says. defect: the largest violation of the gradient's
    constraint over the units. reason: why it is no symmetry; None: it is one. passes: how many were
    made; more than one where a pass differs from the next."""

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
    output: Callable[[Any], Tensor] = lambda returned: returned,
) -> list[Proof]:
    """Hold `groups` against `model`, in the mode in which its modules are; nothing of it changes.

    All groups are transformed at once; only if the loss changes are they divided, to find which do
    it. The parameters are moved at random first, by a tenth, so that no weight is zero or one.

    inputs: a batch, of at least two, as in `find_structure`. criterion: from what the model returns
    to the loss. varies: as in `Structure`; None finds it out. output: as in `find_homogeneity`.
    Error: UsageError if the model fails in float64.
    Example:
        proofs = prove(model, structure.groups, images, lambda out: out.log_softmax(1).sum())
        [proof.group.name for proof in proofs if proof.reason is not None]
    """
    with untouched(model), in_float64(model, inputs, "symmetries cannot be proven"):
        return Prover(model, groups, inputs, criterion, varies, 0, output).proofs()


@contextlib.contextmanager
def in_float64(model: nn.Module, inputs: Any, consequence: str) -> Iterator[None]:
    """Error: UsageError for whatever `model` raises within it, but for a lack of memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's forward can raise anything
        failed = f"{type(model).__name__} fails on float64 inputs of shape {shapes_of(inputs)}"
        raise UsageError(f"{failed}, so its {consequence}: {first_line(error)}") from error


class Pass(NamedTuple):
    """One pass. outputs, source: the outputs and the sum of z dL/dz over them, where a group of
    homogeneity needs them."""

    loss: float
    gradient: dict[str, Tensor]
    outputs: Tensor
    source: float


class Prover:
    """Passes of a network in float64, at a point near its weights.

    start: that point, parameters and buffers. flipped: whether about half of the entries have the
    other sign there, which makes other units of a ReLU active.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Any,
        criterion: Criterion,
        varies: bool | None,
        seed: int,
        output: Callable[[Any], Tensor] = lambda returned: returned,
        flipped: bool = False,
    ) -> None:
        self._model, self._groups, self._criterion, self._seed = model, groups, criterion, seed
        balanced = [group.symmetry is Symmetry.homogeneity for group in groups]
        self._conserved = [number for number, one in enumerate(balanced) if not one]
        self._output = output if any(balanced) else None
        self._inputs = each_tensor(
            inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor
        )
        seed_all(seed)
        self.start = {name: tensor.detach() for name, tensor in stand_ins(model, nearby).items()}
        if flipped:
            for name, _ in model.named_parameters():
                self._flip(self.start[name])
        self._guards, self._felt = True, False
        if varies is None:
            with exactly(self._guards):
                varies = passes_differ(model, self._inputs, criterion, torch.float64)
        self._draws = DRAWS if varies else 1
        self._factors = [self._drawn(group) for group in groups]
        self._matrices = [
            [_matrix(factors[list(block)]) for block in group.blocks] if group.pairs else []
            for group, factors in zip(groups, self._factors, strict=True)
        ]

    def _flip(self, values: Tensor) -> None:
        """Change the signs of random rows, and of random columns: as good as of random entries,
        for which large layers need seconds."""
        for axis, size in enumerate(values.shape):
            signs = 2 * torch.randint(2, (size,)) - 1
            shape = [size if one == axis else 1 for one in range(values.dim())]
            values.mul_(signs.view(shape).to(values))

    def _drawn(self, group: Group) -> Tensor:
        """The size of the transformation of each unit: 0.2 to 0.5, of either sign."""
        sizes = 0.2 + 0.3 * torch.rand(group.rows, dtype=torch.float64)
        return sizes * (2 * torch.randint(2, (group.rows,)) - 1)

    def at_start(self) -> list[Pass]:
        """The passes at `start`, with gradients."""
        found = self._passes(self.start, with_gradients=True)
        if self._felt and self._guards:
            self._guards = False
            found = self._passes(self.start, with_gradients=True)
        return found

    def proofs(self) -> list[Proof]:
        if not self._groups:
            return []
        before = self.at_start()
        defects = self._defects(before)
        change = self._change(before, self._conserved)
        changes = dict.fromkeys(self._conserved, change)
        if not change <= LOSS_TOLERANCE:
            self._divide(before, self._conserved, changes)
        found = []
        for number, (group, defect) in enumerate(zip(self._groups, defects, strict=True)):
            balanced = number not in changes
            change = self._change(before, [number], group.outputs) if balanced else changes[number]
            what = _OUTPUTS if balanced else _LOSS
            found.append(Proof(group, change, defect, _reason(what, change, defect), len(before)))
        return found

    def _divide(self, before: list[Pass], some: list[int], changes: dict[int, float]) -> None:
        """Find by halves which of `some` change the loss."""
        half = len(some) // 2
        for part in (some[:half], some[half:]) if half else ():
            change = self._change(before, part)
            changes |= dict.fromkeys(part, change)
            if not change <= LOSS_TOLERANCE:
                self._divide(before, part, changes)

    def _passes(self, values: dict[str, Tensor], with_gradients: bool = False) -> list[Pass]:
        """Each with `values` as parameters and buffers."""
        given = iter(values.values())
        tensors = stand_ins(self._model, lambda _: next(given).clone())
        trained = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
        found = []
        with untouched(self._model):
            for draw in range(self._draws):
                seed_all(self._seed + draw)
                gradient, source = {}, 0.0
                with standing_in(self._model, tensors), exactly(self._guards) as mode:
                    returned = passed(self._model, self._inputs)
                    outputs = [] if self._output is None else [self._output(returned)]
                    loss = self._criterion(returned)
                    self._felt |= mode.felt
                    if with_gradients:
                        wanted = [*trained.values(), *outputs]
                        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
                        gradient = {
                            name: torch.zeros_like(tensor) if one is None else _dense(one)
                            for (name, tensor), one in zip(trained.items(), gradients, strict=False)
                        }
                        for z, steepness in zip(outputs, gradients[len(trained) :], strict=True):
                            source = (
                                0.0 if steepness is None else float((z.detach() * steepness).sum())
                            )
                z = outputs[0].detach() if outputs else loss.detach()
                found.append(Pass(float(loss.detach()), gradient, z, source))
        return found

    def _change(self, before: list[Pass], some: Sequence[int], outputs: int = 0) -> float:
        """Of the loss, relative, the largest over the passes. outputs: the exponent of the outputs,
        whose change beside it counts in place of the loss; 0: the loss does."""
        values = dict(self.start)
        exponents: dict[str, Tensor] = {}
        mixing = [number for number in some if self._groups[number].pairs]
        for number in (number for number in some if number not in mixing):
            group, factors = self._groups[number], self._factors[number]
            ones = {one.parameter: torch.ones_like(values[one.parameter]) for one in group.members}
            for name, added in weighted(group, ones, factors, signs=True).items():
                if group.symmetry.degree == 1:
                    values[name] = values[name] + added
                else:
                    exponents[name] = exponents[name] + added if name in exponents else added
        for name, exponent in exponents.items():
            values[name] = values[name] * exponent.exp()
        if outputs:
            scale = float((outputs * factors[0]).exp())
            after = self._passes(values)
            pairs = [(a.outputs, scale * b.outputs) for a, b in zip(after, before, strict=True)]
            changes = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
        else:
            losses = [(a.loss, b.loss) for a, b in self._transformed(values, mixing, before)]
            changes = [abs(a - b) / max(abs(b), 1e-300) for a, b in losses]
        return float("inf") if not np.isfinite(changes).all() else max(changes)

    def _transformed(
        self, values: dict[str, Tensor], mixing: Sequence[int], before: list[Pass]
    ) -> Iterator[tuple[Pass, Pass]]:
        """Each pass with `values`, beside that of `before`; with the units of the groups `mixing`
        mixed by their matrices, and by the negatives of these."""
        for sign in (1, -1) if mixing else (1,):
            mixed = dict(values)
            for number in mixing:
                self._mix(mixed, number, sign)
            yield from zip(self._passes(mixed), before, strict=True)

    def _mix(self, values: dict[str, Tensor], number: int, sign: int) -> None:
        """Each block by its matrix M times `sign`, or by M^-T where it enters."""
        group = self._groups[number]
        for block, matrix in zip(group.blocks, self._matrices[number], strict=True):
            for members in group.members:
                old = values[members.parameter]
                by = sign * (matrix if members.sign > 0 else matrix.inverse().T).to(old.device)
                mixed = by @ entries_of_units(members, old, block)
                values[members.parameter] = with_entries(members, old, block, mixed)

    def _defects(self, passes: list[Pass]) -> list[float]:
        found = [0.0] * len(self._groups)
        for one in passes:
            floor = SMALL_GRADIENT * max(float(g.abs().max()) for g in one.gradient.values())
            for number, group in enumerate(self._groups):
                found[number] = max(found[number], self._defect(group, one, floor))
        return found

    def _defect(self, group: Group, one: Pass, floor: float) -> float:
        start = {one.parameter: self.start[one.parameter] for one in group.members}
        along = unsigned_generator(group, start)
        inner = per_unit(group, along, one.gradient, signs=True) - group.outputs * one.source
        size = per_unit(group, along, along).sqrt()
        steepness = per_unit(group, one.gradient, one.gradient).sqrt()
        worst = float((inner.abs() / (size * steepness.clamp(min=floor)).clamp(min=1e-300)).max())
        return worst if np.isfinite(worst) else float("inf")


def _matrix(factors: Tensor) -> Tensor:
    """Random, with e^factors as its singular values."""
    shape = (len(factors), len(factors))
    one, _ = torch.linalg.qr(torch.randn(shape, dtype=torch.float64))
    other, _ = torch.linalg.qr(torch.randn(shape, dtype=torch.float64))
    mixing: Tensor = (one * factors.exp()) @ other
    return mixing


_LOSS = "the loss changes by {:.1e} of itself under its transformation", "though the loss keeps it"
_OUTPUTS = (
    "the outputs scale otherwise than by its exponent, by {:.1e} of their size",
    "so that the loss depends on more than the outputs",
)


def _reason(what: tuple[str, str], change: float, defect: float) -> str | None:
    changed, beside = what
    if not change <= LOSS_TOLERANCE:
        return changed.format(change)
    if not defect <= GRADIENT_TOLERANCE:
        return f"the gradient breaks its constraint by {defect:.1e}, {beside}"
    return None


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient
