"""`symrun watch`: a run of another process, live."""

import argparse

from symrun.commands.parser import Commands
from symrun.places import place


def add(commands: Commands) -> None:
    watch = commands.add_parser(
        "watch",
        help="a run of another process, live until it ends; in a pipe a line a change",
        example="symrun watch RUN",
    )
    watch.add_argument("folder", metavar="RUN", type=place)
    watch.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.listing.live import watch
    from symrun.runs.directory import RunDirectory

    watch(RunDirectory.open(options.folder))
    return 0
