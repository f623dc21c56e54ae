"""`symrun collect`: the numbers and the settings of many runs in one parquet file."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from symrun.commands.parser import Commands
from symrun.errors import UsageError, in_one_line

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
        type=Path,
        help="of runs, at any depth, or a run itself (default: outputs)",
    )
    collect.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="default: collected.parquet in the first folder",
    )
    collect.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.files import require_place
    from symrun.listing.collection import collect
    from symrun.runs.directory import OUTPUTS

    folders = options.folders or [OUTPUTS]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{in_one_line(folder)} is no folder: type symrun collect FOLDER")
    out = options.out or folders[0] / "collected.parquet"
    require_place("--out", out)
    if out.suffix != ".parquet":
        raise UsageError(f"--out={in_one_line(out)} must end in .parquet, as the file is one")
    print(f"symrun: {_in_words(collect(folders, out))}", file=sys.stderr)
    print(out)
    return 0


def _in_words(one: "Collected") -> str:
    counted = f"{one.runs:,} run{'s' * (one.runs != 1)} in {one.rows:,} rows"
    words = f"{counted}: {one.runs - one.kept:,} read, {one.kept:,} known from before"
    if one.refused:
        path, reason = next(iter(one.refused.items()))
        words += f"; {len(one.refused):,} without all numbers, {in_one_line(path)}: {reason}"
    return words
