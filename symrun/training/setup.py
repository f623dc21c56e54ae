"""What a run trains, with what, on what: made from its plan and its data set."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from symrun import ranks
from symrun.config import BatchNorm, Matrices, Precision
from symrun.data import Batches, Dataset
from symrun.errors import UsageError
from symrun.optimizers import make_optimizer
from symrun.runs.tables import SOURCE
from symrun.runs.writer import RecordSink
from symrun.schedule import learning_rates
from symrun.symmetry import Structure, Symmetry
from symrun.symmetry.matrices import with_off_diagonal
from symrun.symmetry.proof import Proof
from symrun.tasks import make_criterion, output_of
from symrun.tracking import Tracker, Watcher
from symrun.tracking.output_source import OutputSource
from symrun.training.batch_norm import synchronised
from symrun.training.compiled import compiled
from symrun.training.data_parallel import DataParallel, least_batch
from symrun.training.device import autocast, keep_float32, takes_channels_last
from symrun.training.plan import Plan
from symrun.training.symmetries import Subject, untrained

_LOG = logging.getLogger(__name__)
AnyTracker = TypeVar("AnyTracker", bound=Tracker)


@dataclass(frozen=True)
class Training:
    """Model, optimiser and batches of a run.

    forward: the model, or what torch.compile or DistributedDataParallel made of it. criterion: what
    the model returns and labels to the mean loss over the batch. learning_rates: of each update of
    the run. cuda_graph: whether updates are replayed as CUDA graphs. parallel: None in a process
    alone.
    """

    plan: Plan
    model: nn.Module
    forward: Callable[[Tensor], Any]
    criterion: Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    batches: Batches
    structure: Structure
    learning_rates: Sequence[float]
    cuda_graph: bool
    parallel: DataParallel | None = None

    @property
    def device(self) -> torch.device:
        return self.plan.device

    @property
    def steps(self) -> int:
        return len(self.learning_rates)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that not every run records."""
        source = SOURCE if self.structure.balanced is not None else ()
        return (*self.plan.columns, *source)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.plan.config.precision, self.device)

    def outputs_and_loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs that are scored, [batch, classes] or [batch, tokens, classes], and their mean
        loss, in the run's precision."""
        return self._scored(self.forward, images, labels)

    def evaluated(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As `outputs_and_loss`, by the model as it is, neither compiled nor wrapped."""
        return self._scored(self.model, images, labels)

    def _scored(
        self, forward: Callable[[Tensor], Any], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        with self.autocast():
            outputs = output_of(forward(images), self.plan.config.task.output)
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


def proven(structure: Structure, proofs: Sequence[Proof]) -> Structure:
    """`structure` without the groups that failed their proof, each with a warning.

    Error: UsageError for homogeneity, which was asked for.
    """
    for proof in proofs:
        if proof.reason is not None:
            kind = proof.group.symmetry.value
            if proof.group.symmetry is Symmetry.homogeneity:
                raise UsageError(f"homogeneity must be false here: {proof.reason}")
            _LOG.warning("%s of %s is left out: %s", kind, proof.group.name, proof.reason)
    return replace(structure, groups=tuple(one.group for one in proofs if one.reason is None))


def prepare(plan: Plan, dataset: Dataset) -> Training:
    """All that is random is drawn from `config.seed`. One of several processes exchanges nothing
    with the others here, so that it can fail alone.

    Error: UsageError if the model cannot take the data, or its outputs do not suit the task.
    """
    plan.set_up_torch()
    config, settings = plan.config, plan.config.train
    model = untrained(plan, dataset)
    channels_last = settings.channels_last and takes_channels_last(model, plan.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    criterion = make_criterion(config.task, dataset.classes, plan.device, plan.dtype)
    structure = proven_structure(model, dataset, plan, criterion)
    if config.precision is Precision.bf16:
        _keep_last_layer_exact(model, structure)
    batches = Batches(
        dataset,
        settings.batch_size,
        config.seed,
        plan.device,
        plan.dtype,
        on_device=settings.data_on_device,
        channels_last=channels_last,
        share=ranks.rank(),
        shares=ranks.count(),
        least=least_batch(model, settings),
    )
    if ranks.count() > 1:
        if settings.batch_norm is BatchNorm.sync:
            model = synchronised(model, plan.device)
        if batches.left_out:
            few = f"the last {batches.left_out} examples of each epoch are too few for a batch"
            _LOG.warning("%s of %d processes, and are left out", few, ranks.count())
    return Training(
        plan,
        model,
        compiled(model, settings.batch_size) if settings.compile else model,
        criterion,
        make_optimizer(config.optim, list(model.parameters())),
        batches,
        structure,
        learning_rates(config.optim, plan.steps(batches.steps_per_epoch)).tolist(),
        settings.cuda_graph,
    )


def joined(training: Training) -> Training:
    """`training` as all processes do it together, each of which has prepared it."""
    if ranks.count() == 1:
        return training
    config, model = training.plan.config, training.model
    parallel = DataParallel(model, training.batches, config.train, config.seed)
    training = replace(training, forward=parallel.forward, parallel=parallel)
    parallel.warm_up(model, lambda *batch: training.outputs_and_loss(*batch)[1])
    return training


def make_tracker(
    training: Training,
    writer: RecordSink,
    kind: type[AnyTracker],
    watchers: Sequence[Watcher] = (),
) -> AnyTracker:
    """The tracker of a run. Error: UsageError if it has nothing to measure; else as in Tracker."""
    config = training.plan.config
    if not training.structure.groups:
        network = f"model={config.model.name} with task={config.task.name}"
        raise UsageError(
            f"{network} has no symmetry that symrun knows: there is nothing to measure"
        )
    wanted = config.track.matrices
    if wanted is not Matrices.diagonal and not any(one.pairs for one in training.structure.groups):
        network = f"model={config.model.name}"
        _LOG.warning("track.matrices=%s has no effect: %s has no matrix", wanted.value, network)
    balanced = training.structure.balanced
    source = None if balanced is None else OutputSource(training.model, balanced, ranks.group())
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
        more=training.columns,
        watchers=watchers,
        ranks=ranks.group(),
        source=source,
    )


def proven_structure(
    model: nn.Module,
    dataset: Dataset,
    plan: Plan,
    criterion: Callable[[Any, Tensor], Tensor],
) -> Structure:
    """The layers of `model`, and its symmetry groups that are proven with the loss that it is
    trained with; those of `track.matrices` come last.

    Error: as in `Subject`.
    """
    subject = Subject.of(model, dataset, plan, criterion)
    structure = subject.structure()
    structure = proven(structure, subject.proofs(structure))
    wanted = plan.config.track.matrices
    if wanted is Matrices.diagonal:
        return structure
    structure = subject.with_matrices(structure)
    return with_off_diagonal(structure, wanted is Matrices.sample, plan.config.seed)


def _keep_last_layer_exact(model: nn.Module, structure: Structure) -> None:
    """Take the last layer out of autocast, if its columns are conserved under translation."""
    shifted = [one.layers[0] for one in structure.groups if one.symmetry is Symmetry.translation]
    for layer in structure.layers[-1:]:
        module = model.get_submodule(layer.name)
        if layer.name in shifted and isinstance(module, nn.Linear):
            keep_float32(module)
