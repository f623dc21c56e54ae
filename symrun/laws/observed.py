"""The update itself, whatever optimiser made it: an identity, from the weights before and after."""

from dataclasses import dataclass

from torch import Tensor

from symrun.laws.law import require_forcing, unit_rows


@dataclass(frozen=True)
class ObservedUpdate:
    """What a step w_n = theta_n - theta_{n+1} does to the quantity, an identity:

        Q_{n+1} = Q_n - k B(theta_n, w_n) + B(w_n, w_n)

    In the inputs, B(theta, w) stands in the place of the defect (the sum of w for a linear reducer)
    and B(w, w) in that of the force, both measured once the step is made; a source has no part in
    it. The law holds for every optimiser and predicts nothing; it audits that nothing else moves
    the weights.

    decay: the weight decay of an optimiser that multiplies theta by s = 1 - eta decay beside its
    step u. It changes nothing here, but what the tables call u.

    Assumes: nothing.
    Error: rounding of float64 sums.
    Source: symrun.
    Example: ObservedUpdate().matrix(degree=2, lr=0.1, first=False)
    """

    decay: float = 0.0

    def start(self, conserved: Tensor, degree: Tensor, carried: Tensor | None = None) -> Tensor:
        return conserved[None].clone()

    def matrix(self, degree: int, lr: float, first: bool) -> Tensor:
        require_forcing(degree)
        conserved, force, defect, _ = unit_rows(1, momentum=False)
        return (conserved - degree * defect + force)[None]
