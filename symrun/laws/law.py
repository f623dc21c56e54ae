"""What a law is: one float64 recursion for all units of all symmetries, driven by reductions.

Legend, here and in the other files of this folder:

    Q        conserved quantity of a unit: sum of theta, or B(theta, theta)
    B(x, y)  the unit's reducer, sum of sign * x * y
    degree   k with Q(c theta) = c^k Q(theta): 1 for translation, 2 for scale and rescale
    eta      learning rate
    lambda   weight decay
    g        gradient of the loss, without weight decay
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Drive:
    """What drives the laws over one update, measured before it; float64, each [units].

    force: B(g, g); 0 for a linear reducer.
    defect: D = B(theta, g), or the sum of g for a linear one; 0 if the symmetry is perfect.
    """

    degree: Tensor
    force: Tensor
    defect: Tensor


class Law(Protocol):
    """Predicts each unit's conserved quantity, update by update."""

    def advance(self, conserved: Tensor, drive: Drive, lr: float) -> Tensor:
        """Q_n -> Q_{n+1}, each float64 [units], over one update with learning rate `lr`."""
        ...
