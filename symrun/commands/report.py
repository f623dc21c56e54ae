"""`symrun report`: one HTML page about runs."""

import argparse
from pathlib import Path

from symrun.commands.parser import Commands
from symrun.commands.plot import leave_the_users_matplotlib


def add(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="one HTML page: figures, laws, what it cost", example="symrun report RUN"
    )
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    report.add_argument(
        "--out", metavar="FILE", type=Path, help="default: report.html in the first run's folder"
    )
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    leave_the_users_matplotlib()
    from symrun.report import report
    from symrun.runs.directory import RunDirectory

    runs = [RunDirectory.open(path) for path in options.runs]
    print(report(runs, options.out or runs[0].path / "report.html"))
    return 0
