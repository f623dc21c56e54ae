"""Law 2, the paper's with momentum: a driven, damped harmonic oscillator."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.laws.law import SGD, require_forcing, unit_rows


@dataclass(frozen=True)
class Oscillator:
    """Q'' + 2 gamma Q' + omega^2 Q = 2 B(theta', theta') - 2 k D / (h (1 + beta)), in time t = sum
    of h.

        h = eta (1 - alpha)
        gamma = (1 - beta) / (h (1 + beta)),   omega^2 = 2 k lambda / (h (1 + beta))
        theta' = -b / (1 - alpha), constant over an update; for a linear reducer no forcing
        D: 0, or the source of homogeneity, constant over an update

    The loss pulls with inertia: weight decay is the spring, momentum the mass. Under-, over- and
    critically damped motion all occur; one propagator, the exponential of the equation's matrix
    over a step, serves them all and exactly so, without a growing exponential.

    The paper starts at rest, Q'(0) = 0. `corrected` takes three terms of the next order in h:

    -   Q'(0) = -k lambda Q(0) (1 + alpha) / ((1 + beta) (1 - alpha)). While momentum builds up,
        for 1 / (1 - beta) updates, theta does not move smoothly and the equation does not hold; to
        leave them with the right Q, the start has to lose as much of the way as SGD loses. From
        rest and without dampening the law is half an update late from then on.
    -   The forcing acts (1 - beta) / (2 (1 + beta)) of an update earlier. The equation of motion
        for theta goes on with (1 - beta) h^2 / 6 times its third derivative, whose projection on
        the symmetry shifts B(theta', theta') by this much; without it the law lags behind.
    -   A source acts log((1 + beta) / (2 beta)) / (2 gamma) earlier, which is about half an update,
        so that under a steady one the law is where SGD is. Dampening makes that of the first update
        1 / (1 - alpha) times as strong.

    Where momentum changes between updates, that of update n acts from the middle of the update
    before it to the middle of its own. `momentum_before`, that of the update before, makes up for
    the half in which the equation had it instead.

    Assumes: a perfect symmetry; theta' smooth over an update, which Nesterov's look-ahead is not.
    Error: against SGD at fixed t, relative to Q, where a = eta lambda / (1 - beta) is the decay of
    theta in an update: k a / 2 without dampening, `corrected` O(a^2). Under steady forcing the lag
    above, 0.026 of an update at beta = 0.9; `corrected` less than 1 - beta of that.
    Source: Kunin et al. 2021, section 6 and appendix; `corrected`: symrun.
    Example: Oscillator(SGD(weight_decay=1e-4, momentum=0.9)).matrix(2, lr=0.1, first=False)
    """

    sgd: SGD
    corrected: bool = False
    momentum_before: float | None = None

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        """Rows Q and Q'. With momentum from before, Q' was -k C / (1 - alpha) half an update ago,
        and the equation without its forcing, which is in C already, takes it from there."""
        sgd = self.sgd
        if carried is not None:
            velocity = -degree * carried / (1 - sgd.dampening)
            pull = sgd.weight_decay * degree * conserved
            velocity = (2 * sgd.momentum * velocity - pull) / (1 + sgd.momentum)
            return torch.stack([conserved, velocity])
        if not self.corrected:
            return torch.stack([conserved, torch.zeros_like(conserved)])
        share = (1 + sgd.dampening) / ((1 + sgd.momentum) * (1 - sgd.dampening))
        return torch.stack([conserved, -share * sgd.weight_decay * degree * conserved])

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        require_forcing(degree)
        undamped = 1 - self.sgd.dampening
        h = lr * undamped
        conserved, velocity, _, _, source, update_sq, _ = unit_rows(2, momentum=True)
        if h == 0:  # no time passes
            return torch.stack([conserved, velocity])
        force = 2 * update_sq / undamped**2
        drive = -2 * degree / (h * (1 + self.sgd.momentum)) * source
        if first and self.corrected:
            drive = drive / undamped
        if self.momentum_before is not None:
            now = self._pull(degree, h, self.sgd.momentum)
            before = self._pull(degree, h, self.momentum_before)
            spring, friction = (one - other for one, other in zip(now, before, strict=True))
            velocity = velocity - (spring / h * conserved + friction * velocity) / 2
        scaled = torch.stack([conserved, h * velocity, h**2 * force, h**2 * drive])
        conserved, velocity = self._propagator(degree, h) @ scaled
        return torch.stack([conserved, velocity / h])

    def _propagator(self, degree: int, h: float) -> Tensor:
        """(Q, h Q') one step of length h later from (Q, h Q', h^2 F, h^2 G), the constant F being
        what B(theta', theta') forces and G what the source does."""
        beta = self.sgd.momentum
        spring, friction = self._pull(degree, h, beta)
        rows = [[0, 1, 0], [-spring, -friction, 1], [0, 0, 0]]
        generator = torch.tensor(rows, dtype=torch.float64)
        propagator = torch.matrix_exp(generator)[:2]
        forced = propagator[:, 2:].expand(2, 2)
        if self.corrected:
            # Forced earlier, by these shares of h, and moved on without force since then
            forced = torch.cat([
                torch.matrix_exp(share * generator)[:2, :2] @ propagator[:, 2:]
                for share in (friction / 4, -math.log(2 * beta / (1 + beta)) / friction)
            ], 1)  # fmt: skip
        return torch.cat([propagator[:, :2], forced], 1)

    def _pull(self, degree: int, h: float, momentum: float) -> tuple[float, float]:
        """(omega h)^2 and 2 gamma h."""
        spring = 2 * degree * self.sgd.weight_decay * h / (1 + momentum)
        return spring, 2 * (1 - momentum) / (1 + momentum)
