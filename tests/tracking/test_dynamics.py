"""Effective learning rate and angle of real updates, against vectors that were normalised."""

import math

import pytest
import torch

from symrun.tracking.dynamics import dynamics


def brute_force(before, after):
    """The angle between rows, as Kahan takes it: 2 atan2(|a - b|, |a + b|) of unit vectors."""
    a, b = (rows / rows.norm(dim=1, keepdim=True) for rows in (before, after))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def sums(before, after):
    step = before - after
    return [(x * y).sum(1) for x, y in ((before, before), (before, step), (step, step))]


@pytest.mark.parametrize("lr", [1.0, 1e-2, 1e-6])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_angle_is_that_of_the_update_of_a_real_network(kind, lr):
    """For updates of every size, down to those of 1e-8 of a unit."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(6 * 36, 4),
    ).double()  # fmt: skip
    optimizer = kind(net.parameters(), lr=lr, weight_decay=0.01)
    images, labels = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 4
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        before = net[0].weight.detach().flatten(1).clone()
        optimizer.step()
        after = net[0].weight.detach().flatten(1)
        found = dynamics(*sums(before, after), lr, torch.ones(6, dtype=torch.bool))
        expected = brute_force(before, after)
        # The reference rounds its unit vectors, and that is what is left at small angles
        torch.testing.assert_close(found["angle"], expected, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found["effective_lr"], lr / before.square().sum(1))


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-3, 1.0, 3.0, math.pi])
def test_angles_of_every_size_are_found(angle):
    """The cosine of the smallest of these is 1."""
    before = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    step = 2 * torch.tensor([[2 * math.sin(angle / 2) ** 2, -math.sin(angle)]])
    norm_sq, projection = before.square().sum(1), (before * step).sum(1)
    found = dynamics(norm_sq, projection, step.square().sum(1), 0.1, torch.tensor([True]))
    assert found["angle"].item() == pytest.approx(angle, rel=1e-7)


def test_only_units_of_scale_have_them():
    three = torch.ones(3, dtype=torch.float64)
    lr = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    found = dynamics(4 * three, 0 * three, three, lr, torch.tensor([True, False, True]))
    assert found["effective_lr"].isnan().tolist() == [False, True, False]
    assert found["effective_lr"][2].item() == pytest.approx(0.3 / 4)
    assert found["angle"].isnan().tolist() == [False, True, False]
    assert found["angle"][0].item() == pytest.approx(math.atan2(1, 2))


def test_a_step_along_the_unit_turns_it_by_no_more_than_rounding():
    before = torch.randn(50, 100, dtype=torch.float64)
    found = dynamics(*sums(before, 0.99 * before), 0.1, torch.ones(50, dtype=torch.bool))
    assert found["angle"].max() < 1e-8
