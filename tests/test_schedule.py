"""Learning rates against torch.optim.lr_scheduler, and by hand."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from symrun.launch import compose
from symrun.schedule import learning_rates, times

STEPS = 40


def rates(*overrides):
    return learning_rates(compose(["optim.lr=0.1", *overrides]).optim, STEPS)


def torchs(scheduler, **settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = scheduler(optimizer, **settings)
    used = []
    for _ in range(STEPS):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(used)


def test_constant():
    assert (rates() == 0.1).all()


def test_multistep():
    ours = rates("optim.schedule=multistep", "optim.milestones=[0.5,0.75]", "optim.gamma=0.1")
    theirs = torchs(lr_scheduler.MultiStepLR, milestones=[20, 30], gamma=0.1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_a_milestone_between_two_updates_counts_from_the_later():
    (changes,) = np.nonzero(
        np.diff(rates("optim.schedule=multistep", "optim.milestones=[0.51]", "optim.gamma=0.5"))
    )
    assert changes.tolist() == [20]  # 0.51 * 40 = 20.4: update 21 is the first at the lower rate


@pytest.mark.parametrize("share", [0.07, 0.14, 0.55, 0.29, 0.57])
@pytest.mark.parametrize("steps", [100, 200, 39_100])
def test_shares_count_as_decimals_do(share, steps):
    """0.07 * 100 is 7.000000000000001 in floating point."""
    settings = [f"optim.milestones=[{share}]", "optim.gamma=0.1", "optim.schedule=multistep"]
    (last,) = np.nonzero(np.diff(learning_rates(compose(settings).optim, steps)))[0]
    assert last + 1 == Fraction(str(share)) * steps
    warm = compose([f"optim.warmup={share}", "optim.schedule=warmup_cosine"]).optim
    assert learning_rates(warm, steps).argmax() + 1 == Fraction(str(share)) * steps


def test_cosine():
    theirs = torchs(lr_scheduler.CosineAnnealingLR, T_max=STEPS)
    np.testing.assert_allclose(rates("optim.schedule=cosine"), theirs, rtol=1e-12)


def test_warmup_cosine():
    ours = rates("optim.schedule=warmup_cosine", "optim.warmup=0.1")
    np.testing.assert_allclose(ours[:4], [0.025, 0.05, 0.075, 0.1], rtol=1e-15)
    assert ours[4] == 0.1 and (np.diff(ours[4:]) < 0).all()
    assert ours[22] == pytest.approx(0.05) and (ours > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["cosine", "warmup_cosine"])
def test_short_runs(schedule, steps):
    warmup = ["optim.warmup=0.9"] if schedule == "warmup_cosine" else []
    used = learning_rates(compose([f"optim.schedule={schedule}", *warmup]).optim, steps)
    assert used.shape == (steps,) and (used > 0).all() and (used <= 0.1).all()


def test_time_is_the_sum_of_learning_rates_so_far():
    optim = compose(["optim.schedule=cosine"]).optim
    elapsed = times(optim, STEPS)
    assert elapsed.shape == (STEPS + 1,) and elapsed[0] == 0
    rates = learning_rates(optim, STEPS)  # of a sum of 2, a rounding is 4e-16
    np.testing.assert_allclose(np.diff(elapsed), rates, atol=1e-15)
