"""Training: one linear loop, with the tracker looking on."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from symrun.config import Config, Precision
from symrun.data import Batches, Dataset, load
from symrun.errors import Interrupted, RunError, UsageError
from symrun.models import vgg
from symrun.runs.checkpoint import save_weights
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import RecordSink, TableWriter
from symrun.schedule import learning_rates
from symrun.symmetry import Symmetry, find_structure
from symrun.tracking import Tracker
from symrun.tracking.sums import require_possible
from symrun.training.compiled import compiled
from symrun.training.graph import own_stream, require_capturable
from symrun.training.optimizers import laws_of, make_optimizer
from symrun.training.precision import (
    device_title,
    keep_float32,
    select_device,
    set_precision,
    weights_dtype,
    with_precision,
)
from symrun.training.progress import Progress, Scores
from symrun.training.provenance import describe
from symrun.training.update import Training, Update

AnyTracker = TypeVar("AnyTracker", bound=Tracker)


def require_runnable(config: Config, device: torch.device) -> None:
    """Set torch to the run's precision. Error: UsageError for what `device` does not allow."""
    require_capturable(config, device)
    require_possible(config.track.sums, device)
    set_precision(with_precision(config, device).precision, device)


def make_tracker(
    training: Training, config: Config, writer: RecordSink, kind: type[AnyTracker]
) -> AnyTracker:
    """The tracker of a run. Error: as in Tracker."""
    laws, _ = laws_of(config.optim)
    return kind(
        training.model,
        training.optimizer,
        training.structure,
        laws,
        writer,
        every=config.track.every,
        sample=config.track.parameters,
        seed=config.seed,
        sums=config.track.sums,
    )


def prepare(config: Config, dataset: Dataset, device: torch.device) -> Training:
    """Model, optimiser and batches of a run, all drawn from `config.seed`.

    Error: UsageError for settings that `device` does not allow.
    """
    require_runnable(config, device)
    config = with_precision(config, device)
    settings = config.train
    dtype = weights_dtype(config.precision)
    torch.manual_seed(config.seed)
    model = vgg(
        config.model.name,
        dataset.classes,
        dataset.image_size,
        config.model.width,
        config.model.dropout,
    ).to(device, dtype)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    size = dataset.image_size
    structure = find_structure(model, torch.zeros(2, 3, size, size, dtype=dtype))
    if config.precision is Precision.bf16:
        for group in structure.groups:
            logits = model.get_submodule(group.layers[0])
            if group.symmetry is Symmetry.translation and isinstance(logits, nn.Linear):
                keep_float32(logits)
    optimizer = make_optimizer(config.optim, model.parameters())
    batches = Batches(
        dataset,
        settings.batch_size,
        config.seed,
        device,
        dtype,
        on_device=settings.data_on_device,
        channels_last=settings.channels_last,
    )
    steps = settings.steps or settings.epochs * batches.steps_per_epoch
    return Training(
        model,
        compiled(model, settings.batch_size) if settings.compile else model,
        optimizer,
        batches,
        structure,
        device,
        config.precision,
        learning_rates(config.optim, steps).tolist(),
        settings.cuda_graph,
    )


def fit(training: Training, every: int, progress: Progress, tracker: Tracker | None) -> None:
    """Make all updates; validate after each epoch and at the end."""
    steps = training.steps
    update = Update(training, tracker, progress.scores)
    training.model.train()
    for epoch in itertools.count(1):
        left = steps - progress.updates
        for images, labels in itertools.islice(training.batches.epoch(epoch), left):
            update(images, labels, progress.updates)
            progress.updated(len(labels))
            if progress.updates % every == 0:
                progress.record_training(epoch, training.learning_rates[progress.updates - 1])
        progress.record_training(epoch, training.learning_rates[progress.updates - 1])
        validate(training, epoch, progress)
        if progress.updates == steps:
            break
    if tracker is not None:
        tracker.finish(steps)


@torch.no_grad()
def validate(training: Training, epoch: int, progress: Progress) -> None:
    """Loss and accuracy on the validation images, in evaluation mode."""
    started = _clock(training.device)
    scores, count = Scores(training.device), 0
    training.model.eval()
    for images, labels in training.batches.validation():
        with training.autocast():
            logits = training.model(images)
            scores.add(logits, labels, F.cross_entropy(logits, labels))
        count += len(labels)
    training.model.train()
    progress.record_validation(epoch, scores, count, _clock(training.device) - started)


def _clock(device: torch.device) -> float:
    """Seconds, once the device has caught up: it waits, so it has no place in a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def train(config: Config, warn: Callable[[str], None]) -> Path:
    """Train as configured into a run folder of its own, and return that folder.

    Error: UsageError before anything was trained, leaving no folder behind; RunError and
    Interrupted later, with the tables readable up to there.
    """
    device = select_device(config.device)
    config = with_precision(config, device)
    require_runnable(config, device)
    run = RunDirectory.create(config.run.dir, config.run.name)
    try:
        dataset = load(config.data)
        training = prepare(config, dataset, device)
        _, unpredicted = laws_of(config.optim)
        model, structure, steps = training.model, training.structure, training.steps
        run.write_info(
            describe(config, dataset, model, structure, device, training.batches.steps_per_epoch)
            | {"unpredicted": unpredicted}
        )
    except BaseException as error:
        run.discard()
        if isinstance(error, torch.OutOfMemoryError):
            raise RunError("the data set or the network does not fit into the GPU") from None
        raise
    for reason in sorted(set(unpredicted.values())):
        columns = ", ".join(law for law in unpredicted if unpredicted[law] == reason)
        warn(f"not predicted, null in the tables: {columns}: {reason}")

    progress = None
    try:
        with TableWriter(run) as writer:
            progress = Progress(writer, steps, device)
            tracker = make_tracker(training, config, writer, Tracker)
            size = tracker.unpacked_bytes(steps) / 1e6
            where = f"{config.precision.value} on {device_title(device)}"
            progress.say(f"{where}; up to {size:,.1f} MB of tables in {run.path}")
            with own_stream(device) if training.cuda_graph else contextlib.nullcontext():
                fit(training, config.track.every, progress, tracker)
        save_weights(run, steps, model.state_dict())
        run.update_info(status="finished", last_step=steps)
    except BaseException as error:
        updates = progress.updates if progress is not None else 0
        interrupted = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(OSError, UsageError):  # the error under way tells more
            run.update_info(status="interrupted" if interrupted else "failed", last_step=updates)
        readable = f"what was recorded until step {updates} is readable in {run.path}"
        if interrupted:
            raise Interrupted(f"interrupted; {readable}") from None
        if isinstance(error, torch.OutOfMemoryError):
            raise RunError(f"out of GPU memory: lower train.batch_size; {readable}") from None
        raise
    finally:
        if progress is not None:
            progress.close()
    if progress.last is not None and not math.isfinite(progress.last.loss):
        warn(f"the loss is not finite (nan or inf) at step {steps}: try a lower optim.lr")
    return run.path
