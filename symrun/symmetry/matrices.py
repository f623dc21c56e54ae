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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from symrun.errors import UsageError
from symrun.symmetry.gates import EvenGates
from symrun.symmetry.generator import Vector, per_unit
from symrun.symmetry.groups import Group, Symmetry, off_diagonal
from symrun.symmetry.lines import entries_of_units
from symrun.symmetry.proof import SMALL_GRADIENT, Proof, Prover
from symrun.symmetry.search import Structure
from symrun.symmetry.stand_ins import Criterion, first_line, shapes_of, untouched

_LOG = logging.getLogger(__name__)

_VANISHES = 1e-9
"""Of sum |g_a| |x_b|. Rounding leaves 1e-13. Of two units that may not be mixed E_ab is a cosine of
some thousandths, and by chance both E_ab and E_ba are below this in one pair of 1e11."""
_POINTS = 6
"""At which units are compared, at most: of four examples, two ReLUs cut off the same ones with
probability 1/16 at each."""
_PROBED = 256
"""Units of a large group that are compared before all are: half at random, and who is next to
them."""
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
        with untouched(model):
            finder = _Finder(model, groups, inputs, criterion, varies, seed)
            blocks = finder.blocks()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a user's forward can raise anything
        failed = f"{type(model).__name__} fails on float64 inputs of shape {shapes_of(inputs)}"
        reason = f"so its matrices cannot be found: {first_line(error)}"
        raise UsageError(f"{failed}, {reason}") from error
    proven: dict[int, list[tuple[int, ...]]] = {}
    left = [(number, found) for number, found in blocks.items() if found]
    while left:
        claimed = [_claimed(groups[number], some) for number, some in left]
        proofs = finder.proofs(claimed)
        pairs, left = list(zip(left, proofs, strict=True)), []
        for (number, some), proof in pairs:
            if proof.reason is None:
                proven.setdefault(number, []).extend(some)
            elif len(some) > 1:  # which of them is none
                left += [(number, [block]) for block in some]
    return [
        replace(group, blocks=tuple(sorted(proven.get(number, ()))))
        for number, group in enumerate(groups)
    ]


def _claimed(group: Group, blocks: Sequence[tuple[int, ...]]) -> Group:
    """What there is to prove of a group whose units `blocks` may be mixed."""
    entries = off_diagonal(replace(group, blocks=tuple(blocks)), sampled=True)
    assert entries is not None, "a block of one unit"
    return entries


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


_Alike = tuple[int, tuple[int, ...]]
"""The number of a group, and units of it that are alike."""


@dataclass(frozen=True)
class _Point:
    """A point, the gradient of each pass there, and what counts as none of it."""

    start: Vector
    gradients: list[Vector]
    floors: list[float]

    def alive(self, group: Group) -> list[Tensor]:
        """Whether each unit has a gradient, in each pass: bool [rows]."""
        pairs = zip(self.gradients, self.floors, strict=True)
        return [per_unit(group, one, one).sqrt().cpu() > floor for one, floor in pairs]


@dataclass(frozen=True)
class _Partners:
    """Which units may be mixed with which other, as far as is known: bool [units, units]. felt:
    whether any has had a gradient yet."""

    found: Tensor
    felt: bool

    def and_those(self, of: "_Partners") -> "_Partners":
        """At two points."""
        return _Partners(self.found & of.found, self.felt or of.felt)


