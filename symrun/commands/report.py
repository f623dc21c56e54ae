"""`symrun report`: one HTML page about runs."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from symrun.commands.parser import Commands, folder
from symrun.commands.plot import leave_the_users_matplotlib
from symrun.errors import UsageError
from symrun.places import place
from symrun.typed import require

if TYPE_CHECKING:
    from symrun.runs.directory import RunDirectory

_PORT = 8571


def add(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="one HTML page: figures, laws, what it cost", example="symrun report RUN"
    )
    report.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=place,
        help="or a folder of runs, as of a sweep: all in it that have records",
    )
    report.add_argument(
        "--out", metavar="FILE", type=folder, help="default: report.html in the first RUN"
    )
    report.add_argument(
        "--serve",
        action="store_true",
        help="show the page to this machine's browser, and make it anew while runs go on",
    )
    report.add_argument(
        "--port",
        metavar="N",
        type=int,
        help=f"where --serve listens (default: {_PORT}); 0: any free one",
    )
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    leave_the_users_matplotlib()
    from symrun.figures.selection import runs_in
    from symrun.runs.copied import local
    from symrun.runs.directory import RunDirectory

    if options.serve and options.out:
        raise UsageError("--out has no effect with --serve, which writes no file")
    if options.port is not None and not options.serve:
        raise UsageError("--port has no effect without --serve")
    places = [local(one) for one in options.runs]
    runs = runs_in(places)
    if options.serve:
        return _serve(runs, _PORT if options.port is None else options.port)
    from symrun.report import report

    print(report(runs, options.out or RunDirectory(places[0]).report))
    return 0


def _serve(runs: Sequence["RunDirectory"], port: int) -> int:
    """Serve until Ctrl-C, which ends it as it ends other commands."""
    require("--port", 0 <= port <= 65535, "in [0, 65535]", port)
    from symrun.report.serve import ReportServer

    for run in runs:
        run.warn_unless_finished()
    with ReportServer(runs, port) as server:
        print(f"{server.address} (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0
