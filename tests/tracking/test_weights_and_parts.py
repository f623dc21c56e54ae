"""Symmetries that need weights, parts, or rows and columns of one parameter: true ones, trained.

No search finds these groups here. They are written down from the networks, so that constraints
that hold to rounding, and laws that hold through 50 updates, prove both the sums and the units.
"""

import dataclasses

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.constraints import hessian_constraints
from symrun.laws import SGD, laws_of_sgd
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.symmetry import Group, Structure, Symmetry, columns, rows
from symrun.tracking import Tracker

STEPS, LR, CLASSES = 50, 0.05, 4
OPTIMISERS = {
    "plain": SGD(1e-2),
    "momentum": SGD(1e-2, momentum=0.9),
    "dampening": SGD(1e-2, momentum=0.9, dampening=0.5),
    "nesterov": SGD(1e-2, momentum=0.9, nesterov=True),
}
ROUNDING = 1e-12
"""A few thousand float64 roundings: sums of up to 300 terms, 50 updates of a dozen operations."""


class Power(nn.Module):
    """ReLU to the power of `degree`, which is its degree of homogeneity."""

    def __init__(self, degree):
        super().__init__()
        self.degree = degree

    def forward(self, values):
        return F.relu(values) ** self.degree


class Stream(nn.Module):
    """A residual stream, which one linear layer reads and writes."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Linear(12, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, values):
        stream = self.embed(values.flatten(1))
        return self.head(F.relu(stream + self.mix(stream)))


def rescale(name, *members):
    return Group(Symmetry.rescale, name, (), members)


def homogeneous(degree, weight=None):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), Power(degree), nn.Linear(8, CLASSES))
    return model, [
        rescale(
            "1 -> 3",
            rows("1.weight", (8, 12)),
            rows("1.bias", (8,)),
            columns("3.weight", (CLASSES, 8), 8, weight or -degree),
        )
    ]


def grouped():
    """Convolutions of 4, 12 and again 12 groups, the last two of one input channel each."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, (1, 2), padding=(0, 1), groups=4),
        nn.ReLU(),
        nn.Conv2d(12, 12, 2, padding=1, groups=12),
        nn.ReLU(),
        nn.Conv2d(12, 24, 1, groups=12),
        nn.Flatten(),
        nn.Linear(24 * 12, CLASSES),
    )
    groups = [
        rescale(
            f"{giver} -> {taker}",
            rows(f"{giver}.weight", model[giver].weight.shape, -1),
            rows(f"{giver}.bias", model[giver].bias.shape, -1),
            columns(f"{taker}.weight", model[taker].weight.shape, len(model[giver].bias),
                    parts=model[taker].groups),
        )
        for giver, taker in ((0, 2), (2, 4), (4, 6))
    ]  # fmt: skip
    return model, groups


def stream():
    square = ("mix.weight", (5, 5))
    return Stream(), [
        rescale(
            "stream",
            rows("embed.weight", (5, 12), -1),
            rows(*square, -1),
            columns(*square, 5),
            columns("head.weight", (CLASSES, 5), 5),
        )
    ]


def shifted():
    """A constant over all channels of a group, which GroupNorm subtracts."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES)
    )
    weight, bias = (
        columns("0.weight", (8, 3, 2, 2), 24, parts=2),
        columns("0.bias", (8,), 2, parts=2),
    )
    return model, [Group(Symmetry.translation, one.parameter, (), (one,)) for one in (weight, bias)]


NETWORKS = {
    "squared": lambda: homogeneous(2),
    "cubed": lambda: homogeneous(3),
    "grouped": grouped,
    "stream": stream,
    "shifted": shifted,
}


def batch():
    return torch.randn(8, 3, 2, 2, dtype=torch.float64), torch.arange(8) % CLASSES


def tracked(model, groups, sgd, folder):
    """The records of 50 updates."""
    model.double().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, **dataclasses.asdict(sgd))
    laws, _ = laws_of_sgd(sgd)
    run = RunDirectory.create(folder, "")
    with TableWriter(run) as writer:
        structure = Structure((), tuple(groups))
        tracker = Tracker(model, optimizer, structure, laws, writer, 1, sample=0, seed=0)
        for step in range(STEPS):
            images, labels = batch()
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            tracker.before_update(step, LR)
            optimizer.step()
        tracker.finish(STEPS)
    return pd.read_parquet(run.table("units"))


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_constraint_and_laws_hold_to_rounding(name, optimiser, tmp_path):
    torch.manual_seed(0)
    table = tracked(*NETWORKS[name](), OPTIMISERS[optimiser], tmp_path / "run")
    scale = table["magnitude"]
    assert (scale > 0).all()
    for law in ("exact", "discrete"):
        assert ((table["measured"] - table[law]).abs() <= ROUNDING * scale).all(), law
    recorded = table[table["step"] < STEPS]
    # Each unit of translation has 4 entries, and its generator is made of ones.
    along_sq = 4.0 if name == "shifted" else recorded["magnitude"]
    assert (
        recorded["defect"].abs() <= ROUNDING * (along_sq * recorded["grad_norm_sq"]) ** 0.5
    ).all()
    first, last = (table[table["step"] == step].set_index(["group", "unit"]) for step in (0, STEPS))
    moved = (last["measured"] - first["measured"]).abs()
    assert (moved > 1e-6 * first["magnitude"]).mean() > 0.5  # the laws had something to predict


@pytest.mark.parametrize("wrong", [-1, -3, 2])
def test_another_weight_is_no_symmetry(wrong, tmp_path):
    torch.manual_seed(0)
    table = tracked(*homogeneous(2, wrong), OPTIMISERS["momentum"], tmp_path / "run")
    off = (table["measured"] - table["discrete"]).abs() / table["magnitude"]
    assert off.groupby(table["unit"]).max().min() > 1e-4
    # The exact law takes the defect as measured, so it holds for any reducer.
    assert ((table["measured"] - table["exact"]).abs() <= ROUNDING * table["magnitude"]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_constraints_on_gradient_and_hessian(name):
    torch.manual_seed(0)
    model, groups = NETWORKS[name]()
    for row in hessian_constraints(model.double(), groups, *batch(), seed=0):
        assert row.largest_cosine <= ROUNDING
        assert row.relative_error <= ROUNDING


def test_another_weight_shows_in_both_constraints():
    torch.manual_seed(0)
    model, groups = homogeneous(2, -1)
    (row,) = hessian_constraints(model.double(), groups, *batch(), seed=0)
    assert row.largest_cosine > 1e-2 and row.relative_error > 1e-2
