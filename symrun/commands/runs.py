"""`symrun runs`: the runs in a folder, a line each."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symrun.commands.parser import Commands
from symrun.errors import UsageError, in_one_line
from symrun.places import is_url

if TYPE_CHECKING:
    from symrun.listing.filters import Condition
    from symrun.listing.summary import Summary


def add(commands: Commands) -> None:
    runs = commands.add_parser(
        "runs",
        help="the runs in a folder, newest first",
        example="symrun runs outputs status=finished 'optim.lr>0.01'",
    )
    words: Any = runs.add_argument(
        "words",
        metavar="FOLDER FILTER",
        nargs="*",
        help="a folder (default: outputs), then conditions on status, model, data, name, step, "
        "top1, loss, unexplained, seconds, created and every setting, with = != < <= > >= and ~, "
        "which is 'contains'; quote < and > from the shell: 'optim.lr>0.01'",
    )
    words.completer = _completions  # argcomplete's own attribute
    form = runs.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="machine-readable, with every setting")
    form.add_argument("--csv", action="store_true", help="rows with the settings that differ")
    runs.add_argument(
        "--sort",
        metavar="KEY",
        help="a key that filters take, least first; --sort=-KEY: greatest first",
    )
    runs.set_defaults(run=_run)


def _completions(prefix: str, **_: object) -> list[str]:
    from symrun.listing.filters import KEYS
    from symrun.overrides import completions
    from symrun.runs.info import Status

    words = [*(f"{key}=" for key in KEYS), *(f"status={status}" for status in Status)]
    folders = [f"{path}/" for path in Path().glob(f"{prefix}*") if path.is_dir()]
    return folders + [word for word in words if word.startswith(prefix)] + completions(prefix)


def _run(options: argparse.Namespace) -> int:
    from symrun.listing import overview
    from symrun.listing.filters import whole_key
    from symrun.listing.summary import missing_numbers

    folder, conditions = _folder_and_conditions(options.words)
    runs, refused = overview.found_below(folder)
    if refused:
        others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        print(f"symrun: passed over{others}: {refused[0]}", file=sys.stderr)
    sort = options.sort
    if runs:  # all keys are looked at before any table is read
        described = [one.described for one in runs]
        conditions = [replace(one, key=whole_key(one.key, described)) for one in conditions]
        sort = sort and sort[: sort.startswith("-")] + whole_key(sort.removeprefix("-"), described)
    summaries = overview.chosen(runs, conditions)
    if sort is not None:
        summaries = overview.by_key(summaries, sort)
    keys = [one.key for one in conditions] + ([sort.removeprefix("-")] if sort else [])
    if not summaries:
        filters = options.words[len(options.words) - len(conditions) :]
        print(f"symrun: {_nothing(folder, len(runs), filters)}", file=sys.stderr)
    if line := missing_numbers(summaries):
        print(f"symrun: {line}", file=sys.stderr)
    _print(options, summaries, keys)
    return 0


def _print(options: argparse.Namespace, summaries: "list[Summary]", keys: list[str]) -> None:
    """keys: the whole keys that runs were filtered or sorted by."""
    from symrun.analysis.report import rows_as_json
    from symrun.listing import overview

    if options.json:
        rows = overview.as_rows(summaries, overview.columns_of(summaries, keys))
        settings = [{"settings": dict(one.settings)} for one in summaries]
        print(rows_as_json([row | more for row, more in zip(rows, settings, strict=True)]))
    elif options.csv:
        names = overview.columns_of(summaries, keys)
        print(overview.as_csv(names, overview.as_rows(summaries, names)))
    elif summaries:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(overview.as_table(summaries, width))


def _folder_and_conditions(words: Sequence[str]) -> tuple[Path, "list[Condition]"]:
    """Error: UsageError for a folder that is none, or a word that is no condition."""
    from symrun.listing.filters import Condition
    from symrun.runs.copied import local
    from symrun.runs.directory import OUTPUTS

    first = [
        word
        for word in words[:1]
        if is_url(word) or Path(word).is_dir() or Condition.of(word) is None
    ]
    folder = local(first[0]) if first else OUTPUTS
    if not folder.is_dir() and (first or folder.exists()):
        raise UsageError(
            f"{in_one_line(folder)} is no folder and no filter: type symrun runs FOLDER"
        )
    conditions = []
    for word in words[len(first) :]:
        condition = Condition.of(word)
        if condition is None:
            example = "a filter is KEY=VALUE, such as status=finished"
            raise UsageError(f"{in_one_line(word)} is no filter: {example}")
        conditions.append(condition)
    return folder, conditions


def _nothing(folder: Path, runs: int, filters: Sequence[str]) -> str:
    """Why there is nothing to list."""
    if not runs:
        return f"there is no run in {in_one_line(folder)}: `symrun train` makes one"
    where, what = in_one_line(folder), in_one_line(" ".join(filters))
    if runs == 1:
        return f"the one run in {where} does not fit {what}"
    return f"none of the {runs:,} runs in {where} fits {what}"
