"""`symrun thin`: a run with fewer records."""

import argparse
import sys

from symrun.commands.parser import Commands, folder
from symrun.errors import UsageError
from symrun.places import place


def add(commands: Commands) -> None:
    thin = commands.add_parser(
        "thin",
        help="a run with fewer records, small enough to travel",
        example="symrun thin RUN NEW --max-mb 10",
    )
    thin.add_argument("folder", metavar="RUN", type=place)
    thin.add_argument("new", metavar="NEW", type=folder, help="the folder that it makes")
    thin.add_argument(
        "--every",
        metavar="K",
        type=int,
        help="keep the records whose step is a multiple of K, the first and the last",
    )
    thin.add_argument(
        "--max-mb",
        metavar="N",
        type=float,
        help="keep as many evenly spaced records as fit into N megabytes, of 10^6 bytes",
    )
    thin.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.runs.directory import RunDirectory
    from symrun.runs.thinning import size_bytes, thin, thin_to_size

    every, most_mb = options.every, options.max_mb
    if (every is None) == (most_mb is None):
        given = "neither" if every is None else "both"
        raise UsageError(f"thin takes one of --every K and --max-mb N, got {given}")
    run = RunDirectory.open(options.folder)
    new = (
        thin(run, options.new, every)
        if every is not None
        else thin_to_size(run, options.new, most_mb * 1e6)
    )
    info = new.info()
    assert info.thinned is not None
    kept = f"{info.thinned.records:,} of {info.thinned.of:,} records, {', '.join(info.spacing())}"
    print(f"symrun: {kept}: {size_bytes(new.path) / 1e6:,.1f} MB", file=sys.stderr)
    print(new.path)
    return 0
