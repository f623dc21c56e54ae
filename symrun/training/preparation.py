"""What a run trains, with what, on what, made from its configuration."""

from typing import TypeVar

import torch
from torch import nn

from symrun.config import Config, Precision
from symrun.data import Batches, Dataset
from symrun.models import vgg
from symrun.runs.writer import RecordSink
from symrun.schedule import learning_rates
from symrun.symmetry import Symmetry, find_structure
from symrun.tracking import Tracker
from symrun.tracking.select import require_possible
from symrun.training.compiled import compiled
from symrun.training.graph import require_capturable
from symrun.training.memory import keep_freed_memory
from symrun.training.optimizers import laws_of, make_optimizer
from symrun.training.precision import (
    keep_float32,
    set_determinism,
    set_precision,
    weights_dtype,
    with_precision,
)
from symrun.training.update import Training

AnyTracker = TypeVar("AnyTracker", bound=Tracker)


def require_runnable(config: Config, device: torch.device) -> None:
    """Set torch to the run's precision and determinism, and the CPU's memory to what steps need.

    Error: UsageError for what `device` does not allow.
    """
    require_capturable(config, device)
    require_possible(config.track.sums, device)
    set_precision(with_precision(config, device).precision, device)
    set_determinism(config.deterministic)
    if device.type == "cpu":
        keep_freed_memory()


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
        config.model.eps,
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
