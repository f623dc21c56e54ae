"""What tracking costs: a step with the tracker against one without, and the bytes of a record.

Steps with and without tracking take turns in one process on one network, so that a drift of the
machine's speed hits both. Usage: python scripts/bench_tracking.py [--pairs N] [overrides ...]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from symrun.config import Config
from symrun.data import load
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.loop import Training, prepare, update
from symrun.training.optimizers import laws_of
from symrun.training.precision import device_title, select_device

SETTING = ["data=synthetic", "data.image_size=64", "data.classes=200", "optim.weight_decay=1e-4"]
QUARTER = ["model=vgg16_bn", "model.width=0.25", "train.batch_size=128"]
WARM_UP = 3


def make(config: Config, writer: TableWriter) -> tuple[Training, Tracker]:
    training = prepare(config, load(config.data), select_device(config.device))
    laws, _ = laws_of(config.optim)
    model, optimizer, structure = training.model, training.optimizer, training.structure
    every, sample = config.track.every, config.track.parameters
    tracker = Tracker(model, optimizer, structure, laws, writer, every, sample, config.seed)
    return training, tracker


def paired_steps(config: Config, writer: TableWriter, pairs: int) -> list[tuple[float, float]]:
    """Seconds of a step without and with tracking, pair by pair, in alternating order."""
    training, tracker = make(config, writer)
    images, labels = next(iter(training.batches.epoch(1)))

    def seconds(tracked: bool, step: int) -> float:
        started = time.perf_counter()
        update(training, images, labels, tracker if tracked else None, step)
        if training.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    measured = []
    for pair in range(-WARM_UP, pairs):
        step = pair + WARM_UP
        if pair % 2:
            without, tracked = seconds(False, step), seconds(True, step)
        else:
            tracked, without = seconds(True, step), seconds(False, step)
        if pair >= 0:
            measured.append((without, tracked))
    return measured


def record_bytes(folder: Path, records: int = 20) -> float:
    """Bytes on disk of one record of full VGG16-BN: every unit and the sampled parameters."""
    config = compose(
        [*SETTING, "model=vgg16_bn", "track.every=1", "train.batch_size=2", "device=cpu"]
    )
    run = RunDirectory.create(folder, "")
    with TableWriter(run) as writer:
        training, tracker = make(config, writer)
        batches = iter(training.batches.epoch(1))
        for step in range(records):
            images, labels = next(batches)
            update(training, images, labels, tracker, step)
    parts = [part for table in ("units", "parameters") for part in run.table(table).iterdir()]
    return sum(part.stat().st_size for part in parts) / records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("overrides", nargs="*", help="settings of `symrun train`")
    options = parser.parse_args()
    config = compose([*SETTING, *QUARTER, *options.overrides])
    with tempfile.TemporaryDirectory() as folder:
        with TableWriter(RunDirectory.create(Path(folder) / "time", "")) as writer:
            pairs = paired_steps(config, writer, options.pairs)
        size = record_bytes(Path(folder) / "bytes")
    ratios = sorted(tracked / without for without, tracked in pairs)
    ratio, low, high = (ratios[len(ratios) * quarter // 4] for quarter in (2, 1, 3))
    without_it, with_it = (statistics.median(seconds) * 1e3 for seconds in zip(*pairs, strict=True))
    whole = sum(tracked for _, tracked in pairs) / sum(without for without, _ in pairs)
    device = device_title(select_device(config.device))
    print(f"{config.model.name}, width {config.model.width:g}, batch {config.train.batch_size}")
    print(f"{config.precision.value} on {device}, {torch.get_num_threads()} CPU threads")
    print(f"{len(pairs)} pairs of steps, a record every {config.track.every} steps")
    print(f"step without tracking      {without_it:9.1f} ms")
    print(f"step with tracking         {with_it:9.1f} ms")
    print(f"tracked / untracked        {ratio:9.4f}     quartiles {low:.4f} to {high:.4f}")
    print(f"the same over all steps    {whole:9.4f}     records included")
    print(f"a record of full VGG16-BN  {size / 1e3:9.0f} kB on disk")


if __name__ == "__main__":
    main()
