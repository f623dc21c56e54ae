"""One batch through a copy of the network, before a run starts."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symrun.config import Config
from symrun.errors import UsageError, in_one_line
from symrun.tasks import TASKS, output_of


def shape_of_labels(
    model: nn.Module,
    example: Tensor,
    criterion: Callable[[Any, Tensor], Tensor],
    config: Config,
    classes: int,
) -> tuple[int, ...]:
    """The shape of the labels of `example`, once a batch like it has gone forward and backward.

    Neither the network nor torch's generators change.

    Error: UsageError if forward or backward fails, or the output has another shape than the task
    needs.
    """
    network, name = copy.deepcopy(model).train(), f"model={config.model.name}"
    try:
        with torch.random.fork_rng([example.device] if example.is_cuda else []):
            returned = network(example)
            labels = _labels(returned, example, config, classes)
            criterion(returned, labels).backward()
    except (UsageError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's forward can raise anything
        reason = in_one_line((str(error).splitlines() or [type(error).__name__])[0])
        given = f"{name} fails on inputs of shape {list(example.shape)}: {reason}"
        raise UsageError(f"{given}: choose data that it can take, or another model") from None
    return tuple(labels.shape)


def _labels(returned: Any, example: Tensor, config: Config, classes: int) -> Tensor:
    """Labels for what the network returned: zeros. Error: UsageError if they do not fit."""
    name, task, size = f"model={config.model.name}", config.task, list(example.shape)
    if task.output is not None and isinstance(returned, Tensor):
        raise UsageError(f"task.output must be null, since {name} returns a single tensor")
    found = list(output_of(returned, task.output).shape)
    labels = size if TASKS[task.name].per_token else size[:1]
    if found != [*labels, classes]:
        needed = f"task={task.name} on this data needs {[*labels, classes]}"
        remedy = "choose another model, task or task.output"
        raise UsageError(f"{name} gives outputs of shape {found} where {needed}: {remedy}")
    return torch.zeros(labels, dtype=torch.int64, device=example.device)
