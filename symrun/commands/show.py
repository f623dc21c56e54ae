"""`symrun show`: one run at a glance."""

import argparse
import json

from symrun.commands.parser import Commands
from symrun.places import place


def add(commands: Commands) -> None:
    show = commands.add_parser(
        "show", help="one run at a glance, and what to type next", example="symrun show RUN"
    )
    show.add_argument("folder", metavar="RUN", type=place)
    show.add_argument("--json", action="store_true", help="machine-readable, with every setting")
    show.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.listing.cached import Listed
    from symrun.listing.card import as_json, as_text, card
    from symrun.runs.directory import RunDirectory

    run = RunDirectory.open(options.folder)
    one = card(run, Listed(run).summary)
    print(json.dumps(as_json(one), indent=1, allow_nan=False) if options.json else as_text(one))
    return 0
