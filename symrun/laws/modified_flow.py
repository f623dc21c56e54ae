"""Law 1, the paper's: modified gradient flow, the black dashed lines of its Fig. 5."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.laws.law import require_forcing, unit_rows


@dataclass(frozen=True)
class ModifiedFlow:
    """Q' = -r Q + eta B(g, g) - k D, in time t = sum of learning rates; r = k lambda.

    Finite steps drive Q through the gradient's norm; to a linear reducer they do nothing. Over
    an update B(g, g) and D are constant and the equation is solved exactly:

        Q(t + eta) = e^{-r eta} Q(t) + (1 - e^{-r eta}) / r * (eta B(g, g) - k D)

    D is 0, or the source h S of homogeneity. That of before the update is the right one: modified
    flow feels it half an update late.

    `corrected` takes the decay that modified flow has to the next order in eta, where the law of
    the paper drops it: r = k (lambda + eta lambda^2 / 2), since SGD shrinks theta by
    1 - eta lambda = e^{-eta (lambda + eta lambda^2 / 2 + ...)} in a step.

    Assumes: a perfect symmetry; SGD without momentum.
    Error: against SGD at fixed t, relative to Q: eta lambda^2 t k / 2 from the decay, to which
    `corrected` leaves eta^2 lambda^3 t k / 3; relative to the forced motion eta lambda, in both.
    None at lambda = 0 beside rounding.
    Source: Kunin et al. 2021, section 5; `corrected`: the rate of their code's phase portrait.
    Example: ModifiedFlow(weight_decay=1e-4).matrix(degree=2, lr=0.1, first=False)
    """

    weight_decay: float
    corrected: bool = False

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        return conserved[None].clone()

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        require_forcing(degree)
        conserved, force, _, source = unit_rows(1, momentum=False)
        decay = self.weight_decay
        if decay == 0:
            return (conserved + lr**2 * force - lr * degree * source)[None]
        if self.corrected:
            decay += lr * decay**2 / 2
        rate = torch.tensor(degree * decay, dtype=torch.float64)
        # expm1, since 1 - e^{-r eta} would cancel at the small decays that are in use
        duration = -torch.expm1(-rate * lr) / rate
        driven = duration * (lr * force - degree * source)
        return (torch.exp(-rate * lr) * conserved + driven)[None]
