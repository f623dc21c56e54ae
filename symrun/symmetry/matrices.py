"""Units that any invertible matrix M may mix: X -> M X on what has sign 1, X -> M^-T X on what has
sign -1, the units' entries being the rows of X.

Between queries and keys of a head, values and output, or two linear layers in a row, a whole
matrix is conserved, of which the search for exponents finds the diagonal. The derivative of the
loss g along the entry (a, b) of M is

    E_ab = sum over members of sign 1 of g_a . x_b  -  sum over members of sign -1 of g_b . x_a

and is 0 everywhere if a and b may be mixed. This finds where it is, and a finite M proves it.
"Proven" means at a few random points and on a few examples: E_ab is below 1e-9 of what it sums, and
a random M changes the loss by less than 1e-10 of itself, all in float64.

Source: Marcotte et al. 2023 and 2025; Du et al. 2018 for linear layers.
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from symrun.symmetry.gates import EvenGates
from symrun.symmetry.generator import Vector, per_unit
from symrun.symmetry.groups import Group, Symmetry, off_diagonal
from symrun.symmetry.lines import entries_of_units
from symrun.symmetry.proof import SMALL_GRADIENT, Prover, in_float64
from symrun.symmetry.search import Structure
from symrun.symmetry.stand_ins import Criterion, all_tensors, random_like, untouched

_LOG = logging.getLogger(__name__)

_VANISHES = 1e-9
"""Of sum |g_a| |x_b|. Rounding leaves 1e-13. Of two units that may not be mixed E_ab is a cosine of
some thousandths, and by chance both E_ab and E_ba are below this in one pair of 1e11."""
_POINTS = 12
"""At which units are compared, at most: of four examples, two ReLUs cut off the same ones with
probability 1/16 at each, or 1/2 where biases are large."""
_UNCHANGED = 2
"""Points in a row that tell no more units apart, after which none follows."""
_AGAIN = 2
"""Points at which a block that fails its proof is compared once more."""
_PROBED = 256
"""Units of a large group that are compared before all are."""
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

    Each is proven: the loss stays as it is, within 1e-10, if all of them are mixed at random, on
    `inputs` and, if these hold floats, on random ones of their shape. Units that this does not tell
    apart, such as two of a ReLU that are active in the same examples, are left out. Nothing of the
    model changes.

    inputs, criterion, varies: as in `prove`. The batch must be one that the model feels: in
    sequences of one token all heads attend alike.
    Error: UsageError if the model fails in float64.
    Example:
        loss = lambda outputs: outputs.log_softmax(1).sum()
        groups = find_matrices(model, structure.groups, images, loss)
        [len(block) for group in groups for block in group.blocks]
    """
    if not any(map(_alike, groups)):
        return list(groups)
    with untouched(model), in_float64(model, inputs, "matrices cannot be found"):
        proven = _Finder(model, groups, inputs, criterion, varies, seed).proven()
    units: list[list[tuple[int, ...]]] = [[] for _ in groups]
    for block in proven:
        units[block.group].append(block.units)
    return [
        replace(group, blocks=tuple(sorted(blocks)))
        for group, blocks in zip(groups, units, strict=True)
    ]


def with_off_diagonal(structure: Structure, sampled: bool, seed: int = 0) -> Structure:
    """`structure` with the entries off the diagonal of all its matrices, as groups at the end.

    sampled: as in `off_diagonal`. A structure that has such groups stays as it is.
    """
    if any(group.pairs for group in structure.groups):
        return structure
    entries = [off_diagonal(group, sampled, seed) for group in structure.groups]
    return replace(structure, groups=(*structure.groups, *(one for one in entries if one)))


def _alike(group: Group) -> list[tuple[int, ...]]:
    """The sets of units of a group of rescale whose lines can be paired: each has as many in each
    member. A group that has other signs than 1 and -1 has no such set."""
    if group.symmetry is not Symmetry.rescale or any(abs(one.sign) > 1 for one in group.members):
        return []
    counts = [Counter(members.units) for members in group.members]
    kinds: dict[tuple[int, ...], list[int]] = {}
    for unit in range(group.rows):
        kinds.setdefault(tuple(count[unit] for count in counts), []).append(unit)
    return [tuple(units) for units in kinds.values() if len(units) > 1]


