"""Training: one linear loop, with the tracker looking on."""

import itertools
import time

import torch
import torch.nn.functional as F

from symrun.tracking import Tracker
from symrun.training.keeper import Keeper
from symrun.training.progress import Progress, Scores
from symrun.training.update import Training, Update


def fit(
    training: Training,
    every: int,
    progress: Progress,
    tracker: Tracker | None,
    keeper: Keeper | None = None,
) -> None:
    """Make the updates that are left; validate after each epoch and at the end.

    progress.updates: those made already. A run that stopped after the last update of an epoch was
    not validated yet.

    Error: what `keeper` raises to end it.
    """
    steps, batches = training.steps, training.batches
    update = Update(training, tracker, progress.scores)
    training.model.train()
    epochs_done, start = divmod(max(progress.updates - 1, 0), batches.steps_per_epoch)
    start += progress.updates > 0
    for epoch in itertools.count(epochs_done + 1):
        left = steps - progress.updates
        for images, labels in itertools.islice(batches.epoch(epoch, start), left):
            update(images, labels, progress.updates)
            progress.updated(len(labels))
            if progress.updates % every == 0:
                progress.record_training(epoch, training.learning_rates[progress.updates - 1])
            if keeper is not None:
                keeper.after_update()
        start = 0
        progress.record_training(epoch, training.learning_rates[progress.updates - 1])
        validate(training, epoch, progress, keeper)
        if progress.updates == steps:
            break
    if tracker is not None:
        tracker.finish(steps)


@torch.no_grad()
def validate(training: Training, epoch: int, progress: Progress, keeper: Keeper | None) -> None:
    """Loss and accuracy on the validation images, in evaluation mode."""
    started = _clock(training.device)
    scores, count = Scores(training.device), 0
    training.model.eval()
    for images, labels in training.batches.validation():
        with training.autocast():
            logits = training.model(images)
            scores.add(logits, labels, F.cross_entropy(logits, labels))
        count += len(labels)
        if keeper is not None:
            keeper.during_validation()
    training.model.train()
    progress.record_validation(epoch, scores, count, _clock(training.device) - started)


def _clock(device: torch.device) -> float:
    """Seconds, once the device has caught up: it waits, so it has no place in a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
