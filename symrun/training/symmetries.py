"""The symmetries of a network in training: found, named by hand, proven with its own loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from symrun.config import Config, Precision, Sums
from symrun.data import Dataset
from symrun.errors import UsageError
from symrun.models import build_model
from symrun.models.named import failed, importable, imported
from symrun.symmetry import Family, Group, Structure
from symrun.symmetry.homogeneity import find_homogeneity
from symrun.symmetry.matrices import find_matrices
from symrun.symmetry.proof import Proof, prove
from symrun.symmetry.search import find_structure
from symrun.tasks import make_criterion, output_of
from symrun.training.plan import Plan
from symrun.training.trial import shape_of_labels

_UNSCALED = "no exponents of the parameters scale all outputs of"
_PROVEN_ON = 4
"""Inputs in the batch on which symmetries are proven."""


def untrained(plan: Plan, dataset: Dataset) -> nn.Module:
    """The network of a run as it starts. All that is random is drawn from the run's seed.

    Error: UsageError if the network is not made for such data, or cannot be made.
    """
    torch.manual_seed(plan.config.seed)
    model = build_model(plan.config.model, dataset.shape, dataset.classes)
    return model.to(plan.device, plan.dtype)


@dataclass(frozen=True)
class Subject:
    """A network, with the task and the shape of the data that it is trained on.

    example: a batch of zeros. labels: the shape of its labels.

    Example: Subject.of(model, dataset, plan, training.criterion).structure()
    """

    model: nn.Module
    plan: Plan
    classes: int
    example: Tensor
    labels: tuple[int, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        dataset: Dataset,
        plan: Plan,
        criterion: Callable[[Any, Tensor], Tensor],
    ) -> "Subject":
        """Error: UsageError if the model cannot take the data, or its outputs do not suit the
        task."""
        classes, example = dataset.classes, dataset.example(_PROVEN_ON, plan.dtype)
        shape = shape_of_labels(model, example.to(plan.device), criterion, plan.config, classes)
        return cls(model, plan, classes, example, shape)

    @classmethod
    def untrained(cls, config: Config, dataset: Dataset) -> "Subject":
        """The network of `config` at its initialisation; what makes a run fast has no effect.

        Error: as in `of`; and UsageError for a device that this machine lacks.
        Example: Subject.untrained(config, dataset).structure().layers
        """
        plain = replace(config.train, compile=False, cuda_graph=False)
        track = replace(config.track, sums=Sums.auto)
        plan = Plan.of(replace(config, precision=Precision.float32, train=plain, track=track))
        plan.set_up_torch()
        criterion = make_criterion(config.task, dataset.classes, plan.device, plan.dtype)
        return cls.of(untrained(plan, dataset), dataset, plan, criterion)

    def structure(self) -> Structure:
        """The layers, the groups that the search finds, and those of `track.families`; nothing is
        proven.

        Error: UsageError for a class that cannot be used, or names a group that there is; or for
        track.homogeneity=true where nothing scales the outputs.
        """
        labels = torch.zeros(self.labels, dtype=torch.int64)
        found = find_structure(self.model, self.example, self._loss(labels, self.plan.dtype))
        groups = {(group.symmetry, group.name): group for group in found.groups}
        if self.plan.config.track.homogeneity:
            balanced = find_homogeneity(self.model, self.example, self._scored)
            if balanced is None:
                network = f"model={self.plan.config.model.name}"
                raise UsageError(f"track.homogeneity must be false, since {_UNSCALED} {network}")
            groups[balanced.symmetry, balanced.name] = balanced
        for name, group in _by_hand(self.plan.config.track.families, self.model):
            if (group.symmetry, group.name) in groups:
                there = f"there is a group {group.symmetry.value} {group.name} already"
                raise UsageError(f"track.families={name}: {there}: give it another name")
            groups[group.symmetry, group.name] = group
        return replace(found, groups=tuple(groups.values()))

    def proofs(self, structure: Structure) -> list[Proof]:
        """A proof of each group, on random inputs and labels."""
        inputs, criterion = self._batch()
        groups, varies = structure.groups, structure.varies
        return prove(self.model, groups, inputs, criterion, varies, output=self._scored)

    def with_matrices(self, structure: Structure) -> Structure:
        """`structure` with the matrices that its groups are the diagonals of, which are proven."""
        varies, seed = structure.varies, self.plan.config.seed
        groups = find_matrices(self.model, structure.groups, *self._batch(), varies, seed)
        return replace(structure, groups=tuple(groups))

    def _batch(self) -> tuple[Tensor, Callable[[Any], Tensor]]:
        """Random inputs, and the loss with random labels."""
        draws = torch.Generator().manual_seed(0)
        labels = torch.randint(self.classes, self.labels, generator=draws)
        if self.example.is_floating_point():
            inputs = torch.randn(self.example.shape, generator=draws, dtype=torch.float64)
        else:
            inputs = torch.randint(self.classes, self.example.shape, generator=draws)
        return inputs.to(self.plan.device), self._loss(labels, torch.float64)

    def _scored(self, returned: Any) -> Tensor:
        return output_of(returned, self.plan.config.task.output)

    def _loss(self, labels: Tensor, dtype: torch.dtype) -> Callable[[Any], Tensor]:
        """The task's loss of what the network returns, on whatever device: "meta" in a search."""
        task = self.plan.config.task

        def criterion(outputs: Any) -> Tensor:
            device = output_of(outputs, task.output).device
            return make_criterion(task, self.classes, device, dtype)(outputs, labels.to(device))

        return criterion


def _by_hand(families: Sequence[str], model: nn.Module) -> Iterator[tuple[str, Group]]:
    """Each class, and each group that it names in `model`."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    shapes = {name: tuple(parameter.shape) for name, parameter in trained}
    for name in families:
        with importable():
            family = imported("track.families", name)
            if not (isinstance(family, type) and issubclass(family, Family)):
                raise UsageError(
                    f"track.families={name} must be a subclass of symrun.symmetry.Family"
                )
            try:
                groups = list(family().groups(model))
                misfit = next((one for group in groups if (one := _misfit(group, shapes))), None)
            except Exception as error:
                raise UsageError(f"track.families={name} {failed(error)}: mend it") from None
        if misfit is not None:
            raise UsageError(f"track.families={name}: {misfit}")
        yield from ((name, group) for group in groups)


def _misfit(group: Group, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Why the members of `group` are no lines of parameters of these shapes; None if they are."""
    for members in group.members:
        shape = shapes.get(members.parameter)
        if shape is None:
            return f"group {group.name}: the network trains no parameter {members.parameter}"
        lines, rows = len(members.units), math.prod(shape[:1])
        counted = lines if members.axis == 0 else members.length * members.parts
        if counted != rows or lines * members.length != math.prod(shape):
            told = f"{lines} lines of {members.length} entries do not make up {members.parameter}"
            return f"group {group.name}: {told}, which is {list(shape)}"
    return None
