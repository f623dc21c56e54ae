"""Training: one linear loop, with the tracker looking on."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun.config import Config, Precision
from symrun.data import Batches, Dataset, load
from symrun.errors import Interrupted, RunError, UsageError
from symrun.models import vgg
from symrun.runs.checkpoint import save_weights
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.schedule import learning_rates
from symrun.symmetry import Structure, Symmetry, find_structure
from symrun.tracking import Tracker
from symrun.training.optimizers import laws_of, make_optimizer
from symrun.training.precision import (
    autocast,
    keep_float32,
    select_device,
    set_precision,
    weights_dtype,
)
from symrun.training.progress import Progress, Scores
from symrun.training.provenance import describe


@dataclass(frozen=True)
class Training:
    """What a run trains, with what, on what."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Batches
    structure: Structure
    device: torch.device
    precision: Precision
    learning_rates: Sequence[float]

    @property
    def steps(self) -> int:
        return len(self.learning_rates)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.precision, self.device)

    def set_lr(self, step: int) -> float:
        """The learning rate of update `step`, which the optimiser has from now on."""
        lr = self.learning_rates[step]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr


def prepare(config: Config, dataset: Dataset, device: torch.device) -> Training:
    """Model, optimiser and batches of a run, all drawn from `config.seed`."""
    set_precision(config.precision, device)
    dtype = weights_dtype(config.precision)
    torch.manual_seed(config.seed)
    model = vgg(
        config.model.name,
        dataset.classes,
        dataset.image_size,
        config.model.width,
        config.model.dropout,
    ).to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    size = dataset.image_size
    structure = find_structure(model, torch.zeros(2, 3, size, size, dtype=dtype))
    if config.precision is Precision.bf16:
        for group in structure.groups:
            logits = model.get_submodule(group.layers[0])
            if group.symmetry is Symmetry.translation and isinstance(logits, nn.Linear):
                keep_float32(logits)
    optimizer = make_optimizer(config.optim, model.parameters())
    batches = Batches(dataset, config.train.batch_size, config.seed, device, dtype)
    steps = config.train.steps or config.train.epochs * batches.steps_per_epoch
    rates = learning_rates(config.optim, steps).tolist()
    return Training(model, optimizer, batches, structure, device, config.precision, rates)


def update(
    training: Training,
    images: Tensor,
    labels: Tensor,
    tracker: Tracker | None,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Update number `step`. Returns the logits [batch, classes] and the mean loss behind it."""
    lr = training.set_lr(step)
    training.optimizer.zero_grad()
    with training.autocast():
        logits = training.model(images)
        loss = F.cross_entropy(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    if tracker is not None:
        tracker.before_update(step, lr)
    training.optimizer.step()
    return logits, loss


def fit(training: Training, every: int, progress: Progress, tracker: Tracker | None) -> None:
    """Make all updates; validate after each epoch and at the end."""
    steps = training.steps
    training.model.train()
    for epoch in itertools.count(1):
        left = steps - progress.updates
        for images, labels in itertools.islice(training.batches.epoch(epoch), left):
            logits, loss = update(training, images, labels, tracker, progress.updates)
            progress.scores.add(logits, labels, loss)
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
    set_precision(config.precision, device)
    run = RunDirectory.create(config.run.dir, config.run.name)
    try:
        dataset = load(config.data)
        training = prepare(config, dataset, device)
        laws, unpredicted = laws_of(config.optim)
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
            tracker = Tracker(
                model,
                training.optimizer,
                structure,
                laws,
                writer,
                every=config.track.every,
                sample=config.track.parameters,
                seed=config.seed,
            )
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
