"""The learning rate of every update of a run, and the time that passes with it."""

import math

import numpy as np
from numpy.typing import NDArray

from symrun.optimizers import OptimConfig, Schedule

Array = NDArray[np.float64]


def learning_rates(optim: OptimConfig, steps: int) -> Array:
    """eta_n of each update of a run of `steps` updates, [steps], all > 0.

        constant        lr
        multistep       lr gamma^m, m the milestones passed: milestone * steps <= n
        cosine          lr (1 + cos(pi n / steps)) / 2
        warmup_cosine   lr (n + 1) / w for n < w = warmup * steps, rounded up;
                        then cosine over the other steps

    Source: Loshchilov and Hutter 2017 for the cosine; torch.optim.lr_scheduler for multistep.
    Example: learning_rates(config.optim, 100).sum()
    """
    step = np.arange(steps, dtype=np.float64)
    if optim.schedule is Schedule.multistep:
        assert optim.milestones is not None and optim.gamma is not None
        passed = step[:, None] >= [_updates(share, steps) for share in optim.milestones]
        rates: Array = optim.lr * optim.gamma ** passed.sum(axis=1)
        return rates
    if optim.schedule is Schedule.constant:
        return np.full(steps, optim.lr)
    warmup = 0 if optim.warmup is None else _updates(optim.warmup, steps)
    cosine = (1 + np.cos(np.pi * (step - warmup) / max(steps - warmup, 1))) / 2
    return optim.lr * np.where(step < warmup, (step + 1) / max(warmup, 1), cosine)


def times(optim: OptimConfig, steps: int) -> Array:
    """t_n, the sum of the learning rates before update n, for n from 0 to `steps`."""
    return np.concatenate([[0.0], np.cumsum(learning_rates(optim, steps))])


def _updates(share: float, steps: int) -> int:
    """share * steps, rounded up; 0.07 of 100 is 7, where the product is 7.000000000000001."""
    return math.ceil(round(share * steps, 9))
