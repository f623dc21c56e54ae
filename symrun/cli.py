"""The command line: each command to one function, every error to one line."""

import argparse
import io
import os
import sys
import warnings
from pathlib import Path

from symrun import __version__
from symrun.errors import Interrupted, SymrunError

TRAIN_HELP = "train a network and record its conserved quantities (settings: symrun train --help)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path need not fit the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        if arguments[:1] == ["train"]:  # Hydra parses the rest
            from symrun.launch import launch

            launch(arguments[1:])
            return 0
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except SymrunError as error:
        print(f"symrun: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("symrun: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # `symrun check RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except (OSError, MemoryError) as error:
        print(f"symrun: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="symrun", description="The mechanics of learning, tested."
    )
    parser.add_argument("--version", action="version", version=f"symrun {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("train", help=TRAIN_HELP, add_help=False)

    plot = commands.add_parser("plot", help="draw a figure from the tables of runs")
    plot.add_argument("figure", metavar="FIGURE", help="fig1 or fig5")
    plot.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="default: the newest that fit"
    )
    plot.add_argument("--out", metavar="DIR", type=Path, help="default: figures/ of the first run")
    plot.add_argument("--format", default="png,pdf,svg", help="of png, pdf, svg, gif (%(default)s)")
    plot.set_defaults(run=_plot)

    check = commands.add_parser("check", help="how well each law agrees with the measurement")
    check.add_argument("run_folder", metavar="RUN", type=Path)
    check.add_argument("--json", action="store_true", help="machine-readable rows")
    check.add_argument("--min-explained", metavar="X", type=float, help="exit 1 below this")
    check.add_argument("--max-residual", metavar="Y", type=float, help="exit 1 above this")
    check.set_defaults(run=_check)
    return parser


def _plot(options: argparse.Namespace) -> int:
    from symrun.figures import plot

    for path in plot(options.figure, options.runs, options.out, options.format.split(",")):
        print(path)
    return 0


def _check(options: argparse.Namespace) -> int:
    from symrun.analysis import agreement, as_json, as_table, shortcomings
    from symrun.runs.directory import RunDirectory

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"symrun: {message}", file=sys.stderr)
        rows = list(agreement(RunDirectory.open(options.run_folder)))
    print(as_json(rows) if options.json else as_table(rows))
    bars = (options.min_explained, options.max_residual)
    short = shortcomings(rows, *bars) if bars != (None, None) else []
    for line in short:
        print(f"symrun: {line}", file=sys.stderr)
    return 1 if short else 0
