"""The tasks that can be trained for by name: how a network's outputs are scored against labels.

An entry holds all that is particular to one task, and imports torch when its criterion is made.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from symrun.errors import UsageError
from symrun.typed import Setting, build_named, require, require_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Criterion = Callable[[Any, Tensor], Tensor]
    """What a network returned, and labels, to the mean loss."""


@dataclass(frozen=True)
class TaskConfig:
    """What all tasks have."""

    name: str
    output: Annotated[
        str | int | None,
        Setting("which output is scored, by name or place; null: logits, or the first"),
    ] = None


@dataclass(frozen=True)
class CrossEntropyConfig(TaskConfig):
    label_smoothing: Annotated[
        float, Setting("share of each label that goes to all classes alike", "in [0, 1)")
    ] = 0.0
    class_weights: Annotated[
        tuple[float, ...] | None,
        Setting("a weight > 0 for the loss of each class, as [1,2.5]; null: all alike"),
    ] = None

    def __post_init__(self) -> None:
        require_settings(self, "task.")
        weights = () if self.class_weights is None else self.class_weights
        positive = all(0 < weight < math.inf for weight in weights)
        require("task.class_weights", positive, "finite numbers > 0", list(weights))


@dataclass(frozen=True)
class Task:
    """One task.

    settings: the class of its settings. title: the name of its loss in figures.
    loss(settings, outputs [batch, classes], labels int64 [batch], class weights [classes] or None):
    the mean loss. chance(classes): the loss of an output that tells no class from another, where
    all classes are equally frequent, and that number in words. per_token: every token has a label,
    so that outputs are [batch, tokens, classes] and labels int64 [batch, tokens].
    """

    settings: type[TaskConfig]
    title: str
    loss: Callable[[Any, "Tensor", "Tensor", "Tensor | None"], "Tensor"]
    chance: Callable[[int], tuple[float, str]]
    per_token: bool = False


def make_criterion(
    config: TaskConfig, classes: int, device: "torch.device", dtype: "torch.dtype"
) -> "Criterion":
    """The loss of a batch, a function of what the network returned and of the labels.

    Error: UsageError for class weights that are not one a class; from the criterion as `output_of`.
    Example: make_criterion(config.task, 10, images.device, images.dtype)(model(images), labels)
    """
    import torch  # takes a second

    task, weights = TASKS[config.name], None
    if (given := getattr(config, "class_weights", None)) is not None:
        fits = len(given) == classes
        require("task.class_weights", fits, f"one number for each of {classes} classes", len(given))
        weights = torch.tensor(given, device=device, dtype=dtype)
    return lambda outputs, labels: task.loss(
        config, output_of(outputs, config.output), labels, weights
    )


def output_of(outputs: Any, name: str | int | None) -> "Tensor":
    """The tensor that is scored, among what a network returned.

    name: its key, attribute or place. None is what is called `logits`, or else the first of a tuple
    or list. A tensor is taken as it is: some networks return more only while they train.

    Error: UsageError if there is no such tensor.
    Example: output_of({"state": labels, "logits": images}, None) is images
    """
    from torch import Tensor

    if isinstance(outputs, Tensor):
        return outputs
    found: dict[str | int, Any] = {}
    if isinstance(outputs, Mapping):
        found |= outputs
    elif isinstance(outputs, tuple | list):
        found |= enumerate(outputs)
        found |= outputs._asdict() if hasattr(outputs, "_asdict") else {}
    else:
        found |= getattr(outputs, "__dict__", {})
    usual: str | int = "logits" if "logits" in found else 0
    chosen = found.get(usual if name is None else name)
    if isinstance(chosen, Tensor):
        return chosen
    names = [str(key) for key, value in found.items() if isinstance(value, Tensor)]
    there = f"one of {', '.join(names)}" if names else "null, and the network must return a tensor"
    kind = type(outputs).__name__
    raise UsageError(f"the network returns a {kind}: task.output must be {there}, got {name}")


def task_config(settings: Mapping[str, Any]) -> TaskConfig:
    """The task among the settings of a run. Error: UsageError for the first that is wrong.

    A run from before tasks had settings says "classification", or nothing.
    """
    if settings.get("task", "classification") == "classification":
        return CrossEntropyConfig("cross_entropy")
    return build_named(TASKS, settings, "task", "a task")


def _cross_entropy(
    config: CrossEntropyConfig, outputs: "Tensor", labels: "Tensor", weights: "Tensor | None"
) -> "Tensor":
    """Softmax cross-entropy; with class weights, divided by the sum of those of the labels."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs, labels, weights, label_smoothing=config.label_smoothing)


def _next_token(config: TaskConfig, outputs: "Tensor", labels: "Tensor", _: object) -> "Tensor":
    """Softmax cross-entropy, the mean over all tokens of the batch."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(outputs.flatten(0, -2), labels.flatten())


def _mse(config: TaskConfig, outputs: "Tensor", labels: "Tensor", _: object) -> "Tensor":
    """Squared distance to one-hot targets, divided by the number of classes."""
    from torch.nn.functional import mse_loss

    return mse_loss(outputs, _one_hot(labels, outputs))


def _bce(config: TaskConfig, outputs: "Tensor", labels: "Tensor", _: object) -> "Tensor":
    """Sigmoid cross-entropy with one-hot targets, the mean over batch and classes."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(outputs, _one_hot(labels, outputs))


def _one_hot(labels: "Tensor", outputs: "Tensor") -> "Tensor":
    """[batch, classes], in the type of `outputs`; the device waits for nothing."""
    import torch

    classes = torch.arange(outputs.shape[-1], device=labels.device)
    return (labels[..., None] == classes).to(outputs.dtype)


def _uniform(classes: int) -> tuple[float, str]:
    """Of the uniform distribution, by softmax cross-entropy."""
    return math.log(classes), f"ln {classes}"


def _mse_of_mean(classes: int) -> tuple[float, str]:
    """Of 1 / classes for every class."""
    return (classes - 1) / classes**2, f"{classes - 1}/{classes}²"


def _bce_of_mean(classes: int) -> tuple[float, str]:
    """Of the probability 1 / classes for every class."""
    share = 1 / classes
    entropy = -share * math.log(share) - (1 - share) * math.log1p(-share)
    return entropy, f"the entropy of 1/{classes}"


TASKS: dict[str, Task] = {
    "cross_entropy": Task(CrossEntropyConfig, "softmax cross-entropy", _cross_entropy, _uniform),
    "mse": Task(TaskConfig, "mean squared error", _mse, _mse_of_mean),
    "bce": Task(TaskConfig, "sigmoid cross-entropy", _bce, _bce_of_mean),
    "next_token": Task(
        TaskConfig, "softmax cross-entropy of the next token", _next_token, _uniform, per_token=True
    ),
}
