"""What a prediction is held against, where no settings tell the schedule ahead of the run."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.laws.law import unit_rows


@dataclass(frozen=True)
class DecayAlone:
    """The quantity under gradient flow, where weight decay alone changes it: Q' = -k lambda Q.

    rate: of the flow's time to the sum of learning rates, (1 - alpha) / (1 - beta) with momentum.
    stepwise: the decay of an optimiser that multiplies theta by 1 - eta lambda at each update.

    Assumes: a perfect symmetry.
    Error: none.
    Source: as `gradient_flow`, which needs the whole schedule.
    Example: DecayAlone(weight_decay=1e-4).matrix(degree=2, lr=0.1, first=False)
    """

    weight_decay: float
    rate: float = 1.0
    stepwise: bool = False

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        return conserved[None].clone()

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        conserved, *_ = unit_rows(1, momentum=False)
        decay = lr * self.weight_decay
        kept = (1 - decay) ** degree if self.stepwise else math.exp(-degree * self.rate * decay)
        return (kept * conserved)[None]


@dataclass(frozen=True)
class SteadyForcing:
    """The motion that gradients of a constant norm cause, as in `steady_forcing`: R' = -r R + eta,
    r = 2 lambda, from R(0) = 0. A second row of the state is the constant 1.

    Assumes: eta constant over an update.
    Error: none.
    Source: law 1 with B(g, g) = 1.
    Example: SteadyForcing(weight_decay=0.0).matrix(degree=2, lr=0.1, first=False)
    """

    weight_decay: float
    rate: float = 1.0

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        return torch.stack([torch.zeros_like(conserved), torch.ones_like(conserved)])

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        motion, one, *_ = unit_rows(2, momentum=False)
        decay, duration = 2 * self.weight_decay, self.rate * lr
        kept = math.exp(-decay * duration)
        lasting = -math.expm1(-decay * duration) / decay if decay else duration
        return torch.stack([kept * motion + lr * lasting * one, one])
