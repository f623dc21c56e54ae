"""What networks learn: how their outputs are scored against labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Task:
    """A loss, and what is to be known of it.

    criterion(): the module that takes outputs [batch, classes] and labels int64 [batch] to the
    mean loss over the batch. title: its name. chance(classes): the loss of an output that tells no
    class from another, and that number in words. shift_invariant: whether a constant added to all
    outputs of an image leaves the loss as it is, which makes translation a symmetry of the last
    layer.
    """

    title: str
    criterion: Callable[[], "nn.Module"]
    chance: Callable[[int], tuple[float, str]]
    shift_invariant: bool


def _cross_entropy() -> "nn.Module":
    from torch.nn import CrossEntropyLoss  # torch takes a second to import

    return CrossEntropyLoss()


TASKS: dict[str, Task] = {
    "classification": Task(
        title="softmax cross-entropy",
        criterion=_cross_entropy,
        chance=lambda classes: (math.log(classes), f"ln {classes}"),
        shift_invariant=True,
    ),
}
