"""Training: one loop over the updates, with the tracker looking on."""

import time

import torch
from torch import Tensor

from symrun import ranks
from symrun.tracking import Observation, Tracker
from symrun.training.checkpointing import Checkpointer
from symrun.training.cuda_graph import Captured
from symrun.training.metrics import Scores
from symrun.training.progress import Progress
from symrun.training.setup import Training


def fit(
    training: Training,
    progress: Progress,
    tracker: Tracker | None,
    checkpointer: Checkpointer | None = None,
) -> None:
    """Make the updates that are left, and validate after each epoch and at the end.

    progress.updates: those made already. A run that stopped after the last update of an epoch was
    not validated yet, so an epoch is closed when the next one begins.

    Error: what `checkpointer` raises to end the run.
    """
    every = training.plan.config.track.every
    steps_per_epoch = training.batches.steps_per_epoch
    update = Update(training, tracker, progress.scores)
    training.model.train()
    start = progress.updates
    batches = training.batches.stream(start)
    for step in range(start, training.steps):
        epoch, since = divmod(step, steps_per_epoch)
        if epoch > 0 and since == 0:
            _close_epoch(training, epoch, progress, checkpointer)
        images, labels = next(batches)
        update(images, labels, step)
        progress.updated(training.batches.size(step))
        if progress.updates % every == 0:
            progress.record_training(epoch + 1, training.learning_rates[step])
        if checkpointer is not None:
            checkpointer.after_update()
    epochs = -(-training.steps // steps_per_epoch)
    _close_epoch(training, epochs, progress, checkpointer)
    if tracker is not None:
        tracker.finish(training.steps)


class Update:
    """Makes updates, with a tracker looking on or without one, and adds up their scores.

    Example:
        update = Update(training, None, Scores(training.device))
        for step, (images, labels) in enumerate(training.batches.epoch(1)):
            update(images, labels, step)
    """

    def __init__(self, training: Training, tracker: Tracker | None, scores: Scores) -> None:
        self._training = training
        self._tracker = tracker
        self._scores = scores
        self._step = 0
        self._compute = Captured(self._on_device) if training.cuda_graph else self._on_device

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> None:
        """Update number `step`."""
        lr = self._training.set_lr(step)
        self._step = step
        tracker = self._tracker
        if tracker is None:
            self._compute(images, labels, False)
            return
        tracker.prepare(lr)
        tracker.record(step, self._compute(images, labels, tracker.due(step)))

    def _on_device(self, images: Tensor, labels: Tensor, due: bool) -> Observation | None:
        """Nothing here waits for the device, nor does the host have a part in it. The exception is
        torch's SyncBatchNorm, with which several processes on GPUs wait in each forward pass."""
        training, parallel = self._training, self._training.parallel
        training.optimizer.zero_grad()
        if parallel is not None:
            parallel.begin(self._step)
        outputs, loss = training.outputs_and_loss(images, labels)
        if self._tracker is not None:
            self._tracker.watch(outputs)
        own = loss if parallel is None else parallel.weighted(loss, len(labels), self._step)
        own.backward()
        observation = self._tracker.observe(due) if self._tracker is not None else None
        training.optimizer.step()
        if parallel is not None:
            parallel.finish()
        if self._tracker is not None:
            observation = self._tracker.complete(observation)
        self._scores.add(outputs, labels, loss)
        return observation


def _close_epoch(
    training: Training, epoch: int, progress: Progress, checkpointer: Checkpointer | None
) -> None:
    progress.record_training(epoch, training.learning_rates[progress.updates - 1])
    validate(training, epoch, progress, checkpointer)


@torch.no_grad()
def validate(
    training: Training, epoch: int, progress: Progress, checkpointer: Checkpointer | None
) -> None:
    """Loss and accuracy on the validation images, in evaluation mode."""
    started = _clock(training.device)
    scores, count = Scores(training.device), len(training.batches.val_labels)
    training.model.eval()
    with progress.validating(count) as shown:
        for images, labels in training.batches.validation():
            if len(labels):
                outputs, loss = training.evaluated(images, labels)
                scores.add(outputs, labels, loss)
            shown.update(len(labels) * ranks.count())
            if checkpointer is not None:
                checkpointer.during_validation()
    training.model.train()
    progress.record_validation(epoch, scores, count, _clock(training.device) - started)


def _clock(device: torch.device) -> float:
    """Seconds, once the device has caught up: it waits, so it has no place in a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()
