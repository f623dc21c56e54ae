"""Gradient flow with weight decay conserves Q up to an exponential: Q(t) = e^{-k lambda t} Q(0)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gradient_flow(initial: Array, times: Array, degree: int, weight_decay: float) -> Array:
    """The conserved quantity under gradient flow, the baseline that discretisation breaks.

    initial [units], times [records] (t = sum of learning rates) -> [records, units]

    Assumes: a perfect symmetry, infinitesimal steps.
    Error: against SGD without momentum, O(eta) at fixed t.
    Source: Kunin et al. 2021, section 4.
    Example: gradient_flow(np.array([2.0]), np.array([0.0, 1.0]), degree=2, weight_decay=0.1)
    """
    return np.exp(-degree * weight_decay * times)[:, None] * initial
