"""What a run trains, with what, on what: made from its plan and its data set."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from symrun.config import Precision
from symrun.data import Batches, Dataset
from symrun.errors import UsageError
from symrun.models import MODELS
from symrun.optimizers import make_optimizer
from symrun.runs.writer import RecordSink
from symrun.schedule import learning_rates
from symrun.symmetry import Structure, Symmetry, find_structure
from symrun.tracking import Tracker
from symrun.training.compiled import compiled
from symrun.training.device import autocast, keep_float32
from symrun.training.plan import Plan
from symrun.typed import require

AnyTracker = TypeVar("AnyTracker", bound=Tracker)


@dataclass(frozen=True)
class Training:
    """Model, optimiser and batches of a run.

    forward: the model, or what torch.compile made of it. criterion: outputs and labels to the mean
    loss over the batch. learning_rates: of each update of the run. cuda_graph: whether updates are
    replayed as CUDA graphs.
    """

    plan: Plan
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    criterion: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    batches: Batches
    structure: Structure
    learning_rates: Sequence[float]
    cuda_graph: bool

    @property
    def device(self) -> torch.device:
        return self.plan.device

    @property
    def steps(self) -> int:
        return len(self.learning_rates)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.plan.config.precision, self.device)

    def outputs_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, classes], and the mean over the batch, in the run's precision."""
        with self.autocast():
            outputs = self.forward(images)
            loss = self.criterion(outputs, labels)
        return outputs, loss

    def set_lr(self, step: int) -> float:
        """The learning rate of update `step`, which the optimiser has from now on."""
        lr = self.learning_rates[step]
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)  # in place: a graph reads it there
            else:
                group["lr"] = lr
        return lr


def prepare(plan: Plan, dataset: Dataset) -> Training:
    """All that is random is drawn from `config.seed`.

    Error: UsageError if the model cannot take the images of the data set.
    """
    plan.set_up_torch()
    config, settings = plan.config, plan.config.train
    torch.manual_seed(config.seed)
    shape, multiple = dataset.shape, MODELS[config.model.name].side_multiple
    if len(shape) != 3:
        raise UsageError(
            f"model={config.model.name} takes images, but data={config.data.name} is text"
        )
    fits = f"a multiple of {multiple} for model={config.model.name}"
    require("data.size", shape[-1] % multiple == 0, fits, shape[-1])
    model = MODELS[config.model.name].build(config.model, shape, dataset.classes)
    model = model.to(plan.device, plan.dtype)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    structure = find_structure(model, dataset.example(2, plan.dtype), plan.task.shift_invariant)
    if config.precision is Precision.bf16:
        _keep_last_layer_exact(model, structure)
    batches = Batches(
        dataset,
        settings.batch_size,
        config.seed,
        plan.device,
        plan.dtype,
        on_device=settings.data_on_device,
        channels_last=settings.channels_last,
    )
    return Training(
        plan,
        model,
        compiled(model, settings.batch_size) if settings.compile else model,
        plan.task.criterion,
        make_optimizer(config.optim, list(model.parameters())),
        batches,
        structure,
        learning_rates(config.optim, plan.steps(batches.steps_per_epoch)).tolist(),
        settings.cuda_graph,
    )


def make_tracker(training: Training, writer: RecordSink, kind: type[AnyTracker]) -> AnyTracker:
    """The tracker of a run. Error: as in Tracker."""
    config = training.plan.config
    return kind(
        training.model,
        training.optimizer,
        training.structure,
        training.plan.laws,
        writer,
        every=config.track.every,
        sample=config.track.parameters,
        seed=config.seed,
        sums=config.track.sums,
    )


def _keep_last_layer_exact(model: nn.Module, structure: Structure) -> None:
    """Take the layers whose columns are conserved under translation out of autocast."""
    for group in structure.groups:
        layer = model.get_submodule(group.layers[0])
        if group.symmetry is Symmetry.translation and isinstance(layer, nn.Linear):
            keep_float32(layer)
