"""Law 3, beyond the paper: the exact recursion of SGD's own update, without a continuous limit."""

from dataclasses import dataclass

from torch import Tensor

from symrun.laws.law import Drive


@dataclass(frozen=True)
class DiscreteLaw:
    """The update theta - eta (g + lambda theta), projected on the symmetry; s = 1 - eta lambda:

        linear      Q_{n+1} = s Q_n - eta D_n
        quadratic   Q_{n+1} = s^2 Q_n - 2 eta s D_n + eta^2 B(g, g)

    `with_defect` false sets D = 0: what a perfect symmetry predicts. True takes the measured D:
    then the law is an identity, which audits the measurement itself.

    Assumes: SGD without momentum.
    Error: with the defect, rounding; without, the accumulated 2 eta D (BatchNorm's eps, precision).
    Source: symrun; algebra on torch.optim.SGD's definition.
    Example: DiscreteLaw(weight_decay=1e-4, with_defect=True).advance(norms_sq, drive, lr=0.1)
    """

    weight_decay: float
    with_defect: bool

    def advance(self, conserved: Tensor, drive: Drive, lr: float) -> Tensor:
        shrink = 1 - lr * self.weight_decay
        following = shrink**drive.degree * conserved + lr**2 * drive.force
        if self.with_defect:
            following -= lr * drive.degree * shrink ** (drive.degree - 1) * drive.defect
        return following
