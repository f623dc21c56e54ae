"""Eigenvalues of conserved matrices over time, beside those of the matrices that a law predicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from symrun.figures.captions import captions, settings
from symrun.figures.matrices import Evolution, chosen, title_of, which
from symrun.figures.measured import (
    draw_legend,
    draw_units,
    evenly_by_rank,
    grid_of,
    rows_and_columns,
)
from symrun.figures.selection import Roles
from symrun.figures.style import drawable, frame, styled
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.matrices import Matrix, matrices_of
from symrun.runs.tables import Curves
from symrun.symmetry import Symmetry

_MOST_LINES = 16


@dataclass(frozen=True)
class _Shown:
    """One matrix. curves: of its eigenvalues, ascending, [records, at most _MOST_LINES]."""

    matrix: Matrix
    curves: Curves


def _fits(info: RunInfo, _: str) -> bool:
    matrices = matrices_of(info)
    return bool(matrices) and all(matrix.is_whole for matrix in matrices)


RUNS = Roles({"that recorded its matrices whole (track.matrices=full)": "heads"}, _fits)


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A panel for each of the matrices that `symrun plot heads` draws: its eigenvalues, with those
    of the predicted matrix dashed over them, and below the difference of each pair of one rank.

    The prediction is law `flow`, or `discrete` where `flow` is silent. No eigenvalue differs from
    the predicted one by more than the norm of the difference of the two matrices (Weyl 1912).
    Eigenvalues are sorted at each record, so two lines that meet part again.

    Error: UsageError if the run has fewer than two records.
    """
    (run,) = runs
    info = run.info()
    law = next((law for law in ("flow", "discrete") if law not in info.unpredicted), "flow")
    matrices = matrices_of(info)
    shown = chosen(run, matrices, partial(_shown, run, law))
    rows, columns = rows_and_columns(len(shown))
    lines = captions([(info, max(int(one.curves.steps[-1]) for one in shown))])
    lines.append(_note(shown, matrices, law))
    heading = f"Eigenvalues of conserved matrices on {settings([info])}"
    figure, panels = frame((max(2.6 * columns, 5.2), 3.3 * rows + 1.3), heading, lines)
    grid = grid_of(panels, rows, columns)
    groups = {group.group: group for group in info.groups_of(Symmetry.general_linear)}
    for place, one in enumerate(shown):
        where = (grid, *divmod(place, columns))
        axes = draw_units(panels, where, info, groups[one.matrix.group], one.curves, law)
        axes.set_title(title_of(one.matrix))
        axes.set_ylabel("Eigenvalue")
    draw_legend(panels, [info], law)
    return figure


def _shown(run: RunDirectory, law: str, one: Evolution) -> _Shown:
    entries, predicted = {"measured": one.entries("measured")}, one.predicted(law)
    if predicted is not None:
        entries[law] = predicted
    curves = drawable(run, Curves(one.steps, entries))  # fewer records to decompose
    spectra = {name: one.matrix.eigenvalues(curve) for name, curve in curves.values.items()}
    drawn = evenly_by_rank(spectra["measured"][-1], _MOST_LINES)
    return _Shown(one.matrix, Curves(curves.steps, spectra).of_units(drawn))


def _note(shown: Sequence[_Shown], matrices: Sequence[Matrix], law: str) -> str:
    """Which matrices are drawn, and what the lines are."""
    largest = max(one.matrix.size for one in shown)
    lines = "all of a matrix" if largest <= _MOST_LINES else f"at most {_MOST_LINES}, by rank"
    strips = ""
    if any(law in one.curves.values for one in shown):
        strips = (
            " Dashed: eigenvalues of the matrix whose entries the law predicts from measured "
            "gradients. Strips: measured − predicted, rank by rank, each on its own scale."
        )
    drawn = which([one.matrix for one in shown], matrices)
    return (
        f"{drawn} Lines: eigenvalues ({lines}) of the symmetric matrix put "
        f"together from its entries, in float64. Colours: rank, dark: lowest.{strips}"
    )
