"""Effective learning rate and angle of real updates, against vectors that were normalised."""

import math

import numpy as np
import pytest
import torch

from symrun.laws import SGD, ObservedUpdate, laws_of_sgd
from symrun.runs.tables import DYNAMICS
from symrun.symmetry import find_structure
from symrun.tracking import Tracker
from symrun.tracking.dynamics import dynamics


def brute_force(before, after):
    """The angle between rows, as Kahan takes it: 2 atan2(|a - b|, |a + b|) of unit vectors."""
    a, b = (rows / rows.norm(dim=1, keepdim=True) for rows in (before, after))
    return 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))


def network():
    """Scale in the convolution, rescale behind it, translation at the end."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(6 * 36, 4),
    ).double()  # fmt: skip


def sums(before, after):
    step = before - after
    return [(x * y).sum(1) for x, y in ((before, before), (before, step), (step, step))]


@pytest.mark.parametrize("lr", [1.0, 1e-2, 1e-6])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_the_angle_is_that_of_the_update_of_a_real_network(kind, lr):
    """For updates of every size, down to those of 1e-8 of a unit."""
    net = network()
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


class Sink(list):
    """The tables of units, in memory."""

    def put(self, table, record, size_bytes=0):
        if table == "units":
            self.append(record().to_pandas())


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1)


def sgd(**settings):
    return lambda parameters: torch.optim.SGD(parameters, lr=0.02, weight_decay=0.1, **settings)


@pytest.mark.parametrize(
    ("optimizer_of", "laws"),
    [
        (sgd(), laws_of_sgd(SGD(0.1))[0]),
        (sgd(momentum=0.9), laws_of_sgd(SGD(0.1, 0.9))[0]),
        (sgd(momentum=0.9, nesterov=True), laws_of_sgd(SGD(0.1, 0.9, nesterov=True))[0]),
        (adamw, {"exact": ObservedUpdate(0.1)}),
    ],
    ids=["sgd", "momentum", "nesterov", "adamw"],
)
def test_the_tracker_records_the_angle_of_each_update(optimizer_of, laws):
    """Whether the update is known or observed. The sums are float64, the angles about 1e-2."""
    net = network()
    optimizer, loss = optimizer_of(net.parameters()), torch.nn.functional.cross_entropy
    images, labels = torch.randn(8, 3, 8, 8, dtype=torch.float64), torch.arange(8) % 4
    structure = find_structure(net, images, lambda logits: loss(logits, labels))
    sink = Sink()
    tracker = Tracker(net, optimizer, structure, laws, sink, 1, sample=0, seed=0, more=DYNAMICS)
    filters = [unit_of(net)]
    for step in range(5):
        optimizer.zero_grad()
        loss(net(images), labels).backward()
        tracker.before_update(step, lr=0.02)
        optimizer.step()
        tracker.after_update()
        filters.append(unit_of(net))
    tracker.finish(5)
    for before, after, units in zip(filters[:-1], filters[1:], sink[:-1], strict=True):
        scale = units[units["symmetry"] == "scale"]
        expected = brute_force(before, after)
        np.testing.assert_allclose(scale["angle"], expected, rtol=1e-9)
        np.testing.assert_allclose(scale["effective_lr"], 0.02 / before.square().sum(1))
        others = units[units["symmetry"] != "scale"]
        assert len(others) and others[list(DYNAMICS)].isna().all(axis=None)
    assert sink[-1][list(DYNAMICS)].isna().all(axis=None)


def unit_of(net):
    """The filters of the convolution, each with its bias."""
    return torch.cat([net[0].weight.flatten(1), net[0].bias[:, None]], 1).detach().clone()
