"""`symrun bench`: what tracking costs, and how fast the rest is."""

import argparse
from pathlib import Path

from symrun.commands.parser import Commands, add_overrides


def add(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench", help="what tracking costs, and how fast the rest is", example="symrun bench"
    )
    add_overrides(bench, "as in `symrun train`; a list of values measures each: track.every=1,20")
    bench.add_argument(
        "--pairs",
        metavar="N",
        type=int,
        help="pairs of updates, one tracked and one not (default: 40)",
    )
    bench.add_argument(
        "--tables", action="store_true", help="also plot and check of a full-scale run's tables"
    )
    bench.add_argument(
        "--parts", action="store_true", help="where an update's time goes instead: a row a part"
    )
    bench.add_argument(
        "--repeats",
        metavar="N",
        type=int,
        help="with --parts: timings of each, of which the median counts (default: 9)",
    )
    bench.add_argument(
        "--profile", metavar="FILE", type=Path, help="with --parts: torch's profile of an update"
    )
    bench.add_argument(
        "--compile-sums",
        action="store_true",
        help="with --parts: also the sums under torch.compile, as always on a GPU; half a minute",
    )
    bench.add_argument("--json", action="store_true", help="machine-readable figures")
    bench.add_argument(
        "--out", metavar="FILE", type=Path, help="the same figures as JSON, rewritten as they come"
    )
    bench.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from symrun.bench.command import run

    return run(options)
