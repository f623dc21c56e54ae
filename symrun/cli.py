"""The command line: each command calls one function, and each error becomes one line."""

import argparse
import contextlib
import io
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from symrun import __version__
from symrun.errors import Interrupted, SymrunError, UsageError, in_one_line

if TYPE_CHECKING:
    from symrun.runs.directory import RunDirectory

TRAIN_HELP = "train a network and record its conserved quantities (settings: symrun train --help)"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 wrong usage, 75 stopped and saved,
    130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal may not be able to show a path
            stream.reconfigure(errors="backslashreplace")
    return exit_code("symrun", lambda: _run(arguments))


def exit_code(program: str, act: Callable[[], int]) -> int:
    """Return what `act` returns. If it fails in a way that the user can mend, print one line that
    begins with `program` and return the exit code of that failure.

    Example: exit_code("publish", lambda: 0) == 0
    """
    try:
        return act()
    except SymrunError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # `symrun check RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 1
    except (OSError, MemoryError) as error:
        print(f"{program}: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:  # Hydra parses the rest
        from symrun.launch import launch

        with _warnings_in_one_line():
            launch(arguments[1:])
        return 0
    options = _parse(arguments)
    with _warnings_in_one_line():
        return int(options.run(options))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if "overrides" in options and not any(word.startswith("-") for word in rest):
        options.overrides += rest  # argparse stops at the first option in between
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="symrun", description="The mechanics of learning, tested."
    )
    parser.add_argument("--version", action="version", version=f"symrun {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands.add_parser("train", help=TRAIN_HELP, add_help=False)

    resume = commands.add_parser("resume", help="go on with a run that stopped, bit for bit")
    resume.add_argument("folder", metavar="RUN", type=Path)
    _add_overrides(resume, "in place of what the run recorded: device=cpu, data.root=DIR")
    resume.add_argument(
        "--anyway",
        action="store_true",
        help="although settings or code have changed, so that it is not what it would have been",
    )
    resume.set_defaults(run=_resume)

    plot = commands.add_parser("plot", help="draw a figure from the tables of runs")
    figures = "fig1 to fig5, grid (_scale, _rescale, _translation), phase, seeds, residual, units, "
    figures += "progress"
    plot.add_argument("figure", metavar="FIGURE", help=figures)
    plot.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="default: the newest that fit"
    )
    plot.add_argument("--out", metavar="DIR", type=Path, help="default: figures/ of the first run")
    plot.add_argument("--format", default="png,pdf,svg", help="of png, pdf, svg, gif (%(default)s)")
    plot.add_argument(
        "--plain-title", action="store_true", help="no word of the paper in the title"
    )
    plot.set_defaults(run=_plot)

    check = commands.add_parser(
        "check",
        help="how well each law, or each symmetry's constraint, agrees with what is measured",
    )
    check.add_argument("target", metavar="RUN", help="with --constraints also a model: vgg16_bn")
    _add_overrides(check, "of a model, as in `symrun train`: model.width=0.125")
    check.add_argument(
        "--constraints",
        action="store_true",
        help="the symmetries' constraints on gradient and Hessian instead of the laws; a model's "
        "at its initialisation, on synthetic 64x64 images unless data= says otherwise",
    )
    check.add_argument(
        "--batch", metavar="N", type=int, help="images for the Hessian (default: 16)"
    )
    check.add_argument("--json", action="store_true", help="machine-readable rows")
    check.add_argument("--min-explained", metavar="X", type=float, help="exit 1 below this")
    check.add_argument(
        "--max-residual",
        metavar="Y",
        type=float,
        help="exit 1 above this; with --constraints: the Hessian's relative error",
    )
    check.set_defaults(run=_check)

    report = commands.add_parser("report", help="one HTML page: figures, laws, what it cost")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    report.add_argument(
        "--out", metavar="FILE", type=Path, help="default: report.html in the first run's folder"
    )
    report.set_defaults(run=_report)

    thin = commands.add_parser("thin", help="a run with fewer records, small enough to travel")
    thin.add_argument("folder", metavar="RUN", type=Path)
    thin.add_argument("new", metavar="NEW", type=Path, help="the folder that it makes")
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
    thin.set_defaults(run=_thin)

    data = commands.add_parser("data", help="data sets, apart from training")
    prepare = data.add_subparsers(required=True, metavar="ACTION").add_parser(
        "prepare", help="download, verify and decode a data set ahead of time"
    )
    _add_overrides(prepare, "as in `symrun train`: data.root=DIR")
    prepare.set_defaults(run=_prepare_data)

    bench = commands.add_parser("bench", help="what tracking costs, and how fast the rest is")
    _add_overrides(bench, "as in `symrun train`; a list of values measures each: track.every=1,20")
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
    bench.set_defaults(run=_bench)
    return parser


