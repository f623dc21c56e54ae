"""The paper's figures, a file each. They read the tables of runs; they never train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure

from symrun.errors import UsageError
from symrun.figures import fig1, fig5
from symrun.figures.style import FORMATS, save
from symrun.runs.directory import OUTPUTS, RunDirectory, newest_first


class PaperFigure(Protocol):
    """What the module of a figure offers.

    NEEDS: the runs that it draws, each with the preset that makes one.
    """

    NEEDS: dict[str, str]

    def role(self, info: dict[str, Any]) -> str | None:
        """Which of NEEDS the run of this run.json is; None if it is none of them."""
        ...

    def draw(self, runs: Sequence[RunDirectory]) -> Figure:
        """The figure of `runs`, which are in the order of NEEDS."""
        ...


FIGURES: dict[str, PaperFigure] = {"fig1": fig1, "fig5": fig5}


def select_runs(
    figure: str,
    runs: Sequence[RunDirectory],
    candidates: Sequence[RunDirectory] | None = None,
) -> list[RunDirectory]:
    """The runs that `figure` draws, in its order: `runs`, or without any the newest that fit.

    `candidates`: where to look without `runs`, newest first; None: all below outputs/.

    Error: UsageError for an unknown figure, a run that is missing, does not fit or is left over.
    Example: select_runs("fig5", [])
    """
    needs, role_of = _named(figure).NEEDS, _named(figure).role
    wanted = " and ".join(f"a run {need}" for need in needs)
    chosen: dict[str, RunDirectory] = {}
    for run in runs or (newest_first() if candidates is None else candidates):
        info = run.info()
        role = role_of(info) if "groups" in info else None
        if runs and role is None:
            raise UsageError(f"{figure} needs {wanted}; {run.path} does not fit")
        if runs and role in chosen:
            raise UsageError(f"{figure} needs {wanted}; {run.path} is a second one {role}")
        if role is not None:
            chosen.setdefault(role, run)
    for need, preset in needs.items():
        if need not in chosen:
            where = "among those given" if runs else f"in {OUTPUTS}"
            remedy = f"`symrun train experiment={preset}` makes one"
            raise UsageError(f"{figure} needs {wanted}; there is none {need} {where}: {remedy}")
    return [chosen[need] for need in needs]


def plot(
    figure: str, paths: Sequence[Path], out: Path | None, formats: Sequence[str]
) -> list[Path]:
    """Draw `figure` of the runs in `paths` into out/<figure>.<format>, one file per format.

    `paths`: none for the newest runs that fit. `out`: None for figures/ of the first run.

    Error: UsageError for an unknown figure or format, runs that do not fit or have fewer than two
    records, or a folder that cannot be written.
    Example: plot("fig1", [], Path("docs"), ["png", "pdf"])
    """
    module = _named(figure)
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format must be some of {', '.join(FORMATS)}, got {name!r}")
    given = [RunDirectory.open(path) for path in paths]
    runs = select_runs(figure, given)
    folder = (given or runs)[0].figures if out is None else out
    return save(module.draw(runs), folder, figure, formats)


def _named(figure: str) -> PaperFigure:
    if figure not in FIGURES:
        raise UsageError(f"there is no figure {figure!r}; there are {', '.join(FIGURES)}")
    return FIGURES[figure]
