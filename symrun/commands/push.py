"""`symrun push`: a run goes to a store, or what is missing of it there."""

import argparse
import sys
from pathlib import Path

from symrun.commands.parser import Commands
from symrun.errors import UsageError
from symrun.places import is_url, place


def add(commands: Commands) -> None:
    push = commands.add_parser(
        "push",
        help="send a run to a store such as s3://, or what is missing of it there",
        example="symrun push RUN s3://BUCKET/FOLDER",
    )
    push.add_argument("folder", metavar="RUN", type=place)
    push.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        help="default: its own run.dir, else where it was sent last",
    )
    push.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.runs.directory import RunDirectory
    from symrun.runs.mirror import push

    if not isinstance(options.folder, Path):
        raise UsageError(f"{options.folder} is in a store already: push sends a folder")
    if options.url is not None and not is_url(options.url):
        raise UsageError(f"{options.url} is no URL: type one such as s3://bucket/runs/mine")
    url = push(RunDirectory.open(options.folder), options.url)
    print(f"symrun: {options.folder} is complete in {url}", file=sys.stderr)
    return 0
