"""The matrices that are conserved, put together from the units that are their entries.

A matrix has its diagonal in a group of rescale, and other entries in the group of general_linear of
the same name: all of them, or a random sample, or none where `track.matrices` is `diagonal`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.tables import LAWS, Curves, unit_curves
from symrun.symmetry import Symmetry

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Matrix:
    """Where the entries of one symmetric matrix stand among the units of its two groups.

    place: among the matrices of its group. diagonal: units of rescale, [size]. others: units of
    general_linear, [others]. rows, columns: of the entries in the matrix, its diagonal first,
    [size + others].
    """

    group: str
    place: int
    diagonal: NDArray[np.intp]
    others: NDArray[np.intp]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    @property
    def size(self) -> int:
        return len(self.diagonal)

    @property
    def is_whole(self) -> bool:
        """Whether every entry is recorded."""
        return len(self.rows) == self.size * (self.size + 1) // 2

    def entries(self, rescale: Array, general_linear: Array) -> Array:
        """Those of the matrix among the values of its two groups, [..., units] each."""
        return np.concatenate([rescale[..., self.diagonal], general_linear[..., self.others]], -1)

    def square(self, entries: Array) -> Array:
        """[..., size + others] -> the matrix [..., size, size] of these entries, NaN where there is
        none."""
        matrix = np.full((*entries.shape[:-1], self.size, self.size), np.nan)
        matrix[..., self.rows, self.columns] = matrix[..., self.columns, self.rows] = entries
        return matrix

    def eigenvalues(self, entries: Array) -> Array:
        """[records, size + others] -> those of each matrix, ascending, [records, size]; NaN where
        an entry is not finite. Assumes: is_whole."""
        finite = np.isfinite(entries).all(axis=1)
        found = np.full((len(entries), self.size), np.nan)
        found[finite] = np.linalg.eigvalsh(self.square(entries[finite]))
        return found

    def norm(self, entries: Array) -> Array:
        """The Frobenius norm of the matrix with these entries, [..., size + others] -> [...].

        Each entry off the diagonal counts for as many as it stands for: of a sample, the square is
        an estimate without bias.
        """
        weights = np.ones(len(self.rows))
        weights[self.size :] = self.size * (self.size - 1) / max(len(self.others), 1)
        norm: Array = np.sqrt(np.square(entries) @ weights)
        return norm


def matrices_of(info: RunInfo, name: str | None = None) -> list[Matrix]:
    """The matrices of which more is recorded than the diagonal; of one group if it is named."""
    return [
        matrix
        for group in info.groups_of(Symmetry.general_linear)
        if name in (None, group.group)
        for matrix in _matrices(group.group, group.blocks, group.matrix_entries)
    ]


def require_matrices(run: RunDirectory) -> list[Matrix]:
    """As `matrices_of`. Error: UsageError if there are none."""
    info = run.info()
    found = matrices_of(info)
    if found:
        return found
    settings = info.config.by_name
    if settings.get("track.matrices", "diagonal") != "diagonal":  # they were looked for
        raise UsageError(f"{run.path} has no conserved matrix: nothing mixes units of its network")
    remedy = 'track with matrices="full", which says if the network has none'
    if info.loop is None:
        command = f"`symrun symmetries model={settings['model.name']}`"
        remedy = f"train with track.matrices=full; {command} says whether the network has any"
    raise UsageError(f"{run.path} records no entries off the diagonal of matrices: {remedy}")


def _matrices(
    group: str, blocks: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]
) -> list[Matrix]:
    block_of = {unit: place for place, block in enumerate(blocks) for unit in block}
    within = {unit: row for block in blocks for row, unit in enumerate(block)}
    others: list[list[int]] = [[] for _ in blocks]
    for unit, (first, _) in enumerate(pairs):
        others[block_of[first]].append(unit)
    found = []
    for place, (block, units) in enumerate(zip(blocks, others, strict=True)):
        ends = [[within[end] for end in pairs[unit]] for unit in units]
        both = np.concatenate(
            [
                np.repeat(np.arange(len(block))[:, None], 2, axis=1),
                np.array(ends, np.intp).reshape(-1, 2),
            ]
        )
        lines, pair_units = np.array(block, np.intp), np.array(units, np.intp)
        found.append(Matrix(group, place, lines, pair_units, both[:, 0], both[:, 1]))
    return found


def matrix_table(run: RunDirectory) -> "pd.DataFrame":
    """A row a conserved matrix and record.

    step, group, matrix: its place in the group, size, entries: how many are recorded, trace, and
    Frobenius norms: `frobenius` of what was measured, `change` of its change since the start, and
    `flow`, `discrete` and `exact` of what is measured minus what that law predicts, NaN where it
    makes no prediction. The norms are exact if every entry is recorded; of a sample, their squares
    are estimates without bias.

    Error: UsageError as in `require_matrices` and `unit_curves`.
    """
    import pandas as pd  # takes half a second

    frames = []
    columns = ("measured", *LAWS)
    of_group: dict[str, list[Matrix]] = {}
    for matrix in require_matrices(run):
        of_group.setdefault(matrix.group, []).append(matrix)
    for name, matrices in of_group.items():
        diagonal, others = (
            unit_curves(run, symmetry.value, name, columns)
            for symmetry in (Symmetry.rescale, Symmetry.general_linear)
        )
        frames += [pd.DataFrame(_row(matrix, diagonal, others)) for matrix in matrices]
    return pd.concat(frames, ignore_index=True)


def _row(matrix: Matrix, diagonal: Curves, others: Curves) -> dict[str, object]:
    records = min(len(diagonal.steps), len(others.steps))  # a run that goes on has written more
    measured, *laws = (
        matrix.entries(diagonal.values[name][:records], others.values[name][:records])
        for name in ("measured", *LAWS)
    )
    return {
        "step": diagonal.steps[:records],
        "group": matrix.group,
        "matrix": np.int32(matrix.place),
        "size": np.int32(matrix.size),
        "entries": np.int32(len(matrix.rows)),
        "trace": measured[:, : matrix.size].sum(axis=1),
        "frobenius": matrix.norm(measured),
        "change": matrix.norm(measured - measured[0]),
        **{
            law: matrix.norm(measured - predicted)
            for law, predicted in zip(LAWS, laws, strict=True)
        },
    }
