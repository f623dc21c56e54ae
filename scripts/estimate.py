"""What runs will take on this machine, time and room on the disk, before anything is downloaded.

Times a few tracked updates of each run, and validation, on procedural images in the shape of Tiny
ImageNet's. A run that was made already, with this code on this device, takes nothing.
Usage: python scripts/estimate.py SETTING ...   as `symrun train -m`: experiment=fig1,fig5_bn
Exit code 1 if the disk lacks the room.
"""

import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from symrun.bench.settings import combinations
from symrun.config import Config, SyntheticConfig
from symrun.data import load
from symrun.errors import SymrunError
from symrun.launch import compose
from symrun.runs.directory import OUTPUTS, RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.precision import device_title, select_device, with_precision
from symrun.training.preparation import make_tracker, prepare
from symrun.training.progress import Scores
from symrun.training.resumption import earlier_run
from symrun.training.space import checkpoint_bytes, table_bytes
from symrun.training.update import Training, Update

TRAIN_IMAGES, VAL_IMAGES, CLASSES, SIZE = 100_000, 10_000, 200, 64
DATA_BYTES = 237_000_000 + (TRAIN_IMAGES + VAL_IMAGES) * 3 * SIZE**2
"""The zip, and what data.cache holds of it decoded."""


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


def estimate(config: Config) -> Estimate:
    """Of one run from its start to its end."""
    batch_size = config.train.batch_size
    per_epoch = -(-TRAIN_IMAGES // batch_size)
    updates = config.train.steps or config.train.epochs * per_epoch
    epochs = -(-updates // per_epoch)
    device = select_device(config.device)
    images = max(2 * batch_size, CLASSES)
    textures = SyntheticConfig("synthetic", CLASSES, SIZE, images, images, seed=0)
    config = with_precision(replace(config, train=replace(config.train, steps=updates)), device)
    training = prepare(config, load(textures), device)
    update, validation = timed(training, config)
    seconds = updates * update + epochs * VAL_IMAGES / images * validation
    checkpoints = (config.train.checkpoint_keep + 1) * checkpoint_bytes(training, config)
    return Estimate(updates, update, seconds, table_bytes(training, config) + checkpoints)


def timed(training: Training, config: Config) -> tuple[float, float]:
    """Seconds of a tracked update, batch included, and of all validation images."""
    on_cpu = training.device.type == "cpu"
    warm_up, count = (2, 5) if on_cpu else (20, 60)
    batches = (batch for epoch in itertools.count(1) for batch in training.batches.epoch(epoch))
    seconds = []
    with (
        tempfile.TemporaryDirectory() as folder,
        TableWriter(RunDirectory.create(Path(folder) / "run", "")) as writer,
    ):
        tracker = make_tracker(training, config, writer, Tracker)
        update = Update(training, tracker, Scores(training.device))
        training.model.train()
        for step in range(warm_up + count):
            started = clock(on_cpu)
            images, labels = next(batches)
            update(images, labels, step % training.steps)
            seconds.append(clock(on_cpu) - started)
    training.model.eval()
    started = clock(on_cpu)
    with torch.no_grad(), training.autocast():
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


def main(arguments: Sequence[str]) -> int:
    seconds = size = 0.0
    for chosen in combinations(arguments):
        config = compose(chosen)
        device = select_device(config.device)
        name = f"{chosen[0]} ({with_precision(config, device).precision.value}"
        name += f" on {device_title(device)})"
        if (run := earlier_run(config)) is not None:
            print(f"{name}: {run.info()['status']} already, in {run.path}", flush=True)
            continue
        found = estimate(config)
        print(f"{name}: {found}", flush=True)
        seconds, size = seconds + found.seconds, size + found.bytes
    size += DATA_BYTES
    free = shutil.disk_usage(next(p for p in (OUTPUTS.absolute(), Path.cwd()) if p.exists())).free
    room = f"up to {size / 1e6:,.0f} MB with the data set's {DATA_BYTES / 1e6:,.0f}"
    print(f"in all about {duration(seconds)}, {room}; {free / 1e6:,.0f} MB are free here")
    if size > free:
        print("estimate: that may not fit: make room, or raise track.every", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SymrunError as error:
        sys.exit(f"estimate: {error}")
