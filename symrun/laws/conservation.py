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


def steady_forcing(rates: Array, durations: Array, decay: float) -> Array:
    """The motion R that gradients of a constant norm cause: R' = -decay R + eta, from R(0) = 0.

    rates, durations: eta and the time that passes, for each update, [updates] -> [updates + 1].

    Assumes: eta constant over an update, for which the equation is then solved exactly.
    Source: law 1 with B(g, g) = 1.
    Example: steady_forcing(np.array([0.1]), np.array([0.1]), decay=0.0)   # [0, 0.01]
    """
    reached, motion = [0.0], 0.0
    kept = np.exp(-decay * durations)
    added = rates * (-np.expm1(-decay * durations) / decay if decay else durations)
    for share, more in zip(kept.tolist(), added.tolist(), strict=True):
        motion = share * motion + more
        reached.append(motion)
    return np.array(reached)