def _add_overrides(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("overrides", metavar="SETTING", nargs="*", help=meaning)


def _resume(options: argparse.Namespace) -> int:
    from symrun.launch import resume

    resume(options.folder, options.overrides, options.anyway)
    return 0


def _leave_the_users_matplotlib() -> None:
    """Keep the user's backend and matplotlibrc out of matplotlib's import, which either can fail.

    Its log of where it caches fonts, and what else it finds wrong there, stays silent too.
    """
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _plot(options: argparse.Namespace) -> int:
    _leave_the_users_matplotlib()
    from symrun.figures import plot

    formats = options.format.split(",")
    for path in plot(options.figure, options.runs, options.out, formats, options.plain_title):
        print(path)
    return 0


class _OneLine(logging.Handler):
    """Shows a warning as one line on standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = in_one_line(f"symrun: {record.levelname.lower()}: {record.getMessage()}")
        tqdm = sys.modules.get("tqdm")
        (tqdm.tqdm.write if tqdm else print)(line, file=sys.stderr)


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show symrun's own warnings, and those of other libraries, as one line each."""
    log, handler = logging.getLogger("symrun"), _OneLine()
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: log.warning("%s", message)
            yield
    finally:
        log.removeHandler(handler)


def _check(options: argparse.Namespace) -> int:
    from symrun.typed import require

    explained, residual = options.min_explained, options.max_residual
    allowed = explained is None or -math.inf < explained <= 1
    require("--min-explained", allowed, "a number <= 1", explained)
    allowed = residual is None or 0 <= residual < math.inf
    require("--max-residual", allowed, "a number >= 0", residual)
    if options.constraints:
        return _check_constraints(options)
    if options.overrides:
        raise UsageError(f"settings need --constraints and a model: {' '.join(options.overrides)}")
    if options.batch is not None:
        raise UsageError("--batch has no effect without --constraints")
    from symrun.analysis import agreement, as_json, as_table, shortcomings
    from symrun.runs.directory import RunDirectory

    run = RunDirectory.open(options.target)
    _say_if_thinned(run)
    rows = list(agreement(run))
    print(as_json(rows) if options.json else as_table(rows))
    if explained is None and residual is None:
        return 0
    return _verdict(shortcomings(rows, explained, residual))


def _say_if_thinned(run: "RunDirectory") -> None:
    info = run.info()
    if info.thinned is not None:
        print(f"symrun: {run.path}: {', '.join(info.spacing())}", file=sys.stderr)


def _check_constraints(options: argparse.Namespace) -> int:
    from symrun import constraints
    from symrun.launch import compose

    if options.min_explained is not None:
        raise UsageError("--min-explained is for laws: constraints have --max-residual alone")
    subject = constraints.run_or_overrides(options.target, options.overrides)
    if isinstance(subject, list):
        found = constraints.check_model(compose(subject), options.batch)
    else:
        _say_if_thinned(subject)
        found = constraints.check_run(subject, options.batch)
    reports: list[constraints.Report] = []
    for report in found:
        if not options.json:
            print(*([""] if reports else []), constraints.as_table(report), sep="\n", flush=True)
        reports.append(report)
    if options.json:
        print(constraints.as_json(reports))
    if options.max_residual is None:
        return 0
    return _verdict(constraints.shortcomings(reports, options.max_residual))


def _report(options: argparse.Namespace) -> int:
    _leave_the_users_matplotlib()
    from symrun.report import report
    from symrun.runs.directory import RunDirectory

    runs = [RunDirectory.open(path) for path in options.runs]
    print(report(runs, options.out or runs[0].path / "report.html"))
    return 0


def _thin(options: argparse.Namespace) -> int:
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


def _prepare_data(options: argparse.Namespace) -> int:
    from symrun.data import load
    from symrun.launch import compose

    dataset = load(compose(options.overrides).data)
    images = f"{len(dataset.train.labels):,} + {len(dataset.val.labels):,} images"
    size = f"{dataset.image_size}x{dataset.image_size}"
    print(f"{dataset.title}: {images} of {dataset.classes} classes, {size}: ready")
    return 0


def _bench(options: argparse.Namespace) -> int:
    from symrun.bench.command import run

    return run(options)


def _verdict(short: list[str]) -> int:
    for line in short:
        print(f"symrun: {line}", file=sys.stderr)
    return 1 if short else 0
