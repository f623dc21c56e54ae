"""`symrun bench`: checks the options, measures, and prints or writes the figures."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from symrun.bench import parts_report, report
from symrun.bench.parts import measure_parts
from symrun.errors import UsageError, refusal
from symrun.files import require_place, write_text
from symrun.typed import require

_PAIRS, _REPEATS = 40, 9
_WITH_PARTS, _WITHOUT = ("repeats", "profile", "compile_sums"), ("pairs", "tables")


def run(options: argparse.Namespace) -> int:
    """Measure as the options say. Returns 1 if a part failed, else 0.

    Error: UsageError for options that do not go together, and as in `measure`.
    """
    for name in ("pairs", "repeats"):
        given = getattr(options, name)
        require(f"--{name}", given is None or given >= 1, ">= 1", given)
    for name in _WITHOUT if options.parts else _WITH_PARTS:
        if getattr(options, name):
            rule = "has no effect with --parts" if options.parts else "needs --parts"
            raise UsageError(f"--{name.replace('_', '-')} {rule}")
    with _progressive_output(options.json, options.out) as save:
        if not options.parts:
            pairs = options.pairs or _PAIRS
            report.measure(
                options.overrides,
                pairs,
                options.tables,
                lambda found: save(report.as_text(found), report.as_json(found)),
            )
            return 0
        reports = measure_parts(
            options.overrides,
            lambda found: save(parts_report.as_text(found), parts_report.as_json(found)),
            options.repeats or _REPEATS,
            options.compile_sums,
            options.profile,
        )
        return int(any(found.failures for found in reports))


@contextmanager
def _progressive_output(json: bool, out: Path | None) -> Iterator[Callable[[str, str], None]]:
    """Yields a function that takes all figures so far, as text and as JSON.

    It rewrites `out` at every call. The last figures are printed at the end, also after an error or
    Ctrl-C.

    Error: UsageError if `out` cannot be written; before anything is measured if it has no folder.
    """
    if out is not None:
        require_place("--out", out)
    shown = ""

    def save(text: str, as_json: str) -> None:
        nonlocal shown
        shown = as_json if json else text
        if out is not None:
            try:
                write_text(out, f"{as_json}\n")
            except OSError as error:
                raise UsageError(f"--out={out} cannot be written: {refusal(error)}") from None

    try:
        yield save
    finally:
        if shown:
            print(shown, flush=True)
