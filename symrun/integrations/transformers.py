"""Tracks a network while a Trainer of Hugging Face's transformers trains it."""

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import symrun


class SymrunCallback(TrainerCallback):
    """Leaves a run folder of what a Trainer trains.

    It tracks in the first process. The Trainer's checkpoints hold its state, so that a training
    that is resumed from one goes on being tracked. The Trainer says nothing to a callback when it
    fails: used as a context manager around `train`, this one closes the run then as well.

    path: the run's folder. example_input: a batch, as the model takes it. loss: as of
    `symrun.track`; the model's own, which the Trainer minimises, unless it is given. options: the
    others of `symrun.track`.
    """

    def __init__(
        self,
        path: str | Path,
        example_input: Any,
        loss: Callable[..., Tensor] = itemgetter("loss"),
        **options: Any,
    ) -> None:
        self.tracker: symrun.TrackedRun | None = None
        self._example_input = example_input
        self._options = {"path": path, "loss": loss, **options}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        optimizer = kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        model = kwargs["model"]
        self.tracker = symrun.track(model, optimizer, self._example_input, **self._options)
        saved = _state_file(args, state)
        if state.global_step and saved.exists():
            self.tracker.load_state_dict(torch.load(saved, weights_only=True))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.tracker is not None and _state_file(args, state).parent.is_dir():
            torch.save(self.tracker.state_dict(), _state_file(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.__exit__(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        tracker, self.tracker = self.tracker, None
        if tracker is not None:
            tracker.__exit__(kind)


def _state_file(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "symrun.pt"
