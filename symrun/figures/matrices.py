"""What figures of conserved matrices share: which matrices they draw, and how they call them."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from symrun.analysis.comparison import Comparison, comparisons
from symrun.figures.layers import shortened
from symrun.runs.directory import RunDirectory
from symrun.runs.matrices import Matrix
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]
Shown = TypeVar("Shown")

_MOST = 4
"""Matrices in a figure."""
_NAME = 30  # characters: as many as stand beside a matrix


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
    """What `shown` makes of at most _MOST of the matrices of a run, in the order of the network.

    The first matrix of each group and the one that moved most are candidates, of which as many as
    there is room for are taken, evenly from the input to the output.

    Error: UsageError if the run has fewer than two records.
    """
    diagonals: dict[str, Comparison] = {}
    candidates: list[Shown] = []
    for compared in comparisons(run):
        own = [matrix for matrix in matrices if matrix.group == compared.group]
        if compared.symmetry == Symmetry.rescale.value and own:
            diagonals[compared.group] = compared
        if compared.symmetry == Symmetry.general_linear.value:
            diagonal = diagonals.pop(compared.group)
            found = [Evolution(matrix, diagonal, compared) for matrix in own]
            most = max(range(len(found)), key=lambda place: found[place].moved)
            candidates += [shown(found[place]) for place in sorted({0, most})]
    places = np.linspace(0, len(candidates) - 1, min(len(candidates), _MOST)).round().astype(int)
    return [candidates[place] for place in places]


def which(shown: int, count: int) -> str:
    """A sentence for a caption: which matrices are drawn."""
    if shown == count:
        return "These are all matrices."
    return (
        f"These are {shown} of {count} matrices, from the input to the output: of some groups "
        "the first matrix, of others the one that moved most."
    )


def title_of(matrix: Matrix) -> str:
    """Group, place and size, in lines that fit beside a matrix."""
    name = textwrap.fill(shortened(matrix.group, 2 * _NAME), _NAME)
    return f"{name}\nmatrix {matrix.place + 1}, {matrix.size}×{matrix.size}"
