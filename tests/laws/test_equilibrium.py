"""The equilibrium against random walks: gradients orthogonal to A, of a steady strength L."""

import numpy as np
import pytest
import torch

from symrun.laws.equilibrium import Equilibrium

UNITS, ENTRIES, L = 64, 32, 3.0


def walked(optimizer, updates, sampled, seed=0):
    """RMS angle of an update and mean |A|^2 over the last `sampled` updates, over all units.

    optimizer: makes one from the parameter A, [units, entries].
    """
    torch.manual_seed(seed)
    unit = torch.nn.Parameter(torch.randn(UNITS, ENTRIES, dtype=torch.float64) / ENTRIES**0.5)
    optimizer = optimizer([unit])
    angle_sq, norm_sq = [], []
    for update in range(updates):
        before = unit.detach().clone()
        noise = torch.randn_like(before)
        length_sq = before.square().sum(1, keepdim=True)
        noise -= before * (noise * before).sum(1, keepdim=True) / length_sq
        unit.grad = noise * (L / length_sq / noise.square().sum(1, keepdim=True)).sqrt()
        optimizer.step()
        if update >= updates - sampled:
            a, b = (x / x.norm(dim=1, keepdim=True) for x in (before, unit.detach()))
            angle = 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))
            angle_sq.append(angle.square().mean().item())
            norm_sq.append(length_sq.mean().item())
    return np.sqrt(np.mean(angle_sq)), np.mean(norm_sq)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.1},
        {"lr": 0.01, "momentum": 0.9},
        {"lr": 0.02, "momentum": 0.9, "dampening": 0.5},
        {"lr": 0.01, "momentum": 0.9, "nesterov": True},
        {"lr": 0.05, "momentum": 0.5, "nesterov": True},
    ],
)
def test_units_under_sgd_settle_at_the_predicted_angle_and_norm(settings):
    """a = 0.002: 1,000 updates are 8 relaxations. Sampling leaves 1 %; of |A|^2 momentum takes half
    of 2 a beta / (1 - beta^2), 1 % as well."""
    settings = settings | {"weight_decay": 0.02}
    predicted = Equilibrium.of_sgd(**settings)
    assert predicted.intrinsic_lr == pytest.approx(0.002)
    angle, norm_sq = walked(lambda units: torch.optim.SGD(units, **settings), 1200, 600)
    assert angle == pytest.approx(predicted.angle, rel=0.01)
    assert norm_sq == pytest.approx(predicted.norm_sq(np.array(L), ENTRIES), rel=0.02)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_units_under_adamw_settle_at_the_predicted_angle_and_norm(beta1):
    """a = 0.002: 2,000 updates are 8 relaxations. The mean over 1 / (1 - beta2) gradients holds the
    present one too, which takes up to 1 % off |A|^2, and momentum 2 a beta / (1 - beta^2): 2 %."""
    settings = {"lr": 0.01, "weight_decay": 0.2}
    predicted = Equilibrium.of_adamw(**settings, beta1=beta1)
    angle, norm_sq = walked(
        lambda units: torch.optim.AdamW(units, **settings, betas=(beta1, 0.99)), 2000, 1000
    )
    assert angle == pytest.approx(predicted.angle, rel=0.02)
    assert norm_sq == pytest.approx(predicted.norm_sq(np.array(L), ENTRIES), rel=0.04)


def settled(a):
    """Angle and relaxation, in updates, of SGD without momentum, whose |A|^2 needs no chance:
    |A|^2 -> (1 - a)^2 |A|^2 + eta^2 L / |A|^2. Solved for the fixed point, where cos = 1 - a."""
    kept = (1 - a) ** 2
    return np.arccos(1 - a), -1 / np.log(kept - (1 - kept))


def test_finite_steps_take_a_twelfth_of_a_off():
    """The angle is off by a / 12, the relaxation by 5/2 of an update."""
    for a in (1e-2, 1e-3, 1e-4):
        predicted = Equilibrium.of_sgd(lr=0.1, weight_decay=10 * a)
        angle, relaxation = settled(a)
        assert angle / predicted.angle - 1 == pytest.approx(a / 12, rel=0.01)
        assert relaxation == pytest.approx(predicted.relaxation, rel=3 * a)


def test_the_norm_relaxes_as_predicted():
    """From 1 % above the fixed point of the recursion, by 1/e in as many updates as predicted."""
    predicted = Equilibrium.of_sgd(lr=0.1, weight_decay=1e-2)
    norm_sq = 1.01 * predicted.norm_sq(np.array(L), ENTRIES)
    for _ in range(round(predicted.relaxation)):
        norm_sq = (1 - 1e-3) ** 2 * norm_sq + 0.1**2 * L / norm_sq
    left = norm_sq / predicted.norm_sq(np.array(L), ENTRIES) - 1
    assert left / 0.01 == pytest.approx(np.exp(-1), rel=0.1)


def test_a_schedule_has_an_equilibrium_at_each_record():
    lr = np.array([0.1, 0.01])
    predicted = Equilibrium.of_sgd(lr, 0.1)
    assert predicted.angle.tolist() == [Equilibrium.of_sgd(rate, 0.1).angle for rate in lr]
    assert predicted.norm_sq(np.ones((3, 2)), 5).shape == (3, 2)
    assert Equilibrium.of_adamw(lr, 0.1, 0.9).norm_sq(np.ones((3, 2)), 5).shape == (3, 2)
