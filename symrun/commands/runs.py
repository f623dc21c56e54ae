"""`symrun runs`: the runs in a folder, a line each."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symrun.commands.parser import Commands
from symrun.errors import UsageError, in_one_line

if TYPE_CHECKING:
    from symrun.listing.filters import Condition


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
    form.add_argument("--json", action="store_true", help="machine-readable rows")
    form.add_argument("--csv", action="store_true", help="the same rows as CSV")
    runs.add_argument(
        "--sort", metavar="KEY", help="by what filters know, least first; --sort=-KEY: greatest"
    )
    runs.set_defaults(run=_run)


def _completions(prefix: str, **_: object) -> list[str]:
    from symrun.listing.filters import KEYS
    from symrun.overrides import completions
    from symrun.runs.directory import STATUSES

    words = [*(f"{key}=" for key in KEYS), *(f"status={status}" for status in STATUSES)]
    folders = [f"{path}/" for path in Path().glob(f"{prefix}*") if path.is_dir()]
    return folders + [word for word in words if word.startswith(prefix)] + completions(prefix)


def _run(options: argparse.Namespace) -> int:
    from symrun.analysis.report import rows_as_json
    from symrun.listing import overview

    folder, conditions = _folder_and_conditions(options.words)
    runs, refused = overview.found_below(folder)
    if refused:
        others = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        print(f"symrun: passed over{others}: {refused[0]}", file=sys.stderr)
    summaries = overview.chosen(runs, conditions) if runs else []
    if options.sort is not None and runs:
        summaries = overview.by_key(summaries, options.sort)
    if not summaries:
        print(f"symrun: {_nothing(folder, len(runs), options.words)}", file=sys.stderr)
    if options.json:
        print(rows_as_json(overview.as_rows(summaries)))
    elif options.csv:
        print(overview.as_csv(overview.as_rows(summaries)))
    elif summaries:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(overview.as_table(summaries, width))
    return 0


def _folder_and_conditions(words: Sequence[str]) -> tuple[Path, "list[Condition]"]:
    """Error: UsageError for a folder that is none, or a word that is no condition."""
    from symrun.listing.filters import Condition
    from symrun.runs.directory import OUTPUTS

    first = [word for word in words[:1] if Path(word).is_dir() or Condition.of(word) is None]
    folder = Path(first[0]) if first else OUTPUTS
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


def _nothing(folder: Path, runs: int, words: Sequence[str]) -> str:
    """Why there is nothing to list."""
    if not runs:
        return f"there is no run in {in_one_line(folder)}: `symrun train` makes one"
    one = "the one run" if runs == 1 else f"none of the {runs:,} runs"
    return f"{one} in {in_one_line(folder)} fits {in_one_line(' '.join(words))}"
