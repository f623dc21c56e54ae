"""One update: forward, backward, measuring, step."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun.config import Precision
from symrun.data import Batches
from symrun.symmetry import Structure
from symrun.tracking import Observation, Tracker
from symrun.training.graph import Captured
from symrun.training.precision import autocast
from symrun.training.progress import Scores


@dataclass(frozen=True)
class Training:
    """What a run trains, with what, on what.

    forward: the model, or what torch.compile made of it. cuda_graph: whether updates are replayed
    as CUDA graphs.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    batches: Batches
    structure: Structure
    device: torch.device
    precision: Precision
    learning_rates: Sequence[float]
    cuda_graph: bool

    @property
    def steps(self) -> int:
        return len(self.learning_rates)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.precision, self.device)

    def set_lr(self, step: int) -> float:
        """The learning rate of update `step`, which the optimiser has from now on."""
        lr = self.learning_rates[step]
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place: a graph reads it there
            else:
                group["lr"] = lr
        return lr


class Update:
    """Makes updates, with a tracker looking on or without one, and adds up their scores.

    Example:
        update = Update(training, tracker, Scores(training.device))
        for step, (images, labels) in enumerate(training.batches.epoch(1)):
            update(images, labels, step)
    """

    def __init__(self, training: Training, tracker: Tracker | None, scores: Scores) -> None:
        self._training = training
        self._tracker = tracker
        self._scores = scores
        self._compute = Captured(self._on_device) if training.cuda_graph else self._on_device

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> None:
        """Update number `step`."""
        lr = self._training.set_lr(step)
        tracker = self._tracker
        if tracker is None:
            self._compute(images, labels, False)
            return
        tracker.prepare(lr)
        tracker.record(step, self._compute(images, labels, tracker.due(step)))

    def _on_device(self, images: Tensor, labels: Tensor, due: bool) -> Observation | None:
        """Nothing here waits for the device, nor does the host have a part in it."""
        training = self._training
        training.optimizer.zero_grad()
        with training.autocast():
            logits = training.forward(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        observation = self._tracker.observe(due) if self._tracker is not None else None
        training.optimizer.step()
        self._scores.add(logits, labels, loss)
        return observation
