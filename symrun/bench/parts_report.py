"""Reports what the parts of an update cost, as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from symrun.analysis.report import aligned
from symrun.bench.clock import Cost
from symrun.bench.launches import Launches

IN_EVERY_UPDATE = ("batch", "forward", "backward", "measuring", "laws", "optimiser step", "scores")
"""The parts that make up a tracked update in which no record is due."""
TRACKED = "update, tracked"


class Kind(StrEnum):
    """What is measured: a part of an update, a whole one, or a way to sum over units."""

    part = "part"
    update = "update"
    sums = "sums"


@dataclass(frozen=True)
class Part:
    """cost: None if it failed. launches: None where none were counted, as on a CPU.

    failed: why there is no cost, in one line.
    """

    kind: Kind
    name: str
    cost: Cost | None = None
    launches: Launches | None = None
    failed: str | None = None


@dataclass(frozen=True)
class StepReport:
    """The results so far for one configuration. Each cost is a median of `repeats`.

    sums: the class that sums over units in the part `measuring`.
    remarks: failures outside the parts, one line each.
    """

    model: str
    width: float | None
    batch_size: int
    every: int
    precision: str
    momentum: float
    device: str
    threads: int
    torch: str
    repeats: int
    sums: str = ""
    parts: tuple[Part, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """All failures, one line each."""
        failed = [f"{part.name}: {part.failed}" for part in self.parts if part.failed is not None]
        return [*failed, *self.remarks]


def sum_of_parts(report: StepReport) -> Part | None:
    """The sum over the measured parts of every update; None if none is measured yet."""
    parts = [p for p in report.parts if p.kind is Kind.part and p.name in IN_EVERY_UPDATE]
    costs = [part.cost for part in parts if part.cost is not None]
    if not costs:
        return None
    host = [cost.host_seconds for cost in costs if cost.host_seconds is not None]
    counted = [part.launches for part in parts if part.launches is not None]
    missing = len(IN_EVERY_UPDATE) - len(costs)
    return Part(
        Kind.part,
        f"sum without {missing} that failed" if missing else "sum of the parts",
        Cost(
            sum(cost.seconds for cost in costs),
            sum(host) if len(host) == len(costs) else None,
            max(cost.peak_bytes for cost in costs),
        ),
        Launches(sum(one.count for one in counted), sum(one.seconds for one in counted))
        if len(counted) == len(costs)
        else None,
    )


def as_json(reports: Sequence[StepReport]) -> str:
    """{"configurations": [...]}: the fields of StepReport, and the sum of the parts as a Part."""
    rows = []
    for report in reports:
        total = sum_of_parts(report)
        rows.append(asdict(report) | {"sum": None if total is None else asdict(total)})
    return json.dumps({"configurations": rows}, indent=1)


def as_text(reports: Sequence[StepReport]) -> str:
    """One table per configuration, in milliseconds."""
    return "\n\n".join(map(_as_text, reports))


def _as_text(report: StepReport) -> str:
    title = [report.model] if report.width is None else [report.model, f"width {report.width:g}"]
    title += [f"batch {report.batch_size}"]
    title += [report.precision, *[f"momentum {report.momentum:g}"] * (report.momentum > 0)]
    title += [report.device, f"{report.threads} CPU threads", f"torch {report.torch}"]
    title += [f"sums by {report.sums}", f"medians of {report.repeats}"]
    total = sum_of_parts(report)
    on_gpu = total is not None and total.cost is not None and total.cost.host_seconds is not None
    lines = [["", "device", "host", "kernels", "launches", "memory"]]
    for kind in Kind:
        rows = [part for part in report.parts if part.kind is kind]
        if kind is Kind.part and total is not None:
            rows.append(total)
        lines += [_cells(part) for part in rows] + [[""] * 6] * bool(rows)
    if not on_gpu:  # there is one clock, and nothing is launched
        lines = [[name, seconds, memory] for name, seconds, *_, memory in lines]
        lines[0][1] = "time"
    record = f"A record is due every {report.every} updates; the sum and the updates are without."
    return "\n".join([", ".join(title), aligned(lines), record, *report.failures])


def _cells(part: Part) -> list[str]:
    cost, found = part.cost, part.launches
    if cost is None:
        return [part.name, "failed", "", "", "", ""]
    return [
        part.name,
        _milliseconds(cost.seconds),
        _milliseconds(cost.host_seconds),
        _milliseconds(None if found is None else found.seconds),
        "-" if found is None else f"{found.count:.0f}",
        f"{cost.peak_bytes / 2**20:,.0f} MiB",
    ]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"
