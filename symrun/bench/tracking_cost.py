"""Measures an update with and without tracking, and the device's peak speed."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from symrun.config import Config, Precision
from symrun.data import load
from symrun.data.batches import Batch
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Observation, Tracker
from symrun.training.cuda_graph import own_stream
from symrun.training.device import device_title, set_precision
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import Training, make_tracker, prepare

_WARM_UP = 4
_RECORDS = 20
_SMALL_BATCH = 8
_CALLS = 40
_GPU_STEPS = 20
"""Steps timed together on a GPU, where a wait after each would distort the result."""


@dataclass(frozen=True)
class StepCost:
    """One setting, measured. Seconds are medians of one update, its batch included.

    cuda_graph, compile: whether updates were made so.
    ratio: tracked / untracked, the median over pairs, and its quartiles.
    ratio_of_sums: total tracked time / total untracked time, records included.
    tracker_seconds: what the host spends in the tracker, the mean over updates, records included.
        On the CPU this is the cost of tracking without noise, and without the writing thread.
        A CUDA graph hides most of it from the host.
    floor_seconds: the FLOP of forward and backward at the device's peak speed.
    record_bytes: one record on disk, with every unit and the sampled parameters.
    first_update_seconds: the first update also chooses algorithms and compiles.
    """

    model: str
    width: float | None
    batch_size: int
    every: int
    precision: str
    cuda_graph: bool
    compile: bool
    device: str
    threads: int
    torch: str
    units: int
    pairs: int
    untracked_seconds: float
    tracked_seconds: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    ratio_of_sums: float
    tracker_seconds: float
    images_per_second: float
    gflop: float
    floor_seconds: float
    record_bytes: float
    first_update_seconds: float


def step_cost(config: Config, pairs: int) -> StepCost:
    """Measure updates with and without tracking in turn, on one network in one process.

    A drift in the machine's speed then affects both alike.

    Example: step_cost(compose(["data=synthetic", "model.width=0.25"]), pairs=20).ratio
    """
    with tempfile.TemporaryDirectory() as folder:
        with TableWriter(RunDirectory.create(Path(folder) / "time", "")) as writer:
            training, tracker = _prepared(config, writer)
            with own_stream(training.device) if training.cuda_graph else nullcontext():
                first, measured = _paired_seconds(training, tracker, pairs)
        record_bytes = _record_bytes(config, Path(folder) / "bytes")
    ratios = sorted(tracked / untracked for untracked, tracked in measured)
    low, ratio, high = (ratios[len(ratios) * quarter // 4] for quarter in (1, 2, 3))
    untracked, tracked = (list(seconds) for seconds in zip(*measured, strict=True))
    flop, precision = _flop(training), training.plan.config.precision
    batch_size = training.batches.batch_size
    return StepCost(
        model=config.model.name,
        width=config.model.relative_width,
        batch_size=batch_size,
        every=config.track.every,
        precision=precision.value,
        cuda_graph=training.cuda_graph,
        compile=config.train.compile,
        device=device_title(training.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        units=sum(group.units for group in training.structure.groups),
        pairs=pairs,
        untracked_seconds=statistics.median(untracked),
        tracked_seconds=statistics.median(tracked),
        ratio=ratio,
        ratio_quartiles=(low, high),
        ratio_of_sums=sum(tracked) / sum(untracked),
        tracker_seconds=tracker.seconds / tracker.updates,
        images_per_second=batch_size / statistics.median(tracked),
        gflop=flop / 1e9,
        floor_seconds=flop / _flop_per_second(training.device, precision),
        record_bytes=record_bytes,
        first_update_seconds=first,
    )


class _TimedTracker(Tracker):
    """A tracker that counts the seconds the host spends in it."""

    seconds = 0.0
    updates = 0

    def prepare(self, lr: float | None = None) -> None:
        with self._clock():
            super().prepare(lr)

    def observe(self, due: bool) -> Observation | None:
        with self._clock():
            return super().observe(due)

    def complete(self, observation: Observation | None) -> Observation | None:
        with self._clock():
            return super().complete(observation)

    def record(self, step: int, observation: Observation | None) -> None:
        self.updates += 1
        with self._clock():
            super().record(step, observation)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started


def _prepared(config: Config, writer: TableWriter) -> tuple[Training, _TimedTracker]:
    training = prepare(Plan.of(config), load(config.data))
    return training, make_tracker(training, writer, _TimedTracker)


def endless(training: Training) -> Iterator[Batch]:
    """Full batches, epoch after epoch."""
    epoch = 0
    while True:
        epoch += 1
        for images, labels in training.batches.epoch(epoch):
            if len(labels) == training.batches.batch_size:
                yield images, labels


def _paired_seconds(
    training: Training, tracker: _TimedTracker, pairs: int
) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of the first update; then of one without and one with tracking, pair by pair in
    alternating order."""
    scores = Scores(training.device)
    batches = endless(training)
    update = {on: Update(training, tracker if on else None, scores) for on in (False, True)}
    updates_done = {False: 0, True: 0}
    on_cpu = training.device.type == "cpu"

    def seconds(tracked: bool, updates: int = 1 if on_cpu else _GPU_STEPS) -> float:
        started = time.perf_counter()
        for _ in range(updates):
            images, labels = next(batches)
            step = updates_done[tracked] % training.steps
            update[tracked](images, labels, step)
            updates_done[tracked] += 1
        if not on_cpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / updates

    training.model.train()
    first = seconds(True, updates=1)
    if training.cuda_graph:  # until each kind of update is captured
        seconds(True, updates=4 * tracker.every)
    measured = []
    for pair in range(-_WARM_UP, pairs):
        if pair == 0:
            tracker.seconds, tracker.updates = 0.0, 0
        if pair % 2:
            untracked, tracked = seconds(False), seconds(True)
        else:
            tracked, untracked = seconds(True), seconds(False)
        if pair >= 0:
            measured.append((untracked, tracked))
    return first, measured


