"""Where weight decay and gradients balance: the norm and the angle that a unit of scale settles at.

A gradient is orthogonal to a unit A of scale, so updates lengthen A and weight decay shortens it.
Once both cancel, A goes on turning at an angle that the settings of the optimiser decide alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Equilibrium:
    """What a unit A of scale settles at, if its gradients are noise of a steady strength.

    With a = eta lambda, the intrinsic learning rate, and L = E |g|^2 |A|^2, which is the squared
    gradient that A would have at norm 1:

        RMS angle of an update      sqrt(2 a mixing)
        |A|^2                       sqrt(eta L / (2 lambda)); for Adam eta entries / (2 lambda)
        relaxation, in updates      1 / (4 a), of |A|^4;      for Adam 1 / (2 a), of |A|^2

    lr: eta, how far the optimiser moves along one gradient in all updates together, [] or
    [records]; momentum makes it lr (1 - alpha) / (1 - beta). mixing: sum of w^2 / (sum of w)^2 over
    the weights w with which an update averages past gradients; 1 without momentum. adaptive:
    whether each entry of the gradient is divided by its RMS, as in Adam, so that each adds 1 to
    |u|^2.

    Assumes: a perfect symmetry; gradients that are independent of each other and whose L is steady
    for longer than the relaxation; lr and weight decay > 0; for Adam also decoupled weight decay.
    Error: a / 12 of the angle, from finite steps. Momentum takes a beta / (1 - beta^2) off |A|^2,
    for Adam twice as much. On networks mostly 1 to 5 % of a layer's angle where L is steady;
    docs/accuracy.md has what was measured, and the cases where L is not steady.
    Source: Wan et al. 2020 (arXiv 2006.08419) for SGD with and without momentum; Kosson et al. 2023
    (arXiv 2305.17212) for AdamW; Li, Lyu and Arora 2020 (arXiv 2010.02916) for the intrinsic
    learning rate. Nesterov and dampening: symrun, by the same sums over w.
    Example: Equilibrium.of_sgd(lr=0.1, weight_decay=5e-4, momentum=0.9).angle   # 0.0073
    """

    lr: float | Array
    weight_decay: float
    mixing: float
    adaptive: bool = False

    @classmethod
    def of_sgd(
        cls,
        lr: float | Array,
        weight_decay: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
    ) -> "Equilibrium":
        """Of torch.optim.SGD: w_k = beta^k, or with Nesterov w_0 = 1 + beta, w_k = beta^(k+1).

        Momentum builds up over 1 / (1 - beta) updates, in which none of this holds.
        """
        mixing = (1 - momentum) / (1 + momentum)
        if nesterov:
            mixing *= 1 + 2 * momentum - 2 * momentum**3
        return cls(lr * ((1 - dampening) / (1 - momentum)), weight_decay, mixing)

    @classmethod
    def of_adamw(cls, lr: float | Array, weight_decay: float, beta1: float) -> "Equilibrium":
        """Of torch.optim.AdamW: w_k = (1 - beta1) beta1^k. beta2 and eps have no part in it.

        It does not describe Adam with weight decay in the gradient: there the settings alone decide
        nothing, since the decay of each entry depends on the RMS of that entry's gradient.
        """
        return cls(lr, weight_decay, (1 - beta1) / (1 + beta1), adaptive=True)

    @property
    def intrinsic_lr(self) -> float | Array:
        """The share of A that weight decay takes off in an update, once momentum has built up."""
        return self.lr * self.weight_decay

    @property
    def angle(self) -> float | Array:
        """The root mean square of the angle, in radians, by which an update turns A."""
        angle: float | Array = np.sqrt(2 * self.mixing * self.intrinsic_lr)
        return angle

    @property
    def relaxation(self) -> float | Array:
        """The updates in which the distance from equilibrium falls to 1/e."""
        return 1 / ((2 if self.adaptive else 4) * self.intrinsic_lr)

    def norm_sq(self, intrinsic_grad_sq: Array, entries: int) -> Array:
        """|A|^2. intrinsic_grad_sq: L, of any shape that lr broadcasts to; entries: those of A."""
        reach = np.asarray(self.lr / (2 * self.weight_decay))
        if self.adaptive:
            return np.broadcast_to(reach * entries, intrinsic_grad_sq.shape)
        norm_sq: Array = np.sqrt(reach * intrinsic_grad_sq)
        return norm_sq
