"""Law 2, the paper's with momentum: a driven, damped harmonic oscillator."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from symrun.laws.law import SGD, Drive


@dataclass(frozen=True)
class Oscillator:
    """Q'' + 2 gamma Q' + omega^2 Q = 2 B(theta', theta'), in time t = sum of h.

        h = eta (1 - alpha)
        gamma = (1 - beta) / (h (1 + beta)),   omega^2 = 2 k lambda / (h (1 + beta))
        theta' = -b / (1 - alpha), constant over an update; for a linear reducer no forcing

    The loss pulls with inertia: weight decay is the spring, momentum the mass. Under-, over- and
    critically damped motion all occur; one propagator, the exponential of the equation's matrix
    over a step, serves them all and exactly so, without a growing exponential.

    Q'(0) = -k lambda Q(0) (1 + alpha) / ((1 + beta) (1 - alpha)). The equation holds once theta
    moves smoothly; in the first 1 / (1 - beta) updates it does not, and to leave them with the
    right Q the start has to lose as much of the way as SGD does while its momentum builds up.
    The paper starts at rest, Q'(0) = 0, and without dampening is half an update late from then on:
    off by k a / 2 relative to Q, where a = eta lambda / (1 - beta) is the decay of theta an update.

    Assumes: a perfect symmetry; theta' smooth over an update, which Nesterov's look-ahead is not.
    Error: against SGD at fixed t, relative to Q: O(a^2); under forcing a lag of
    (1 - beta) / (2 (1 + beta)) of an update, 0.026 at beta = 0.9.
    Source: Kunin et al. 2021, section 6 and appendix; the initial velocity: symrun.
    Example: Oscillator(SGD(weight_decay=1e-4, momentum=0.9)).advance(state, drive, lr=0.1)
    """

    sgd: SGD

    def start(self, conserved: Tensor, degree: Tensor) -> Tensor:
        """Rows Q and Q'."""
        sgd = self.sgd
        share = (1 + sgd.dampening) / ((1 + sgd.momentum) * (1 - sgd.dampening))
        return torch.stack([conserved, -share * sgd.weight_decay * degree * conserved])

    def advance(self, state: Tensor, drive: Drive, lr: float) -> Tensor:
        assert drive.momentum is not None, "the oscillator is the law of SGD with momentum"
        undamped = 1 - self.sgd.dampening
        force = 2 * drive.momentum.force / undamped**2
        linear, quadratic = (
            self._propagated(degree, state, force, lr * undamped) for degree in (1, 2)
        )
        return torch.where(drive.degree == 1, linear, quadratic)

    def _propagated(self, degree: int, state: Tensor, force: Tensor, h: float) -> Tensor:
        (xx, xv, xf), (vx, vv, vf), _ = _propagator(self.sgd, degree, h)
        conserved, velocity = state[0], h * state[1]
        force = h**2 * force
        return torch.stack(
            [
                xx * conserved + xv * velocity + xf * force,
                (vx * conserved + vv * velocity + vf * force) / h,
            ]
        )


@lru_cache(maxsize=64)
def _propagator(sgd: SGD, degree: int, h: float) -> list[list[float]]:
    """(Q, h Q', h^2 F) one step of length h later, F the constant forcing; 3 x 3, row by row."""
    spring = 2 * degree * sgd.weight_decay * h / (1 + sgd.momentum)  # (omega h)^2
    friction = 2 * (1 - sgd.momentum) / (1 + sgd.momentum)  # 2 gamma h
    generator = [[0, 1, 0], [-spring, -friction, 1], [0, 0, 0]]
    exponential = torch.matrix_exp(torch.tensor(generator, dtype=torch.float64))
    return exponential.tolist()