@dataclass(frozen=True)
class _Block:
    """Units of a group, by its number, that may be mixed as far as is known. felt: whether any of
    them has had a gradient yet."""

    group: int
    units: tuple[int, ...]
    felt: bool = False


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
    ) -> None:
        self._model, self._criterion, self._varies = model, criterion, varies
        self._groups, self._seed = groups, seed
        self._unfelt = {n for n, group in enumerate(groups) if group.symmetry.degree == 2}
        self._drawn = False
        self._inputs = [inputs]
        if (drawn := random_like(inputs, seed)) is not None and self._takes(drawn):
            self._inputs.append(drawn)

    def _takes(self, inputs: Any) -> bool:
        """Whether the network makes a finite loss of these inputs, for which it may not have been
        made."""
        try:
            found = self._prover((), inputs, 0).at_start()
        except Exception:  # what a user's forward makes of inputs that it checks
            return False
        return all(math.isfinite(one.loss) for one in found)

    def proven(self) -> list[_Block]:
        """What may be mixed. A block that fails its proof is divided further, or else left out."""
        proven: list[_Block] = []
        number, left = 2 * _POINTS, _by_group(self._candidates())
        while left:
            hold = self._hold(left)
            proven += [one for some, holds in zip(left, hold, strict=True) if holds for one in some]
            failed = [some for some, holds in zip(left, hold, strict=True) if not holds]
            divided = failed
            for _ in range(_AGAIN if failed else 0):
                point, number = self._point(number), number + 1
                divided = [self._divided(some, point) for some in divided]
            left = []
            for some, parts in zip(failed, divided, strict=True):
                if parts != some:
                    left += [parts] if parts else []
                elif len(some) > 1:  # which of them is none
                    left += [[one] for one in some]
        return proven

    def _hold(self, claims: Sequence[Sequence[_Block]]) -> list[bool]:
        """Whether all blocks of each claim, which are those of one group, may be mixed at once."""
        claimed = []
        for some in claims:
            group = self._groups[some[0].group]
            blocks = tuple(one.units for one in some)
            entries = off_diagonal(replace(group, blocks=blocks), sampled=True)
            assert entries is not None, "a block of one unit"
            claimed.append(entries)
        hold = [True] * len(claims)
        for inputs in self._inputs:
            prover = self._prover(claimed, inputs, 2 * _POINTS)
            with EvenGates():
                proofs = prover.proofs()
            hold = [held and one.reason is None for held, one in zip(hold, proofs, strict=True)]
        return hold

    def _prover(self, claimed: Sequence[Group], inputs: Any, number: int) -> Prover:
        """number: of the point. Where nothing is claimed, units are compared."""
        varies = True if self._drawn and claimed else self._varies
        model, criterion, seed = self._model, self._criterion, self._seed + number
        return Prover(model, claimed, inputs, criterion, varies, seed, flipped=not claimed)

    def _candidates(self) -> list[_Block]:
        """What no point has told apart."""
        whole = [
            _Block(number, units)
            for number, group in enumerate(self._groups)
            for units in _alike(group)
        ]
        large = [one for one in whole if len(one.units) > _PROBED]
        draws = torch.Generator().manual_seed(self._seed)
        probes = {one: _probe(one, draws) for one in large}
        left = self._compared([probes.get(one, one) for one in whole], range(_POINTS))
        left = self._felt(left)
        parts = {one: [part for part in left if _within(part, probes[one])] for one in large}
        found = [one for one in left if not any(one in some for some in parts.values())]
        again = [one for one in large if parts[one]]
        return found + self._compared(again, range(_POINTS, 2 * _POINTS))

    def _felt(self, blocks: Sequence[_Block]) -> list[_Block]:
        """Those that these inputs can show; a warning of what is left out.

        A group without a gradient concerns those that share a parameter with it. If the inputs are
        alike along an axis, all: in sequences of one token, any matrix may mix all values.
        """
        groups, unfelt = self._groups, sorted(self._unfelt)
        names = {one.parameter for number in unfelt for one in groups[number].members}
        concerned = {
            number
            for number in {one.group for one in blocks}
            if names & {one.parameter for one in groups[number].members}
        }
        if unfelt and blocks and _alike_along_an_axis(self._inputs[-1]):
            _LOG.warning(
                "no matrix is looked for: the loss does not feel %s in these inputs, which are "
                "alike along an axis, as sequences of one token are: give others",
                groups[unfelt[0]].name,
            )
            return []
        if concerned:
            _LOG.warning(
                "no matrix is looked for in %s: the loss does not feel %s in these inputs, as "
                "where no example reaches an expert: give others, or more",
                " and ".join(groups[number].name for number in sorted(concerned)),
                groups[unfelt[0]].name,
            )
        return [one for one in blocks if one.group not in concerned]

    def _compared(self, blocks: Sequence[_Block], points: range) -> list[_Block]:
        """The parts of `blocks` that these points do not tell apart."""
        now, unchanged = list(blocks), 0
        for number in points:
            if not now or unchanged == _UNCHANGED:
                break
            before, now = now, self._divided(now, self._point(number))
            same = now == before and all(one.felt for one in now)
            unchanged = unchanged + 1 if same else 0
        return now

    def _divided(self, blocks: Sequence[_Block], point: _Point) -> list[_Block]:
        """The parts of each block whose units are alike at one more point."""
        alive = {n: point.alive(self._groups[n]) for n in {one.group for one in blocks}}
        self._unfelt -= {n for n in self._unfelt if torch.stack(point.alive(self._groups[n])).any()}
        found: list[_Block] = []
        for one in blocks:
            partners = self._partners(one, alive[one.group], point)
            if partners is None:
                found.append(one)
            else:
                sets = _sets(one.units, partners)
                found += [_Block(one.group, units, felt=True) for units in sets]
        return found

    def _point(self, number: int) -> _Point:
        inputs = self._inputs[number % len(self._inputs)]
        prover = self._prover((), inputs, number)
        with EvenGates() as mode:
            gradients: list[Vector] = [one.gradient for one in prover.at_start()]
        self._drawn |= mode.drawn
        largest = [max(float(one.abs().max()) for one in each.values()) for each in gradients]
        return _Point(prover.start, gradients, [SMALL_GRADIENT * one for one in largest])

    def _partners(self, block: _Block, alive: Sequence[Tensor], point: _Point) -> Tensor | None:
        """Which units of `block` may be mixed with which other here: bool [units, units]; None if
        none has a gradient."""
        group, units = self._groups[block.group], block.units
        lines = max(members.units.count(units[0]) * members.length for members in group.members)
        size = max(_CHUNK // lines, 1)
        chunks = [slice(first, first + size) for first in range(0, len(units), size)]
        found, felt = ~torch.eye(len(units), dtype=torch.bool), False
        for gradient, every in zip(point.gradients, alive, strict=True):
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
        return found if felt else None


def _alike_along_an_axis(inputs: Any) -> bool:
    return any(
        bool((one == one.narrow(axis, 0, 1)).all())
        for one in all_tensors(inputs)
        if one.numel()
        for axis in range(one.dim())
    )


def _by_group(blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Those that were felt."""
    found: dict[int, list[_Block]] = {}
    for one in blocks:
        if one.felt:
            found.setdefault(one.group, []).append(one)
    return list(found.values())


def _probe(block: _Block, draws: torch.Generator) -> _Block:
    """Some units of a large block: half of them at random, and those next to them."""
    some = torch.randperm(len(block.units), generator=draws)[: _PROBED // 2]
    places = torch.cat([some, (some + 1) % len(block.units)]).unique().tolist()
    return _Block(block.group, tuple(block.units[one] for one in places))


def _within(part: _Block, whole: _Block) -> bool:
    return part.group == whole.group and set(part.units) <= set(whole.units)


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
