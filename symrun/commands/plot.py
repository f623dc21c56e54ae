"""`symrun plot`: a figure from the tables of runs."""

import argparse
import logging
import os
from typing import Any

from symrun.commands.parser import Commands, folder
from symrun.errors import UsageError
from symrun.places import place


def add(commands: Commands) -> None:
    plot = commands.add_parser(
        "plot", help="draw a figure from the tables of runs", example="symrun plot fig1 RUN"
    )
    figures = "fig1 to fig5, symmetries, grid (_scale, _rescale, _translation), phase, seeds, "
    figures += "residual, units, equilibrium, heads, spectrum, progress"
    figure: Any = plot.add_argument("figure", metavar="FIGURE", help=figures)
    figure.completer = _names_of_figures  # argcomplete's own attribute
    plot.add_argument(
        "runs",
        metavar="RUN",
        nargs="*",
        type=place,
        help="or a folder of runs, as of a sweep: those in it that fit, of which a figure of one "
        "run takes the newest; default: the newest run",
    )
    plot.add_argument(
        "--out", metavar="DIR", type=folder, help="default: figures/ of the first RUN"
    )
    plot.add_argument("--format", default="png,pdf,svg", help="of png, pdf, svg, gif (%(default)s)")
    plot.add_argument(
        "--plain-title", action="store_true", help="name no figure of the paper in the title"
    )
    plot.set_defaults(run=_run)


def _names_of_figures(**_: object) -> list[str]:
    from symrun.figures import FIGURES

    return list(FIGURES)


def leave_the_users_matplotlib() -> None:
    """Keep the user's backend and matplotlibrc out of matplotlib's import, which either can fail.

    Its log of where it caches fonts, and what else it finds wrong there, stays silent too.
    """
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _run(options: argparse.Namespace) -> int:
    leave_the_users_matplotlib()
    from symrun.figures import FIGURES, plot

    name = options.figure
    swapped = [str(path) for path in options.runs if str(path) in FIGURES]
    if swapped and name not in FIGURES:
        raise UsageError(f"the figure comes first: type symrun plot {swapped[0]} {name}")
    formats = options.format.split(",")
    for path in plot(name, options.runs, options.out, formats, options.plain_title):
        print(path)
    return 0
