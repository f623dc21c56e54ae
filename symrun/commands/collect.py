"""`symrun collect`: the numbers and the settings of many runs in one parquet file."""

import argparse
import sys
from typing import TYPE_CHECKING

from symrun.commands.parser import Commands, folder
from symrun.errors import UsageError, in_one_line
from symrun.places import place, url_of

if TYPE_CHECKING:
    from symrun.listing.collection import Collected


def add(commands: Commands) -> None:
    collect = commands.add_parser(
        "collect",
        help="the numbers and the settings of many runs in one parquet file",
        example="symrun collect outputs",
    )
    collect.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="*",
        type=place,
        help="of runs, at any depth, or a run itself (default: outputs)",
    )
    collect.add_argument(
        "--out",
        metavar="FILE",
        type=folder,
        help="default: collected.parquet in the first folder",
    )
    collect.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.files import require_place
    from symrun.listing.collection import collect
    from symrun.runs.copied import local
    from symrun.runs.directory import OUTPUTS

    folders = [local(one) for one in options.folders or [OUTPUTS]]
    for one in folders:
        if not one.is_dir():
            raise UsageError(f"{in_one_line(one)} is no folder: type symrun collect FOLDER")
    first = OUTPUTS if url_of(folders[0]) else folders[0]  # nobody looks for it in a cache
    out = options.out or first / "collected.parquet"
    require_place("--out", out)
    if out.suffix != ".parquet":
        raise UsageError(f"--out={in_one_line(out)} must end in .parquet, as the file is one")
    print(f"symrun: {_in_words(collect(folders, out))}", file=sys.stderr)
    print(out)
    return 0


def _in_words(one: "Collected") -> str:
    counted = f"{one.runs:,} run{'s' * (one.runs != 1)} in {one.rows:,} rows"
    read = one.runs - one.kept - len(one.unreadable)
    words = f"{counted}: {read:,} read, {one.kept:,} known from before"
    words += f", {len(one.unreadable):,} unreadable" * bool(one.unreadable)
    words += f"; {one.under_way:,} under way without all numbers so far" * bool(one.under_way)
    words += f"; {len(one.unjudged):,} ended without all numbers" * bool(one.unjudged)
    lacking = {**one.unreadable, **one.unjudged}
    if lacking:
        path, reason = map(in_one_line, next(iter(lacking.items())))
        reason = reason.replace(f"{path}/", "").removeprefix(f"{path} ")
        words += f"; the column unjudged says why, of {path}: {reason}"
    return words
