"""`symrun compare`: runs beside each other."""

import argparse
import sys

from symrun.commands.parser import Commands
from symrun.errors import UsageError
from symrun.places import place


def add(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="runs side by side: settings that differ, and numbers",
        example="symrun compare RUN RUN",
    )
    compare.add_argument("runs", metavar="RUN", nargs="+", type=place)
    form = compare.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="machine-readable rows")
    form.add_argument("--csv", action="store_true", help="the same rows as CSV")
    compare.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.analysis.report import rows_as_json
    from symrun.listing import side_by_side
    from symrun.listing.cached import Listed
    from symrun.listing.overview import as_csv
    from symrun.listing.summary import missing_numbers
    from symrun.runs.directory import RunDirectory

    paths = list(dict.fromkeys(options.runs))
    if len(paths) < 2:
        raise UsageError(
            f"compare needs two runs, got {paths[0]} alone: type symrun compare RUN RUN"
        )
    summaries = [Listed(RunDirectory.open(path)).summary for path in paths]
    if line := missing_numbers(summaries):
        print(f"symrun: {line}", file=sys.stderr)
    rows = side_by_side.as_rows(summaries)
    if options.json:
        print(rows_as_json(rows))
    elif options.csv:
        print(as_csv([*rows[0]], rows))
    else:
        print(side_by_side.as_table(summaries))
    return 0
