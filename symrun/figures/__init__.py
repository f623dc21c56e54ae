"""The figures, a file each. They read the tables of runs, or draw equations; they never train."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from symrun.errors import UsageError, did_you_mean, in_one_line
from symrun.figures import (
    equilibrium,
    fig1,
    fig2,
    fig3,
    fig4,
    fig5,
    heads,
    phase,
    progress,
    residual,
    seeds,
    spectrum,
    symmetries,
    units,
)
from symrun.figures.captions import NOT_THE_PAPERS
from symrun.figures.grid import Grid
from symrun.figures.layers import HIDDEN
from symrun.figures.selection import Selection, holds_runs, named
from symrun.figures.style import FORMATS, describe, save, styled
from symrun.runs.copied import local
from symrun.runs.directory import OUTPUTS, RunDirectory, folders_below, runs_once
from symrun.symmetry import Symmetry

_log = logging.getLogger(__name__)


class FigureModule(Protocol):
    """What the module of a figure offers."""

    @property
    def RUNS(self) -> Selection: ...

    def draw(self, runs: Sequence[RunDirectory]) -> Figure:
        """The figure of `runs`, which RUNS chose."""
        ...


FIGURES: dict[str, FigureModule] = {
    "fig1": fig1,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "symmetries": symmetries,
    "grid": Grid(None),
    **{
        f"grid_{symmetry.value}": Grid(symmetry.value)
        for symmetry in (*HIDDEN, Symmetry.translation)
    },
    "phase": phase,
    "seeds": seeds,
    "residual": residual,
    "units": units,
    "equilibrium": equilibrium,
    "heads": heads,
    "spectrum": spectrum,
    "progress": progress,
}


def select_runs(
    figure: str, runs: Sequence[RunDirectory], folders: Sequence[Path] = ()
) -> list[RunDirectory]:
    """The runs that `figure` draws, in its order: `runs`, or if none, those in `folders` that fit,
    or the newest in outputs/.

    Error: UsageError for an unknown figure, a run that is missing, does not fit or is left over.
    Example: select_runs("fig1", [])
    """
    return _module_of(figure).RUNS.choose(figure, runs, folders)


def plot(
    figure: str,
    paths: Sequence[Path | str],
    out: Path | None,
    formats: Sequence[str],
    plain_title: bool = False,
) -> list[Path]:
    """Draw `figure` of the runs in `paths` into out/<figure>.<format>, one file per format.

    `paths`: of runs, or of folders that hold some, of which those that fit are drawn; if empty, the
    newest runs that fit. `out`: None for figures/ of the first, outputs/figures for a figure
    without runs. `plain_title`: for one's own work, whose settings are not meant to be the paper's;
    the caption then says that they are not, in place of the title.

    Error: UsageError for an unknown figure or format, runs that do not fit or have fewer than two
    records, a folder that cannot be written, or `plain_title` where the title has no such note.
    Example: plot("fig1", [], Path("docs"), ["png", "pdf"])
    """
    module = _module_of(figure)
    formats = list(dict.fromkeys(formats))
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format must be some of {', '.join(FORMATS)}, got {name!r}")
    places = [local(path) for path in paths]
    given = [RunDirectory.open(place) for place in places if not holds_runs(place)]
    folders = places if len(given) < len(places) else ()
    runs = select_runs(figure, [] if folders else given, folders)
    if folders:
        _tell_choice(figure, runs, folders)
    for run in runs:
        run.warn_unless_finished()
    if out is None:
        first = [*places, *(run.path for run in runs), OUTPUTS][0]
        out = RunDirectory(first).figures
    drawn = module.draw(runs)
    if plain_title:
        _make_title_plain(drawn, figure)
    return save(drawn, out, figure, formats)


def _tell_choice(figure: str, runs: Sequence[RunDirectory], folders: Sequence[Path]) -> None:
    """Say which of the runs in `folders` are drawn, unless all of them are."""
    among = runs_once([run for folder in folders for run in folders_below(folder)])
    if len(runs) < len(among):
        which = f": {in_one_line(runs[0].path)}" if len(runs) == 1 else ""
        _log.warning(
            "%s draws %d of the %d runs in %s%s",
            figure,
            len(runs),
            len(among),
            named(folders),
            which,
        )


@styled
def _make_title_plain(figure: Figure, name: str) -> None:
    """Move the note that the settings are not the paper's from the title to the caption.

    Error: UsageError if there is no such note.
    """
    title, note, _ = figure.get_suptitle().partition(NOT_THE_PAPERS)
    if not note:
        raise UsageError(f"--plain-title has no effect: the title of this {name} has no note")
    original, _, settings = title.partition(" on ")
    moved = f"Drawn as {original} of Kunin et al. (2021), but not with its settings."
    describe(
        figure, settings[:1].upper() + settings[1:], [*figure.get_supxlabel().split("\n"), moved]
    )


def _module_of(figure: str) -> FigureModule:
    if figure not in FIGURES:
        meant = did_you_mean(figure, FIGURES)
        raise UsageError(f"there is no figure {figure}; there are {', '.join(FIGURES)}{meant}")
    return FIGURES[figure]
