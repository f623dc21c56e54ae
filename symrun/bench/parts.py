"""Measures where the time of an update goes: each part alone, and the whole update."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from symrun.bench.clock import Clock, Work
from symrun.bench.launches import launches, profile_table
from symrun.bench.parts_report import TRACKED, Kind, Part, StepReport
from symrun.bench.settings import configurations, title
from symrun.bench.step import Step, Works
from symrun.config import Config
from symrun.errors import in_one_line
from symrun.files import write_text
from symrun.training.cuda_graph import own_stream
from symrun.training.device import device_title
from symrun.training.plan import Plan

_REASON_LENGTH = 300
"""Characters that are kept of a message from torch or a compiler."""


def measure_parts(
    overrides: Sequence[str],
    on_progress: Callable[[Sequence[StepReport]], None],
    repeats: int = 9,
    compile_sums: bool = False,
    profile: Path | None = None,
) -> list[StepReport]:
    """Measure the parts of an update in every combination of the settings.

    A part that fails is reported as failed, and the others are still measured.

    on_progress: called with all reports at the start and after each part. repeats: timings of each
    part, whose median is reported. compile_sums: whether to time compiled sums on a CPU too; on a
    GPU they always are. profile: the file for torch's profile of tracked updates.

    Error: UsageError for settings that `symrun train` would refuse, before anything is measured.
    Example: measure_parts(["model.width=0.125"], lambda reports: None)
    """
    configs = configurations(overrides)
    done: list[StepReport] = []
    tables: list[str] = []
    on_progress(done)

    def keep_profile(table: str) -> None:
        tables.append(table)
        if profile is not None:
            write_text(profile, "\n".join(tables))

    for number, config in enumerate(configs, start=1):
        print(f"symrun bench: {number} of {len(configs)}: {title(config)}", file=sys.stderr)
        measuring = _Measuring(config, repeats, lambda report: on_progress([*done, report]))
        measuring.all(compile_sums, keep_profile if profile is not None else None)
        done.append(measuring.report)
    return done


class _Measuring:
    """Measures one configuration. `report` holds the results so far."""

    def __init__(
        self, config: Config, repeats: int, on_progress: Callable[[StepReport], None]
    ) -> None:
        self._config = config
        plan = Plan.of(config)
        self._device = plan.device
        self._clock = Clock(self._device, repeats)
        self._on_progress = on_progress
        self.report = StepReport(
            model=config.model.name,
            width=config.model.relative_width,
            batch_size=config.train.batch_size,
            every=config.track.every,
            precision=plan.config.precision.value,
            momentum=getattr(config.optim, "momentum", 0.0),
            device=device_title(self._device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            repeats=repeats,
        )

    def all(self, compile_sums: bool, keep_profile: Callable[[str], None] | None) -> None:
        """Measure the most useful parts first, and those with a CUDA graph last.

        Time may run out, and after a CUDA graph that cannot be captured nothing else may work.
        """
        try:
            with own_stream(self._device) if self._config.train.cuda_graph else nullcontext():
                step = Step(self._config)
                self._set_report(replace(self.report, sums=step.sums))
                works = self._time(Kind.part, step.parts())
                works |= self._time(Kind.update, step.updates())
                step.release_records()
                self._time(Kind.sums, step.ways_to_sum())
                self._count(works)
                if keep_profile is not None and TRACKED in works:
                    try:
                        keep_profile(profile_table(works[TRACKED], self._device))
                    except Exception as error:
                        self._remark(f"no profile: {_reason(error)}")
                if compile_sums or self._device.type == "cuda":
                    self._time(Kind.sums, step.compiled_sums())
                works = self._time(Kind.part, step.compiled_parts())
                works |= self._time(Kind.update, step.fast_updates())
                self._count(works)
        except Exception as error:
            self._remark(f"no more can be measured: {_reason(error)}")

    def _time(self, kind: Kind, works: Works) -> dict[str, Work]:
        """Returns the work that did not fail, by name."""
        timed = {}
        for name, make in works.items():
            try:
                work = make()
                part = Part(kind, name, self._clock.cost(work))
                timed[name] = work
            except Exception as error:
                part = Part(kind, name, failed=_reason(error))
            shown = f"{part.cost.seconds * 1e3:.3f} ms" if part.cost else f"failed: {part.failed}"
            print(f"symrun bench: {name}: {shown}", file=sys.stderr)
            self._set_report(replace(self.report, parts=(*self.report.parts, part)))
        return timed

    def _count(self, works: Mapping[str, Work]) -> None:
        """Count launches, on a GPU."""
        if self._device.type != "cuda":
            return
        for name, work in works.items():
            try:
                found = launches(work)
            except Exception as error:
                self._remark(f"launches cannot be counted: {_reason(error)}")
                continue
            parts = (
                replace(part, launches=found) if part.name == name else part
                for part in self.report.parts
            )
            self._set_report(replace(self.report, parts=tuple(parts)))

    def _remark(self, line: str) -> None:
        if line not in self.report.remarks:
            print(f"symrun bench: {line}", file=sys.stderr)
            self._set_report(replace(self.report, remarks=(*self.report.remarks, line)))

    def _set_report(self, report: StepReport) -> None:
        self.report = report
        self._on_progress(report)


def _reason(error: Exception) -> str:
    """The message in one line. A compiler's first line says what failed, its second why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return in_one_line("; ".join(lines[:2])[:_REASON_LENGTH] or type(error).__name__)
