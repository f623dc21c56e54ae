"""What a transformation of the parameters does to the tensors of a forward pass.

Two kinds are followed through the network at once:

    scale   an entry is multiplied by e^(s a), with an exponent a for each entry
    shift   an entry gets sigma m added, with a weight sigma for each entry and any m that is the
            same for all entries along the axes along which sigma varies

Exponents and weights are variables of one `LinearSystem`; a tensor's state says which variables
stand at which entries. A state is a sum of terms, each of which varies along few axes: a weight
[out, in] has one term that varies along its rows and one along its columns.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from symrun.symmetry.linear_system import WILDCARD, LinearSystem, compact

_MOST = 5_000_000
"""Entries of a sum of terms, at most; what would take more is not followed."""


@dataclass(eq=False)
class Block:
    """The variables of a parameter along one of its axes, or along several at once.

    variables: int64, shaped as the parameter is where they vary, and of size 1 elsewhere.
    axes: along which they vary. parts: of a grouped convolution, whose input channels count anew
    in each of `parts` parts of axis 0.
    siblings: all blocks of the parameter. To add a constant to one and take it from another changes
    nothing. anchored: whether that freedom was used to fix these variables.
    merged: whether terms hold them that do not show it.
    """

    variables: Tensor
    axes: tuple[int, ...]
    parts: int = 1
    anchored: bool = False
    merged: bool = False
    siblings: "list[Block]" = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Term:
    """variables: int64, of the tensor's shape. block: whose variables they are, unchanged but for
    their places. uniform: of a shift, whether m is a single number."""

    variables: Tensor
    block: Block | None = None
    uniform: bool = False

    @property
    def varies(self) -> tuple[int, ...]:
        """The axes along which it is not known to be constant."""
        shape = self.variables.shape
        return tuple(
            axis for axis, size in enumerate(shape) if size > 1 and self.variables.stride(axis) != 0
        )

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Term":
        """The same after an operation that only moves entries."""
        moved = move(self.variables)
        return replace(self, variables=compact(moved).expand(moved.shape))

    def to(self, shape: Sequence[int]) -> "Term":
        return replace(self, variables=self.variables.expand(shape))


@dataclass(frozen=True, eq=False)
class State:
    """Of a tensor; no terms: nothing happens to it. parameter: which one it is, as a whole.

    guarded: whether a small constant was added to it, so that it may only be divided by.
    """

    scale: tuple[Term, ...] = ()
    shift: tuple[Term, ...] = ()
    parameter: str | None = None
    guarded: bool = False

    def __bool__(self) -> bool:
        return bool(self.scale or self.shift)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "State":
        """The same after an operation that only moves entries."""
        return State(
            tuple(term.moved(move) for term in self.scale),
            tuple(term.moved(move) for term in self.shift),
        )


class Exponents:
    """Operations on states. Each either follows from the equations that it adds, or gives up: then
    the variables are pinned to zero."""

    def __init__(self) -> None:
        self.system = LinearSystem()

    def pin(self, *states: State, scale: bool = True, shift: bool = True) -> None:
        """Nothing happens to these tensors. Their terms may cancel."""
        for state in states:
            if scale and state.scale:
                self.equated(state.scale, (), state.scale[0].variables.shape)
            for term in state.shift if shift else ():
                self.system.pin(term.variables)

    def total(self, terms: Sequence[Term], shape: Sequence[int]) -> Tensor:
        """The sum of terms, of size 1 where it does not vary."""
        total = torch.zeros([1] * len(shape), dtype=torch.int64)
        for term in terms:
            part = self.system.canonical(term.variables.expand(shape))
            size = torch.broadcast_shapes(total.shape, part.shape)
            if torch.Size(size).numel() > _MOST:
                self.system.pin(term.variables)
                continue
            total = self.system.sum(total, part)
        return total

    def merged(self, terms: Iterable[Term], shape: Sequence[int]) -> tuple[Term, ...]:
        """Fewer terms with the same sum: one for all that vary along the same axes."""
        by_axes: dict[tuple[int, ...], list[Term]] = {}
        for term in (term.to(shape) for term in terms):
            by_axes.setdefault(term.varies, []).append(term)
        for some in by_axes.values():
            for block in [term.block for term in some if term.block is not None and len(some) > 1]:
                block.merged = True
        return tuple(
            some[0] if len(some) == 1 else Term(self.total(some, shape).expand(shape))
            for some in by_axes.values()
        )

    def equated(
        self, one: Sequence[Term], other: Sequence[Term], shape: Sequence[int]
    ) -> tuple[Term, ...]:
        """What both are, once they are equal."""
        if len(_connected([term.to(shape) for term in (*one, *other)])) < 2:
            a, b = self.total(one, shape), self.total(other, shape)
            self.system.equate(a, b)
            a, b = torch.broadcast_tensors(a, b)
            return (Term(torch.where(a == WILDCARD, b, a).expand(shape)),)
        # Sums over different axes are opposite if each is constant, and these constants are
        negative = [Term(self.system.multiple(term.variables, -1).expand(shape)) for term in other]
        parts = _connected([term.to(shape) for term in (*one, *negative)])
        every = range(len(shape))
        constants = [self.constant_along(part, every, shape) for part in parts]
        self.system.pin(self.total([c.to(shape) for some in constants for c in some], shape))
        return self.merged(one, shape)

    def constant_along(
        self, terms: Sequence[Term], axes: Sequence[int], shape: Sequence[int]
    ) -> tuple[Term, ...]:
        """The terms, of size 1 along `axes`, along which their sum does not vary."""
        along = set(axes)
        free = [term for term in terms if not along & set(term.varies)]
        bound = [term for term in terms if along & set(term.varies)]
        narrow = [1 if axis in along else size for axis, size in enumerate(shape)]
        result = [replace(t, variables=_first(t.variables.expand(shape), axes)) for t in free]
        for some in _connected(bound):
            if self._taken_up(some, along, shape):
                continue
            total = self.total(some, shape)
            common = total.amax(tuple(axes), keepdim=True)  # no wildcard, where there is another
            self.system.equate(total, common)
            result.append(Term(common.expand(narrow)))
        return tuple(result)

    def alike(
        self, state: State, axes: Sequence[int], shape: Sequence[int], linear: bool = True
    ) -> State:
        """The state of size 1 along `axes`, along which nothing varies.

        linear: whether an operation that needs this is linear, or it ends every shift.
        """
        shifts = []
        for term in state.shift:
            if linear and not set(term.varies) & set(axes):
                first = _first(term.variables.expand(list(shape)), axes)
                shifts.append(replace(term, variables=first))
            else:
                self.system.pin(term.variables)
        scale = self.constant_along(state.scale, axes, shape) if axes else state.scale
        return State(scale, tuple(shifts))

    def regroup(self, block: Block, parts: int, rows: int) -> None:
        """Give each of `parts` parts of axis 0, with `rows` rows in all, variables of its own."""
        if block.axes != (1,) or block.parts > 1:
            return
        self.pin(State(scale=(Term(block.variables),)))
        size, *rest = block.variables.shape[1:]
        fresh = self.system.fresh(parts * size).view(parts, 1, size)
        spread = fresh.expand(parts, rows // parts, size)
        block.variables = spread.reshape(rows, size, *rest)
        block.axes, block.parts = (0, 1), parts

    def _taken_up(self, some: Sequence[Term], along: set[int], shape: Sequence[int]) -> bool:
        """Whether a parameter's own variables make the sum zero, which fixes them."""
        for term in some:
            others = [other for other in some if other is not term]
            if (
                term.block is not None
                and _movable(term.block, others)
                and prod(shape[axis] for axis in term.varies if axis not in along)
                == term.block.parts
                and all(set(other.varies) <= set(term.varies) for other in others)
            ):
                rest = self.total(others, shape)
                self.system.equate(term.variables, self.system.multiple(rest, -1))
                term.block.anchored = True
                return True
        return False


def _movable(block: Block, others: Sequence[Term]) -> bool:
    """Whether a constant can move from another block of the parameter to this one, and only to it
    in a sum with the terms `others`."""
    siblings = [sibling for sibling in block.siblings if sibling is not block]
    seen = [term.block for term in others]
    return (
        not block.anchored
        and not all(sibling.anchored for sibling in siblings)
        and not any(sibling.merged or sibling in seen for sibling in siblings)
    )


def _first(variables: Tensor, axes: Sequence[int]) -> Tensor:
    for axis in axes:
        variables = variables.narrow(axis, 0, 1)
    return variables


def _connected(terms: Iterable[Term]) -> list[list[Term]]:
    """The terms, together where they vary along a common axis. A sum of terms that vary along
    different axes is constant if each is."""
    found: list[tuple[set[int], list[Term]]] = []
    for term in terms:
        axes, some = set(term.varies), [term]
        for other in [one for one in found if one[0] & axes]:
            found.remove(other)
            axes |= other[0]
            some = [*other[1], *some]
        found.append((axes, some))
    return [some for _, some in found]
