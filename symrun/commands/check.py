"""`symrun check`: how well each law, or each constraint, agrees with what is measured."""

import argparse
import math
import sys
from typing import TYPE_CHECKING

from symrun.commands.parser import Commands, add_overrides
from symrun.errors import UsageError, in_one_line

if TYPE_CHECKING:
    from symrun.runs.directory import RunDirectory


def add(commands: Commands) -> None:
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
        help="exit 1 if less than this share of a group other than translation moved",
    )
    check.add_argument(
        "--max-residual",
        metavar="Y",
        type=float,
        help="exit 1 above this; with --constraints: the Hessian's relative error",
    )
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
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

    run = RunDirectory.open(options.target)
    _say_if_thinned(run)
    run.warn_unless_finished()
    rows, symmetries = analysis.judge(run)
    silent = analysis.silences(run.info())
    if options.json:
        print(analysis.as_json(rows, symmetries))
    else:
        print(analysis.as_table(rows, symmetries, silent))
    if explained is not None and (line := analysis.skipped(symmetries)):
        print(f"symrun: {line} (--min-moved sets a bar for that)", file=sys.stderr)
    if explained is not None and options.json:  # the table says so itself
        for line in silent:
            print(f"symrun: {line}", file=sys.stderr)
    if explained is residual is moved is None:
        return 0
    return _print_shortcomings(analysis.shortcomings(rows, explained, residual, moved))


def _needless(word: str) -> str:
    """The message for what stands behind the run of `symrun check`."""
    if "=" in word:
        return f"settings need --constraints and a model: leave {word} out"
    return f"check takes one run, got {word} too: type symrun check for each"


def _say_if_thinned(run: "RunDirectory") -> None:
    info = run.info()
    if info.thinned is not None:
        print(in_one_line(f"symrun: {run.path}: {', '.join(info.spacing())}"), file=sys.stderr)


def _say_if_diagonal(run: "RunDirectory") -> None:
    if run.info().config.by_name.get("track.matrices") == "diagonal":
        unchecked = "entries off the diagonal of matrices are not checked"
        line = f"symrun: {run.path}: {unchecked}: it was trained with track.matrices=diagonal"
        print(in_one_line(line), file=sys.stderr)


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
    elif not isinstance(subject, list):
        _say_if_diagonal(subject)
    if options.max_residual is None:
        return 0
    return _print_shortcomings(constraints.shortcomings(reports, options.max_residual))


def _print_shortcomings(short: list[str]) -> int:
    """The exit code, after a line for each."""
    for line in short:
        print(f"symrun: {line}", file=sys.stderr)
    return 1 if short else 0
