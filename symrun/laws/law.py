"""What a law is: a float64 matrix that takes a unit's state over one update.

Legend, here and in the other files of this folder:

    Q        conserved quantity of a unit: sum of theta, or B(theta, theta)
    B(x, y)  the unit's reducer: sum of sign * x * y
    degree   k with Q(c theta) = c^k Q(theta): 1 for translation, 2 for scale and rescale
    g        gradient of the loss, without weight decay
    D        B(theta, g), or the sum of g for a linear reducer. A perfect symmetry makes it 0, and
             homogeneity h S, where e^(s h) is what e^(s a) on theta makes of the outputs z, and S
             the sum of z dl/dz over them, the source
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
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class SGD:
    """The settings of torch.optim.SGD that laws depend on; the learning rate may change."""

    weight_decay: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False


class Input(IntEnum):
    """The inputs of the laws at update n, measured before it: float64 rows [units] in this order.

    force: B(g, g). defect: D, which a perfect symmetry makes 0, and homogeneity h S. source: h S,
    measured at the outputs; 0 but for homogeneity. update_sq: B(u, u) and cross: B(u, b), with
    momentum only. For a linear reducer, which has no terms of second order, all but the defect are
    0.
    """

    force = 0
    defect = 1
    source = 2
    update_sq = 3
    cross = 4

    @classmethod
    def count(cls, momentum: bool) -> int:
        return len(cls) if momentum else cls.update_sq.value


class Law(Protocol):
    """Predicts each unit's conserved quantity, update by update.

    The state is float64 [rows, units]. Row 0 is the conserved quantity; a law may add more rows.
    """

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        """The state at step 0, from Q_0 and the degrees, both [units].

        carried: B(theta_0, b_{-1}), or the sum of b_{-1}, of momentum from before step 0; None
        where the optimiser makes its first update.
        """
        ...

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        """The matrix whose product with [state; inputs] is the state one update later.

        first: whether it is update 0, whose b is d. Returns float64 [rows, rows + inputs] on the
        CPU. Error: ValueError for a degree for which the law does not hold.
        """
        ...


def unit_rows(rows: int, momentum: bool) -> tuple[Tensor, ...]:
    """The unit matrix, row by row: first those of the state, then those of the inputs.

    Sums of them make a law's matrix, just as sums of state and inputs make its equation.
    Example: conserved, force, defect, source = unit_rows(1, momentum=False)
    """
    return torch.eye(rows + Input.count(momentum), dtype=torch.float64).unbind()


def require_forcing(degree: int) -> None:
    """Refuse a quantity of a degree for which no input holds the forcing.

    An update adds eta^2 / 2 times u H u to Q, where H, the Hessian of Q, depends on theta from
    degree 3 on; terms of higher order follow. Error: ValueError unless `degree` is 1 or 2.
    """
    if degree not in (1, 2):
        raise ValueError(f"laws are known for quantities of degree 1 and 2, got degree {degree}")
