"""Law 1, the paper's: modified gradient flow, the black dashed lines of its Fig. 5."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.laws.law import Drive


@dataclass(frozen=True)
class ModifiedFlow:
    """Q' = -k lambda Q + eta B(g, g), in time t = sum of learning rates.

    Finite steps drive Q through the gradient's norm; to a linear reducer they do nothing. Over
    an update B(g, g) is constant and the equation is solved exactly:

        Q(t + eta) = e^{-r eta} Q(t) + eta * (1 - e^{-r eta}) / r * B(g, g),   r = k lambda

    Assumes: a perfect symmetry; SGD without momentum.
    Error: O(eta^2 lambda) an update relative to Q; none at lambda = 0 beside rounding.
    Source: Kunin et al. 2021, section 5.
    Example: ModifiedFlow(weight_decay=1e-4).advance(norms_sq, drive, lr=0.1)
    """

    weight_decay: float

    def advance(self, conserved: Tensor, drive: Drive, lr: float) -> Tensor:
        if self.weight_decay == 0:
            return conserved + lr**2 * drive.force
        rate = drive.degree * self.weight_decay
        # expm1, since 1 - e^{-r eta} would cancel at the small decays that are in use
        duration = -torch.expm1(-rate * lr) / rate
        return torch.exp(-rate * lr) * conserved + lr * duration * drive.force
