"""What runs will take on this machine, time and room on the disk, before anything is downloaded.

Times a few tracked updates of each run, and validation, on procedural images in the shape of Tiny
ImageNet's, and counts as if all its 110,000 were there. What was made already, with this code on
this device, takes nothing.
Usage: python scripts/estimate.py SETTING ...   as `symrun train -m`: experiment=fig1,fig5_bn
Exit code 1 if the disk lacks the room.
"""

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from symrun.bench.tracking_cost import endless
from symrun.cli import exit_code
from symrun.config import Config
from symrun.data import load
from symrun.data.download import SIZE_BYTES
from symrun.data.registry import SyntheticConfig, TinyImageNetConfig
from symrun.launch import compose
from symrun.overrides import combinations
from symrun.runs.directory import OUTPUTS, RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.device import device_title, memory_in_one_line
from symrun.training.disk_space import checkpoint_bytes, table_bytes
from symrun.training.lifecycle import earlier_run
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import Training, make_tracker, prepare

TRAIN_IMAGES, VAL_IMAGES, CLASSES, SIZE = 100_000, 10_000, 200, 64
DECODED_BYTES = (TRAIN_IMAGES + VAL_IMAGES) * 3 * SIZE**2


@dataclass(frozen=True)
class Estimate:
    updates: int
    seconds_per_update: float
    seconds: float
    bytes: float
    """Of tables, at most, and checkpoints."""

    def __str__(self) -> str:
        update = f"{self.updates:,} updates of {self.seconds_per_update * 1e3:,.0f} ms"
        return f"{update}: {duration(self.seconds)}, up to {self.bytes / 1e6:,.0f} MB"


def estimate(config: Config, done: int) -> Estimate:
    """Of one run from update `done` to its end."""
    batch_size = config.train.batch_size
    per_epoch = -(-TRAIN_IMAGES // batch_size)
    updates = config.train.steps or config.train.epochs * per_epoch
    left = updates - done
    epochs = -(-left // per_epoch)
    images = max(2 * batch_size, CLASSES)
    textures = SyntheticConfig("synthetic", CLASSES, SIZE, images, images, seed=0)
    plan = Plan.of(replace(config, train=replace(config.train, steps=updates)))
    with memory_in_one_line("lower train.batch_size or model.width"):
        training = prepare(plan, load(textures))
        update, validation = timed(training)
    seconds = left * update + epochs * VAL_IMAGES / images * validation
    checkpoints = (config.train.checkpoint_keep + 1) * checkpoint_bytes(training)
    return Estimate(left, update, seconds, table_bytes(training) + checkpoints)


def timed(training: Training) -> tuple[float, float]:
    """Seconds of a tracked update, batch included, and of all validation images."""
    on_cpu = training.device.type == "cpu"
    warm_up, count = (2, 5) if on_cpu else (20, 60)
    batches = endless(training)
    seconds = []
    with (
        tempfile.TemporaryDirectory() as folder,
        TableWriter(RunDirectory.create(Path(folder) / "run", "")) as writer,
    ):
        tracker = make_tracker(training, writer, Tracker)
        update = Update(training, tracker, Scores(training.device))
        training.model.train()
        for step in range(warm_up + count):
            started = clock(on_cpu)
            images, labels = next(batches)
            update(images, labels, step % training.steps)
            seconds.append(clock(on_cpu) - started)
    training.model.eval()
    with torch.no_grad(), training.autocast():
        for _ in range(2):  # the first time is slower
            started = clock(on_cpu)
            for images, _ in training.batches.validation():
                training.model(images)
    return statistics.median(seconds[warm_up:]), clock(on_cpu) - started


def clock(on_cpu: bool) -> float:
    if not on_cpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def duration(seconds: float) -> str:
    hours, minutes = divmod(max(round(seconds / 60), 1), 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min"


def missing_data(config: Config) -> tuple[Path, int]:
    """Where the data set will go, and how many bytes of it are not there yet."""
    if not isinstance(config.data, TinyImageNetConfig):
        return OUTPUTS, 0
    cache, archive = config.data.cache, SIZE_BYTES if config.data.root is None else 0
    return cache, 0 if list(cache.glob("tiny_imagenet-*")) else archive + DECODED_BYTES


def shortages(needed: dict[Path, float]) -> Iterator[str]:
    """A line for each disk that lacks the room. needed: bytes by folder, which need not exist."""
    on_disk: dict[int, tuple[Path, float]] = {}
    for folder, size in needed.items():
        whole = folder.absolute()
        place = next(path for path in (whole, *whole.parents) if path.exists())
        first, others = on_disk.get(place.stat().st_dev, (place, 0.0))
        on_disk[place.stat().st_dev] = (first, others + size)
    for place, size in on_disk.values():
        free = shutil.disk_usage(place).free
        print(f"up to {size / 1e6:,.0f} MB below {place}, where {free / 1e6:,.0f} MB are free")
        if size > free:
            yield f"{place} may lack the room: make some, raise track.every, or set data.cache"


def main() -> int:
    seconds, needed = 0.0, dict[Path, float]()
    for chosen in combinations(sys.argv[1:]):
        config = compose(chosen)
        plan = Plan.of(config)
        name = f"{chosen[0]} ({plan.config.precision.value} on {device_title(plan.device)})"
        run, done = earlier_run(config), 0
        if run is not None:
            status, done = run.info().status, max(run.checkpointed(), default=0)
            print(f"{name}: {status} already, in {run.path}", flush=True)
            if status in ("finished", "diverged"):
                continue
        found = estimate(config, done)
        print(f"{name}: {found}", flush=True)
        seconds += found.seconds
        needed[OUTPUTS] = needed.get(OUTPUTS, 0.0) + found.bytes
        cache, size = missing_data(config)
        needed[cache] = max(needed.get(cache, 0.0), size)
    print(f"in all about {duration(seconds)}" if needed else "nothing is left to train")
    lines = list(shortages(needed))
    for line in lines:
        print(f"estimate: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(exit_code("estimate", main))
