"""What networks learn: how their outputs are scored against labels."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A loss and its properties.

    title: its name. criterion(outputs [batch, classes], labels int64 [batch]): the mean loss over
    the batch. chance(classes): the loss of an output that tells no class from another, and that
    number in words. shift_invariant: whether a constant added to all outputs of an image leaves
    the loss as it is, which makes translation a symmetry of the last layer.
    """

    title: str
    criterion: "Criterion"
    chance: Callable[[int], tuple[float, str]]
    shift_invariant: bool


def cross_entropy(outputs: "Tensor", labels: "Tensor") -> "Tensor":
    """Softmax cross-entropy, the mean over the batch."""
    from torch.nn import functional  # torch takes a second to import

    return functional.cross_entropy(outputs, labels)


TASKS: dict[str, Task] = {
    "classification": Task(
        title="softmax cross-entropy",
        criterion=cross_entropy,
        chance=lambda classes: (math.log(classes), f"ln {classes}"),
        shift_invariant=True,
    ),
}
