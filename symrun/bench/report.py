"""Measures what tracking costs, and reports it as a table and as JSON."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from symrun.analysis.report import aligned
from symrun.bench.settings import configurations, title
from symrun.bench.tables import FULL_SCALE, Timing, make_run, time_commands
from symrun.bench.tracking_cost import StepCost, step_cost
from symrun.launch import compose
from symrun.training.device import memory_in_one_line

_HELP_RUNS = 5
_RECORDS_PER_PART = 33
"""Records between two flushes if a GPU takes ten minutes for a run."""


@dataclass(frozen=True)
class Report:
    """steps: one per configuration. tables: commands on a full-scale run's tables, if requested."""

    steps: list[StepCost]
    help_seconds: float
    tables: list[Timing]


def measure(
    overrides: Sequence[str],
    pairs: int,
    tables: bool,
    on_progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Measure every combination of the settings; minutes each at full size.

    on_progress: called with the report at the start and after each configuration.

    Error: UsageError for settings that `symrun train` would refuse, before anything is measured.
    Example: print(as_text(measure(["model.width=0.125"], pairs=10, tables=False)))
    """
    configs = configurations(overrides)
    report = Report([], _help_seconds(), [])
    on_progress(report)
    for number, config in enumerate(configs, start=1):
        print(f"symrun bench: {number} of {len(configs)}: {title(config)}", file=sys.stderr)
        with memory_in_one_line("lower train.batch_size or model.width"):
            cost = step_cost(config, pairs)
        report = replace(report, steps=[*report.steps, cost])
        on_progress(report)
        untracked, tracked = cost.untracked_seconds * 1e3, cost.tracked_seconds * 1e3
        short = f"untracked {untracked:.1f} ms, tracked {tracked:.1f} ms, ratio {cost.ratio:.4f}"
        print(f"symrun bench: {short}", file=sys.stderr)
    if tables:
        report = replace(report, tables=list(_full_scale()))
        on_progress(report)
    return report


def _help_seconds() -> float:
    """The median wall time of `symrun --help`."""
    seconds = []
    for _ in range(_HELP_RUNS):
        started = time.perf_counter()
        command = [sys.executable, "-m", "symrun", "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _full_scale() -> list[Timing]:
    with tempfile.TemporaryDirectory() as folder:
        plain, bn = (
            make_run(
                Path(folder) / model, compose([f"model={model}", *FULL_SCALE]), _RECORDS_PER_PART
            )
            for model in ("vgg16", "vgg16_bn")
        )
        return list(time_commands(plain, bn))


def way(cuda_graph: bool, compiled: bool) -> str:
    """How updates were made, in a word or two."""
    return " + ".join(["graph"] * cuda_graph + ["compile"] * compiled) or "eager"


def as_json(report: Report) -> str:
    """The fields of Report, StepCost and Timing, in seconds and bytes."""
    return json.dumps(asdict(report), indent=1)


def as_text(report: Report) -> str:
    """Empty without steps. In milliseconds; `of floor`: the floor's share of the tracked step."""
    if not report.steps:
        return ""
    lines = [
        "model width batch every precision way".split()
        + ["untracked", "tracked", "ratio", "quartiles", "with records", "in tracker"]
        + ["images/s", "of floor", "kB a record", "first update"]
    ]
    for cost in report.steps:
        low, high = cost.ratio_quartiles
        lines.append(
            [
                cost.model,
                "-" if cost.width is None else f"{cost.width:g}",
                str(cost.batch_size),
                str(cost.every),
                cost.precision,
                way(cost.cuda_graph, cost.compile),
                f"{cost.untracked_seconds * 1e3:.1f} ms",
                f"{cost.tracked_seconds * 1e3:.1f} ms",
                f"{cost.ratio:.4f}",
                f"{low:.3f} to {high:.3f}",
                f"{cost.ratio_of_sums:.4f}",
                f"{cost.tracker_seconds * 1e3:.2f} ms",
                f"{cost.images_per_second:,.0f}",
                f"{cost.floor_seconds / cost.tracked_seconds:.0%}",
                f"{cost.record_bytes / 1e3:.0f}",
                f"{cost.first_update_seconds:.1f} s",
            ]
        )
    first = report.steps[0]
    text = [
        f"{first.device}, {first.threads} CPU threads; medians of {first.pairs} pairs of updates",
        aligned(lines),
        f"symrun --help {report.help_seconds:.2f} s",
    ]
    for timing in report.tables:
        size = f"{timing.peak_bytes / 2**20:.0f} MiB"
        text.append(f"symrun {timing.name} at full scale {timing.seconds:.1f} s, {size}")
    return "\n".join(text)
