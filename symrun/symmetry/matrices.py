"""Units that any invertible matrix M may mix: X -> M X on what has sign 1, X -> M^-T X on what has
sign -1, the units' entries being the rows of X.

Between queries and keys of a head, values and output, or two linear layers in a row, a whole
matrix is conserved, of which the search for exponents finds the diagonal. The derivative of the
loss g along the entry (a, b) of M is

    E_ab = sum over members of sign 1 of g_a . x_b  -  sum over members of sign -1 of g_b . x_a

and is 0 everywhere if a and b may be mixed. This finds where it is, and a finite M proves it.

Source: Marcotte et al. 2023 and 2025; Du et al. 2018 for linear layers.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.errors import UsageError
from symrun.symmetry.generator import Vector, per_unit
from symrun.symmetry.groups import Group, Symmetry, off_diagonal
from symrun.symmetry.lines import entries_of_units
from symrun.symmetry.proof import SMALL_GRADIENT, Prover, prove
from symrun.symmetry.search import Structure
from symrun.symmetry.stand_ins import Criterion, first_line, shapes_of, untouched

_LOG = logging.getLogger(__name__)

_VANISHES = 1e-9
"""Of sum |g_a| |x_b|. Rounding leaves 1e-13. Of two units that may not be mixed E_ab is a cosine of
some thousandths, and by chance both E_ab and E_ba are below this in one pair of 1e11."""
_POINTS = 6
"""At which units are compared, at most: of four examples, two ReLUs cut off the same ones with
probability 1/16 at each."""
_PROBED = 64
"""Units that are compared with all others of a large group, before all are."""
_CHUNK = 2**22
"""Entries of the lines that are compared at once: 32 MiB in float64."""


def find_matrices(
    model: nn.Module,
    groups: Sequence[Group],
    inputs: Any,
    criterion: Criterion,
    varies: bool | None = None,
    seed: int = 0,
) -> list[Group]:
    """`groups`, those of rescale with the sets of units that any invertible matrix may mix.

    Each is proven: the loss stays as it is if all of them are mixed at random. What may not be told
    apart by this batch, such as two units of a ReLU that are active in the same examples, is left
    out. Nothing of the model changes.

    inputs, criterion, varies: as in `prove`. The batch must be one that the model feels: in
    sequences of one token all heads attend alike.
    Error: UsageError if the model fails in float64.
    Example:
        inputs = torch.randn(4, 16, 64)
        groups = find_matrices(model, find_structure(model, inputs).groups, inputs, loss)
        [len(block) for group in groups for block in group.blocks]
    """
    if not any(map(_alike, groups)):
        return list(groups)
    try:
        with untouched(model), _DroppingHalf() as dropping:
            finder = _Finder(model, groups, inputs, criterion, varies, seed, dropping)
            blocks = finder.blocks()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's forward can raise anything
        failed = f"{type(model).__name__} fails on float64 inputs of shape {shapes_of(inputs)}"
        reason = f"so its matrices cannot be found: {first_line(error)}"
        raise UsageError(f"{failed}, {reason}") from error
    candidates = [
        (number, candidate)
        for number, found in blocks.items()
        for block in found
        if (candidate := off_diagonal(replace(groups[number], blocks=(block,)), sampled=True))
    ]
    with _DroppingHalf():
        proofs = prove(
            model,
            [candidate for _, candidate in candidates],
            inputs,
            criterion,
            finder.varies,
            seed + _POINTS,
        )
    proven: dict[int, tuple[tuple[int, ...], ...]] = {}
    for (number, candidate), proof in zip(candidates, proofs, strict=True):
        if proof.reason is None:
            proven[number] = (*proven.get(number, ()), *candidate.blocks)
    return [replace(group, blocks=proven.get(n, ())) for n, group in enumerate(groups)]


def with_entries(structure: Structure, sampled: bool, seed: int = 0) -> Structure:
    """`structure` with the entries off the diagonal of all its matrices, as groups at the end.

    sampled: as in `off_diagonal`. A structure that has such groups stays as it is.
    """
    if any(group.pairs for group in structure.groups):
        return structure
    entries = [off_diagonal(group, sampled, seed) for group in structure.groups]
    return replace(structure, groups=(*structure.groups, *(one for one in entries if one)))


def _alike(group: Group) -> list[tuple[int, ...]]:
    """The units of a group of rescale whose lines can be paired, by how many each has of each
    member. None of a group that has other signs than 1 and -1."""
    if group.symmetry is not Symmetry.rescale or any(abs(one.sign) > 1 for one in group.members):
        return []
    counts = [Counter(members.units) for members in group.members]
    kinds: dict[tuple[int, ...], list[int]] = {}
    for unit in range(group.rows):
        kinds.setdefault(tuple(count[unit] for count in counts), []).append(unit)
    return [tuple(units) for units in kinds.values() if len(units) > 1]


class _Finder:
    """Compares the units of each group at random points, until what vanishes stays the same."""

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Any,
        criterion: Criterion,
        varies: bool | None,
        seed: int,
        dropping: "_DroppingHalf",
    ) -> None:
        self._network = model, (), inputs, criterion
        self._groups, self._seed, self._dropping = groups, seed, dropping
        self.varies = varies

    def blocks(self) -> dict[int, list[tuple[int, ...]]]:
        """The candidates, by the number of their group."""
        alike = [(n, units) for n, group in enumerate(self._groups) for units in _alike(group)]
        draws = torch.Generator().manual_seed(self._seed)
        probed = {
            one: torch.randperm(len(one[1]), generator=draws)[:_PROBED].sort().values.tolist()
            for one in alike
        }
        partners: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        for point in range(_POINTS):
            start, gradients = self._gradients(point)
            if dead := self._without_gradient(gradients):
                _LOG.warning(
                    "no matrix is looked for: the loss does not feel %s in these inputs, as in "
                    "sequences of one token: give others", dead.name
                )  # fmt: skip
                return {}
            before, partners = partners, {}
            for one in alike:
                found = self._partners(*one, start, gradients, probed[one])
                partners[one] = found & before[one] if before else found
            alike = [one for one in alike if partners[one].any()]
            if before and all(partners[one].equal(before[one]) for one in alike):
                break
            if not alike:
                break
        blocks: dict[int, list[tuple[int, ...]]] = {}
        for number, units in alike:
            found = partners[number, units]
            if len(found) < len(units):
                found = self._partners(number, units, start, gradients, range(len(units)))
            blocks.setdefault(number, []).extend(_sets(units, found))
        return blocks

    def _gradients(self, point: int) -> tuple[Vector, list[Vector]]:
        """Parameters, and the gradient of each pass."""
        prover = Prover(*self._network, self.varies, self._seed + point, flipped=True)
        gradients: list[Vector] = [one.gradient for one in prover.at_start()]
        if self._dropping.dropped and not self.varies:  # each pass drops others
            self.varies = True
            return self._gradients(point)
        return prover.start, gradients

    def _without_gradient(self, gradients: Sequence[Vector]) -> Group | None:
        """A group that these inputs do not show to the loss."""
        for group in self._groups:
            if group.symmetry.degree == 2 and not any(
                _alive(group, gradient).any() for gradient in gradients
            ):
                return group
        return None

    def _partners(
        self,
        number: int,
        units: Sequence[int],
        start: Vector,
        gradients: Sequence[Vector],
        probed: Sequence[int],
    ) -> Tensor:
        """Which of `units` may be mixed with each of those at the places `probed`, itself left out:
        bool [probed, units]."""
        group = self._groups[number]
        lines = max(members.units.count(units[0]) * members.length for members in group.members)
        chunk = max(_CHUNK // lines, 1)
        found = torch.ones(len(probed), len(units), dtype=torch.bool)
        found[range(len(probed)), list(probed)] = False
        for gradient in gradients:
            alive = _alive(group, gradient).cpu()[list(units)]
            found &= alive & alive[list(probed), None]
            for rows in _cut(len(probed), chunk):
                these = [units[place] for place in probed[rows]]
                for others in _cut(len(units), chunk):
                    if found[rows, others].any():
                        vanish = _vanish(group, start, gradient, these, units[others])
                        found[rows, others] &= vanish.cpu()
        return found


def _cut(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def _alive(group: Group, gradient: Vector) -> Tensor:
    """Whether the gradient of each unit is more than rounding: bool [rows]."""
    floor = SMALL_GRADIENT * max(float(one.abs().max()) for one in gradient.values())
    return per_unit(group, gradient, gradient).sqrt() > floor


def _vanish(
    group: Group, start: Vector, gradient: Vector, units: Sequence[int], others: Sequence[int]
) -> Tensor:
    """Whether both E_ab and E_ba are 0, a of `units` and b of `others`: bool [units, others]."""
    of_both = (2, len(units), len(others))
    like = start[group.members[0].parameter]
    sums, sizes = like.new_zeros(of_both), like.new_zeros(of_both)
    for members in group.members:
        (x_a, x_b), (g_a, g_b) = (
            [entries_of_units(members, of[members.parameter], some) for some in (units, others)]
            for of in (start, gradient)
        )
        terms = g_a @ x_b.T, x_a @ g_b.T
        norms = [a.norm(dim=1)[:, None] * b.norm(dim=1) for a, b in ((g_a, x_b), (x_a, g_b))]
        for which in (0, 1):  # E_ab, E_ba
            of = which if members.sign > 0 else 1 - which
            sums[which] += members.sign * terms[of]
            sizes[which] += norms[of]
    return (sums.abs() <= _VANISHES * sizes).all(0)


def _sets(units: Sequence[int], partners: Tensor) -> list[tuple[int, ...]]:
    """The sets of units that are partners of each other and of none else."""
    partners = partners | torch.eye(len(units), dtype=torch.bool)
    alike: dict[bytes, list[int]] = {}
    for place, row in enumerate(partners.numpy()):
        alike.setdefault(row.tobytes(), []).append(place)
    return [
        tuple(units[place] for place in places)
        for places in alike.values()
        if len(places) > 1 and partners[places[0]].nonzero().flatten().tolist() == places
    ]


class _DroppingHalf(TorchDispatchMode):
    """Within it dropout keeps one half of what it sees, so that any two units are told apart.

    dropped: whether there was dropout.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.dropped = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        names = [argument.name for argument in function._schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = function._schema.name
        if name.startswith(("aten::bernoulli", "aten::native_dropout")):
            p = values.get("p")
            if isinstance(p, float) and 0 < p < 1:
                self.dropped = True
                args = [0.5 if one == "p" else values[one] for one in names[: len(args)]]
        return function(*args, **(kwargs or {}))