class _Finder:
    """Compares the units of each group at random points, until what vanishes stays the same.

    drawn: whether passes draw random numbers, once `blocks` was called.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        inputs: Any,
        criterion: Criterion,
        varies: bool | None,
        seed: int,
    ) -> None:
        self._network = model, (), inputs, criterion, varies
        self._groups, self._seed, self.drawn = groups, seed, False

    def blocks(self) -> dict[int, list[tuple[int, ...]]]:
        """The candidates, by the number of their group."""
        probed, partners = self._probed(), dict[_Alike, _Partners]()
        unfelt = {n for n, group in enumerate(self._groups) if group.symmetry.degree == 2}
        for number in range(_POINTS):
            before, partners = partners, self._compared(probed, number, unfelt)
            for one, earlier in before.items():
                partners[one] = partners[one].and_those(earlier)
            partners = {one: now for one, now in partners.items() if now.found.any()}
            probed = {one: probed[one] for one in partners}
            same = all(
                one in before and now.found.equal(before[one].found)
                for one, now in partners.items()
            )
            if same and not self.drawn:
                break
        if probed and unfelt:
            _LOG.warning(
                "no matrix is looked for: the loss does not feel %s in these inputs, as in "
                "sequences of one token: give others", self._groups[min(unfelt)].name
            )  # fmt: skip
            return {}
        blocks: dict[int, list[tuple[int, ...]]] = {}
        felt = {one: now for one, now in partners.items() if now.felt}
        for (number, units), whole in self._completed(felt).items():
            blocks.setdefault(number, []).extend(_sets(units, whole.found))
        return blocks

    def proofs(self, claimed: Sequence[Group]) -> list[Proof]:
        """Of groups of general_linear."""
        model, _, inputs, criterion, varies = self._network
        passing = True if self.drawn else varies
        with untouched(model):
            prover = Prover(model, claimed, inputs, criterion, passing, self._seed + 2 * _POINTS)
            with EvenGates():
                return prover.proofs()

    def _compared(
        self, units: Mapping[_Alike, Sequence[int]], number: int, unfelt: set[int]
    ) -> dict[_Alike, _Partners]:
        """What one more point says of `units`. It takes the groups felt there out of `unfelt`."""
        point = self._point(number)
        unfelt -= {n for n in unfelt if torch.stack(point.alive(self._groups[n])).any()}
        return {one: self._partners(one, some, point) for one, some in units.items()}

    def _completed(self, partners: dict[_Alike, _Partners]) -> dict[_Alike, _Partners]:
        """All units compared where a few were, at a point that feels their group."""
        whole = {one: found for one, found in partners.items() if len(found.found) == len(one[1])}
        left = {one: one[1] for one in partners if one not in whole}
        for number in range(_POINTS, 2 * _POINTS):
            if not left:
                break
            found = self._compared(left, number, set())
            whole |= {one: of for one, of in found.items() if of.felt}
            left = {one: units for one, units in left.items() if one not in whole}
        return whole

    def _probed(self) -> dict[_Alike, tuple[int, ...]]:
        draws = torch.Generator().manual_seed(self._seed)
        found: dict[_Alike, tuple[int, ...]] = {}
        for number, group in enumerate(self._groups):
            for units in _alike(group):
                some = torch.randperm(len(units), generator=draws)[: _PROBED // 2]
                places = torch.cat([some, (some + 1) % len(units)]).unique().tolist()
                few = len(units) <= _PROBED
                found[number, units] = units if few else tuple(units[one] for one in places)
        return found

    def _point(self, number: int) -> _Point:
        prover = Prover(*self._network, self._seed + number, flipped=True)
        with EvenGates() as mode:
            gradients: list[Vector] = [one.gradient for one in prover.at_start()]
        self.drawn |= mode.drawn
        largest = [max(float(one.abs().max()) for one in each.values()) for each in gradients]
        return _Point(prover.start, gradients, [SMALL_GRADIENT * one for one in largest])

    def _partners(self, of: _Alike, units: Sequence[int], point: _Point) -> _Partners:
        group = self._groups[of[0]]
        lines = max(members.units.count(units[0]) * members.length for members in group.members)
        chunks = _cut(len(units), max(_CHUNK // lines, 1))
        found, felt = ~torch.eye(len(units), dtype=torch.bool), False
        for gradient, every in zip(point.gradients, point.alive(group), strict=True):
            lives = every[list(units)]
            if not lives.any():  # as where a whole branch is dropped
                continue
            felt = True
            found &= lives & lives[:, None]
            for first, some in enumerate(chunks):
                for others in chunks[first:]:
                    if found[some, others].any():
                        vanish = _vanish(group, point.start, gradient, units[some], units[others])
                        found[some, others] &= vanish.cpu()
                        found[others, some] &= vanish.T.cpu()
        return _Partners(found, felt)


def _cut(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


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
