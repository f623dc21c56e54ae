"""Law 3, beyond the paper: the exact recursion of SGD's own update, without a continuous limit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.laws.law import SGD, require_forcing, unit_rows


@dataclass(frozen=True)
class DiscreteLaw:
    """The update of torch.optim.SGD, projected on the symmetry.

    With C_n = B(theta_n, b_{n-1}), C_0 = 0, for a quadratic reducer, or C_n the sum of b_{n-1} for
    a linear one, whose forcing is 0; alpha_0 = 0:

        B(theta_n, b_n) = beta C_n + (1 - alpha_n) (D_n + lambda Q_n)
        B(theta_n, u_n) = B(theta_n, b_n), or D_n + lambda Q_n + beta B(theta_n, b_n) with Nesterov
        Q_{n+1} = Q_n - k eta B(theta_n, u_n) + eta^2 B(u_n, u_n)
        C_{n+1} = B(theta_n, b_n) - eta B(u_n, b_n)

    Without momentum C drops out and B(u, u) follows from the gradient; s = 1 - eta lambda:

        Q_{n+1} = s^k Q_n - k eta s^{k-1} D_n + eta^2 B(g, g)

    `with_defect` false sets D = 0, or to the source h S of homogeneity: what a perfect symmetry
    predicts. True takes the measured D: then the law is an identity, which audits the measurement
    itself.

    Assumes: torch.optim.SGD; any schedule, momentum, dampening, Nesterov.
    Error: with the defect, rounding; without, what k eta times the defect adds up to (BatchNorm's
    eps, precision).
    Source: symrun; algebra on torch.optim.SGD's definition.
    Example: DiscreteLaw(SGD(weight_decay=1e-4), with_defect=True).matrix(2, lr=0.1, first=False)
    """

    sgd: SGD
    with_defect: bool

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        """Rows Q and, with momentum, C."""
        if self.sgd.momentum == 0:
            return conserved[None].clone()
        return torch.stack([conserved, torch.zeros_like(conserved) if carried is None else carried])

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        require_forcing(degree)
        if self.sgd.momentum:
            return self._matrix_with_momentum(degree, lr, first)
        conserved, force, defect, source = unit_rows(1, momentum=False)
        shrink = 1 - lr * self.sgd.weight_decay
        pull = defect if self.with_defect else source
        following = shrink**degree * conserved + lr**2 * force
        return (following - lr * degree * shrink ** (degree - 1) * pull)[None]

    def _matrix_with_momentum(self, degree: int, lr: float, first: bool) -> Tensor:
        sgd = self.sgd
        conserved, projected, _, defect, source, update_sq, cross = unit_rows(2, momentum=True)
        pull = sgd.weight_decay * conserved + (defect if self.with_defect else source)
        dampening = 0.0 if first else sgd.dampening
        buffer = sgd.momentum * projected + (1 - dampening) * pull
        update = pull + sgd.momentum * buffer if sgd.nesterov else buffer
        return torch.stack(
            [conserved - lr * degree * update + lr**2 * update_sq, buffer - lr * cross]
        )
