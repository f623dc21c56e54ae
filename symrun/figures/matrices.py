"""What figures of conserved matrices share: which matrices they draw, and what they call them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from symrun.analysis.comparison import Comparison, comparisons
from symrun.figures.layers import shortened, without_common
from symrun.figures.style import evenly
from symrun.runs.directory import RunDirectory
from symrun.runs.matrices import Matrix
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]
Shown = TypeVar("Shown")

_MOST = 4
"""Matrices in a figure."""
_LINE = 20  # characters: in small type, as many as a matrix is high


@dataclass(frozen=True)
class Evolution:
    """One matrix over time, among the units of its two groups."""

    matrix: Matrix
    diagonal: Comparison
    others: Comparison

    @property
    def steps(self) -> NDArray[np.int64]:
        """Those that both groups have."""
        return min(self.diagonal.steps, self.others.steps, key=len)

    def entries(self, name: str) -> Array:
        """`measured`, `magnitude` or `baseline` of each entry, [records, entries]."""
        return self._of_both(getattr(self.diagonal, name), getattr(self.others, name))

    def predicted(self, law: str) -> Array | None:
        """What `law` says of each entry, [records, entries]; None if it makes no prediction."""
        if law not in self.others.predicted:
            return None
        return self._of_both(self.diagonal.predicted[law], self.others.predicted[law])

    @cached_property
    def moved(self) -> float:
        """How far it went from where gradient flow would have it, relative to its magnitude."""
        size = float(self.matrix.norm(self.entries("magnitude")).max())
        broken = self.matrix.norm(self.entries("measured") - self.entries("baseline"))
        return float(broken.max()) / (size or 1.0)

    def _of_both(self, diagonal: Array, others: Array) -> Array:
        records = len(self.steps)
        return self.matrix.entries(diagonal[:records], others[:records])


def chosen(
    run: RunDirectory, matrices: Sequence[Matrix], shown: Callable[[Evolution], Shown]
) -> list[Shown]:
    """What `shown` makes of at most _MOST of the matrices of a run, in the order of the network:
    of as many groups as there is room for, the matrices that moved most.

    Error: UsageError if the run has fewer than two records.
    """
    of_group: dict[str, list[Matrix]] = {}
    for matrix in matrices:
        of_group.setdefault(matrix.group, []).append(matrix)
    room = dict(zip(of_group, _room([len(own) for own in of_group.values()]), strict=True))
    diagonals: dict[str, Comparison] = {}
    found: list[Shown] = []
    for compared in comparisons(run):
        if not room.get(compared.group):
            continue
        if compared.symmetry == Symmetry.rescale.value:
            diagonals[compared.group] = compared
        if compared.symmetry == Symmetry.general_linear.value:
            diagonal = diagonals.pop(compared.group)
            own = [Evolution(matrix, diagonal, compared) for matrix in of_group[compared.group]]
            own.sort(key=lambda one: one.moved, reverse=True)
            most = own[: room[compared.group]]
            found += [shown(one) for one in sorted(most, key=lambda one: one.matrix.place)]
    return found


def _room(counts: Sequence[int]) -> list[int]:
    """How many of the `counts` matrices of each group a figure draws: one of each group, and more
    where there is room; evenly from the first group to the last if there is less.

    Example: _room([4, 4]) == [2, 2]; _room([4] * 5) == [1, 1, 0, 1, 1]
    """
    room = [0] * len(counts)
    while (free := min(_MOST, sum(counts)) - sum(room)) > 0:
        left = [place for place, count in enumerate(counts) if room[place] < count]
        for place in evenly(len(left), free):
            room[left[place]] += 1
    return room


def which(shown: Sequence[Matrix], matrices: Sequence[Matrix]) -> str:
    """A sentence for a caption: which of the matrices of a run are drawn."""
    if len(shown) == len(matrices):
        return "These are all matrices."
    drawn, groups = (len({matrix.group for matrix in some}) for some in (shown, matrices))
    where = "each group" if drawn == groups else f"{drawn} of {groups} groups"
    return (
        f"These are {len(shown)} of {len(matrices)} matrices, from the input to the output: of "
        f"{where} those that moved most."
    )


def title_of(matrix: Matrix) -> str:
    """Where the group is, its sides, and place and size of the matrix: lines that fit beside it.

    Example: "blocks.1.attention\\nquery -> key\\nmatrix 0, 16×16"
    """
    prefix, sides = without_common(matrix.group)
    where = f"…{prefix[1 - _LINE :]}" if len(prefix) > _LINE else prefix
    size = f"matrix {matrix.place}, {matrix.size}×{matrix.size}"
    return "\n".join(filter(None, [where, shortened(sides, _LINE), size]))
