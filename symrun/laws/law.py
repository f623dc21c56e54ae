"""What a law is: one float64 linear recursion for all units of all symmetries.

Legend, here and in the other files of this folder:

    Q        conserved quantity of a unit: sum of theta, or B(theta, theta)
    B(x, y)  the unit's reducer: sum of sign * x * y; in the forcing of a linear one 0
    degree   k with Q(c theta) = c^k Q(theta): 1 for translation, 2 for scale and rescale
    g        gradient of the loss, without weight decay
    eta      learning rate                    lambda   weight decay
    beta     momentum                         alpha    dampening
    n        update, theta_n -> theta_{n+1}

and of torch.optim.SGD, whose definition the laws take:

    d_n = g_n + lambda theta_n
    b_n = beta b_{n-1} + (1 - alpha) d_n,   b_0 = d_0
    u_n = b_n, or d_n + beta b_n with Nesterov
    theta_{n+1} = theta_n - eta_n u_n
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """The settings of torch.optim.SGD that laws depend on; the learning rate may change."""

    weight_decay: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False


@dataclass(frozen=True)
class MomentumDrive:
    """What drives the laws where the update carries momentum; float64, each [units].

    force: B(u, u). cross: B(u, b). Both 0 for a linear reducer.
    first: whether this is update 0, whose b is d.
    """

    force: Tensor
    cross: Tensor
    first: bool


@dataclass(frozen=True)
class Drive:
    """What drives the laws over one update, measured before it; float64, each [units].

    force: B(g, g); 0 for a linear reducer.
    defect: D = B(theta, g), or the sum of g for a linear one; 0 if the symmetry is perfect.
    momentum: None without momentum.
    """

    degree: Tensor
    force: Tensor
    defect: Tensor
    momentum: MomentumDrive | None = None


class Law(Protocol):
    """Predicts each unit's conserved quantity, update by update.

    The state is float64 [rows, units]; row 0 is the conserved quantity, further rows are what
    else the law carries along.
    """

    def start(self, conserved: Tensor, degree: Tensor) -> Tensor:
        """The state at step 0, from Q_0 [units]."""
        ...

    def advance(self, state: Tensor, drive: Drive, lr: float) -> Tensor:
        """The state one update with learning rate `lr` later."""
        ...
