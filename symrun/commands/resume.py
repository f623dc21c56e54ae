"""`symrun resume`: a run that stopped goes on."""

import argparse

from symrun.commands.parser import Commands, add_overrides
from symrun.places import place


def add(commands: Commands) -> None:
    resume = commands.add_parser(
        "resume",
        help="go on with a run that stopped, bit for bit",
        example="symrun resume RUN",
    )
    resume.add_argument("folder", metavar="RUN", type=place)
    add_overrides(resume, "in place of what the run recorded: device=cpu, data.root=DIR")
    resume.add_argument(
        "--anyway",
        action="store_true",
        help="although settings or code have changed, so that it is not what it would have been",
    )
    resume.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.launch import resume

    resume(options.folder, options.overrides, options.anyway)
    return 0