def _record_bytes(config: Config, folder: Path) -> float:
    """Bytes of a record on disk, from a part with _RECORDS records."""
    train = replace(config.train, batch_size=_SMALL_BATCH, compile=False, cuda_graph=False)
    config = replace(config, train=train, track=replace(config.track, every=1))
    run = RunDirectory.create(folder, "")
    with TableWriter(run) as writer:
        training, tracker = _prepared(config, writer)
        update = Update(training, tracker, Scores(training.device))
        for step, (images, labels) in zip(range(_RECORDS), endless(training), strict=False):
            update(images, labels, step)
    parts = [part for table in ("units", "parameters") for part in run.table(table).iterdir()]
    return sum(part.stat().st_size for part in parts) / _RECORDS


def _flop(training: Training) -> int:
    """The FLOP of forward and backward over one batch."""
    images, labels = next(endless(training))
    eager = replace(training, forward=training.model)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(eager.outputs_and_loss(images, labels)[1])
    total: int = counter.get_total_flops()
    return total


def _flop_per_second(device: torch.device, precision: Precision) -> float:
    """The speed of the fastest large matrix product or convolution, in this precision."""
    dtype = {Precision.float64: torch.float64, Precision.bf16: torch.bfloat16}.get(
        precision, torch.float32
    )
    on_cpu = device.type == "cpu"
    size, batch = (1024, 16) if on_cpu else (8192, 256)
    matrix = torch.randn(size, size, device=device).to(dtype)
    images = torch.randn(batch, 256, 16, 16, device=device).to(dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    filters = torch.randn(256, 256, 3, 3, device=device).to(images)
    work: dict[Callable[[], Tensor], int] = {
        lambda: matrix @ matrix: 2 * size**3,
        lambda: F.conv2d(images, filters, padding=1): 2 * 9 * 256**2 * images[:, 0].numel(),
    }
    torch.backends.cuda.matmul.allow_tf32 = precision is Precision.tf32
    best = 0.0
    for call, flop in work.items():
        for _ in range(_CALLS):
            started = time.perf_counter()
            call()
            if not on_cpu:
                torch.cuda.synchronize()
            best = max(best, flop / (time.perf_counter() - started))
    set_precision(precision)
    return best
