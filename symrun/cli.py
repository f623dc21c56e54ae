"""The command line: each command calls one function, and each error becomes one line."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from symrun import __version__
from symrun.commands import completion, thin, train
from symrun.commands.parser import Commands, Parser, add_overrides
from symrun.display import guarded
from symrun.errors import Interrupted, SymrunError, UsageError, did_you_mean, in_one_line, refusal
from symrun.warned import warnings_in_one_line

if TYPE_CHECKING:
    from symrun.runs.directory import RunDirectory

_RESULTS_ARE_PRINTED = ("check", "bench")
"""Commands that fail once nobody can take their output; others go on without it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed, 2 wrong usage, 75 stopped and saved,
    130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    output_needed = bool(arguments) and arguments[0] in _RESULTS_ARE_PRINTED
    return exit_code("symrun", lambda: _run(arguments), output_needed)


def exit_code(program: str, act: Callable[[], int], output_needed: bool = True) -> int:
    """Return what `act` returns. If it fails in a way that the user can mend, print one line that
    begins with `program` and return the exit code of that failure.

    output_needed: as in `guarded`.
    Example: exit_code("publish", lambda: 0) == 0
    """
    with guarded(output_needed):
        return _explained(program, act)


def _explained(program: str, act: Callable[[], int]) -> int:
    try:
        code = act()
        sys.stdout.flush()
        return code
    except SymrunError as error:
        print(in_one_line(f"{program}: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # `symrun check RUN | head`
        return 1
    except OSError as error:  # without a name: `symrun check RUN > FILE`
        where = "standard output" if error.filename is None else in_one_line(error.filename)
        print(f"{program}: {where}: {refusal(error)}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"{program}: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    parser = _parser()
    completion.answer(parser)
    options = parser.parse_args(arguments)
    options.arguments = arguments[1:]
    with warnings_in_one_line():
        return int(options.run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="symrun", description="The mechanics of learning, tested.", example="symrun --help"
    )
    parser.add_argument("--version", action="version", version=f"symrun {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        *(train.add, _add_resume, _add_plot, _add_check, _add_report, thin.add),
        *(_add_data, _add_bench, completion.add),
    ):
        add(commands)
    return parser


def _add_resume(commands: Commands) -> None:
    resume = commands.add_parser(
        "resume",
        help="go on with a run that stopped, bit for bit",
        example="symrun resume RUN",
    )
    resume.add_argument("folder", metavar="RUN", type=Path)
    add_overrides(resume, "in place of what the run recorded: device=cpu, data.root=DIR")
    resume.add_argument(
        "--anyway",
        action="store_true",
        help="although settings or code have changed, so that it is not what it would have been",
    )
    resume.set_defaults(run=_resume)


def _add_plot(commands: Commands) -> None:
    plot = commands.add_parser(
        "plot", help="draw a figure from the tables of runs", example="symrun plot fig1 RUN"
    )
    figures = "fig1 to fig5, grid (_scale, _rescale, _translation), phase, seeds, residual, units, "
    figures += "progress"
    figure = plot.add_argument("figure", metavar="FIGURE", help=figures)
    figure.completer = completion.figures  # type: ignore[attr-defined]
    plot.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="default: the newest that fit"
    )
    plot.add_argument("--out", metavar="DIR", type=Path, help="default: figures/ of the first run")
    plot.add_argument("--format", default="png,pdf,svg", help="of png, pdf, svg, gif (%(default)s)")
    plot.add_argument(
        "--plain-title", action="store_true", help="name no figure of the paper in the title"
    )
    plot.set_defaults(run=_plot)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser(
        "check",
        help="how well each law, or each symmetry's constraint, agrees with what is measured",
        example="symrun check RUN",
    )
    check.add_argument("target", metavar="RUN", help="with --constraints also a model: vgg16_bn")
    add_overrides(check, "of a model, as in `symrun train`: model.width=0.125")
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
    check.add_argument(
        "--min-explained", metavar="X", type=float, help="exit 1 if a group's R^2 is below this"
    )
    check.add_argument(
        "--min-moved",
        metavar="SHARE",
        type=float,
        help="exit 1 if less than this share of a scale or rescale group moved",
    )
    check.add_argument(
        "--max-residual",
        metavar="Y",
        type=float,
        help="exit 1 above this; with --constraints: the Hessian's relative error",
    )
    check.set_defaults(run=_check)


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report", help="one HTML page: figures, laws, what it cost", example="symrun report RUN"
    )
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    report.add_argument(
        "--out", metavar="FILE", type=Path, help="default: report.html in the first run's folder"
    )
    report.set_defaults(run=_report)


def _add_data(commands: Commands) -> None:
    data = commands.add_parser(
        "data",
        help="data sets, apart from training",
        example="symrun data prepare data=tiny_imagenet",
    )
    prepare = data.add_subparsers(required=True, metavar="ACTION").add_parser(
        "prepare", help="download, verify and decode a data set ahead of time"
    )
    add_overrides(prepare, "as in `symrun train`: data.root=DIR")
    prepare.set_defaults(run=_prepare_data)


def _add_bench(commands: Commands) -> None:
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
    bench.set_defaults(run=_bench)


def _resume(options: argparse.Namespace) -> int:
    from symrun.launch import resume
    from symrun.runs.missing import require_run

    require_run(options.folder)
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
    from symrun.figures import FIGURES, plot
    from symrun.runs.missing import require_run

    if options.figure not in FIGURES:
        swapped = [str(path) for path in options.runs if str(path) in FIGURES]
        if swapped:
            raise UsageError(
                f"the figure comes first: type symrun plot {swapped[0]} {options.figure}"
            )
        meant = did_you_mean(options.figure, FIGURES)
        raise UsageError(
            f"there is no figure {options.figure}; there are {', '.join(FIGURES)}{meant}"
        )
    for path in options.runs:
        require_run(path)
    formats = options.format.split(",")
    for path in plot(options.figure, options.runs, options.out, formats, options.plain_title):
        print(path)
    return 0


def _check(options: argparse.Namespace) -> int:
    from symrun.typed import require

    explained, residual = options.min_explained, options.max_residual
    allowed = explained is None or -math.inf < explained <= 1
    require("--min-explained", allowed, "a number <= 1", explained)
    allowed = residual is None or 0 <= residual < math.inf
    require("--max-residual", allowed, "a number >= 0", residual)
    moved = options.min_moved
    require("--min-moved", moved is None or 0 <= moved <= 1, "a share in [0, 1]", moved)
    if options.constraints:
        return _check_constraints(options)
    if options.overrides:
        raise UsageError(_needless(options.overrides[0]))
    if options.batch is not None:
        raise UsageError("--batch has no effect without --constraints")
    from symrun import analysis
    from symrun.runs.directory import RunDirectory
    from symrun.runs.missing import require_run

    require_run(options.target)
    run = RunDirectory.open(options.target)
    _say_if_thinned(run)
    run.warn_unless_finished()
    rows, symmetries = analysis.judge(run)
    print((analysis.as_json if options.json else analysis.as_table)(rows, symmetries))
    if explained is not None and (line := analysis.skipped(symmetries)):
        print(f"symrun: {line} (--min-moved sets a bar for that)", file=sys.stderr)
    if explained is residual is options.min_moved is None:
        return 0
    return _verdict(analysis.shortcomings(rows, explained, residual, options.min_moved))


def _needless(word: str) -> str:
    """The message for what stands behind the run of `symrun check`."""
    if "=" in word:
        return f"settings need --constraints and a model: leave {word} out"
    return f"check takes one run, got {word} too: type symrun check for each"


def _say_if_thinned(run: "RunDirectory") -> None:
    info = run.info()
    if info.thinned is not None:
        print(f"symrun: {run.path}: {', '.join(info.spacing())}", file=sys.stderr)


def _check_constraints(options: argparse.Namespace) -> int:
    from symrun import constraints
    from symrun.launch import compose

    for option in ("min_explained", "min_moved"):
        if getattr(options, option) is not None:
            name = f"--{option.replace('_', '-')}"
            raise UsageError(f"{name} is for laws: constraints have --max-residual alone")
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
    from symrun.runs.missing import require_run

    for path in options.runs:
        require_run(path)
    runs = [RunDirectory.open(path) for path in options.runs]
    print(report(runs, options.out or runs[0].path / "report.html"))
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
