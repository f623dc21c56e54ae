"""The constraints of matrices: entry by entry against the whole Hessian, and in what a run records.

Nothing of the first test shares code with the package but what is checked.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import symrun
from symrun.constraints import gradient_constraints, hessian_constraints
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry, find_structure
from symrun.symmetry.matrices import find_matrices, with_off_diagonal

BOUND = 1e-10


def loss_of(outputs, labels):
    return F.cross_entropy(outputs, labels)


def labels_of(batch):
    return torch.arange(batch) % 3


class Heads(nn.Module):
    """Two heads of two channels, and the mean over the tokens."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.read = nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.read(self.out(mixed).tanh().mean(1))


def network(kind, *shape):
    torch.manual_seed(2)
    model, inputs = kind().double(), torch.randn(6, *shape, dtype=torch.float64)
    labels = labels_of(6)
    structure = find_structure(model, inputs, lambda out: loss_of(out, labels))
    groups = find_matrices(model, structure.groups, inputs, lambda out: loss_of(out, labels))
    structure = with_off_diagonal(
        dataclasses.replace(structure, groups=tuple(groups)), sampled=False
    )
    return model, structure, inputs, labels


def linear():
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))


def test_each_entry_against_the_whole_hessian():
    """H v_ab = -(the same of g): theta_b / 2 on line a and theta_a / 2 on line b."""
    model, structure, inputs, labels = network(linear, 3)
    (entries,) = (one for one in structure.groups if one.symmetry is Symmetry.general_linear)
    assert entries.pairs == ((0, 1), (0, 2), (1, 2))
    names = [name for name, _ in model.named_parameters()]
    values = tuple(one.detach() for one in model.parameters())

    def loss(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return loss_of(torch.func.functional_call(model, given, inputs), labels)

    gradient = torch.func.grad(loss, argnums=tuple(range(4)))(*values)
    blocks = torch.autograd.functional.hessian(loss, values)
    sizes = [one.numel() for one in values]
    hessian = torch.cat([
        torch.cat([block.reshape(size, -1) for block in row], 1)
        for size, row in zip(sizes, blocks, strict=True)
    ])  # fmt: skip

    def swapped(of, a, b):
        weight, bias, second, _ = (torch.zeros_like(one) for one in of)
        for one, other in ((a, b), (b, a)):
            weight[one], bias[one] = -of[0][other] / 2, -of[1][other] / 2
            second[:, one] = of[2][:, other] / 2
        return torch.cat([one.flatten() for one in (weight, bias, second, torch.zeros(3).double())])

    for a, b in entries.pairs:
        right = swapped(gradient, a, b)
        assert (hessian @ swapped(values, a, b) + right).norm() < 1e-13 * right.norm()
        flat = torch.cat([one.flatten() for one in gradient])
        assert abs(flat @ swapped(values, a, b)) < 1e-14


@pytest.mark.parametrize(("kind", "shape", "units"), [(Heads, (5, 4), 2), (linear, (3,), 3)])
def test_what_is_checked_of_all_entries_is_rounding(kind, shape, units):
    model, structure, inputs, labels = network(kind, *shape)
    found = list(hessian_constraints(model, structure.groups, inputs, labels, 0, loss_of))
    entries = [one for one in found if one.symmetry == "general_linear"]
    assert entries and all(one.units == units for one in entries)
    assert all(one.relative_error < BOUND and one.largest_cosine < BOUND for one in entries)


def test_a_matrix_that_is_none_breaks_both():
    model, structure, inputs, labels = network(linear, 3)
    bent = nn.Sequential(model[0], nn.LeakyReLU(), model[1])
    groups = [
        dataclasses.replace(group, members=tuple(
            dataclasses.replace(one, parameter=one.parameter.replace("1.", "2."))
            for one in group.members
        ))
        for group in structure.groups
    ]  # fmt: skip
    rows = hessian_constraints(bent, groups, inputs, labels, 0, loss_of)
    found = {one.symmetry: one for one in rows}
    assert found["rescale"].relative_error < BOUND
    assert found["general_linear"].relative_error > 0.01
    assert found["general_linear"].largest_cosine > 0.001


def test_the_tables_of_a_run_have_the_cosines_of_entries(tmp_path):
    model, structure, inputs, labels = network(Heads, 5, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tracked = symrun.track(
        model, optimizer, inputs, tmp_path / "run", structure=structure, matrices="full", every=1
    )
    with tracked:
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model(inputs), labels).backward()
            optimizer.step()
    rows = gradient_constraints(RunDirectory.open(tmp_path / "run"))
    entries = [row for row in rows if row.symmetry == "general_linear"]
    assert [row.units for row in entries] == [2, 2]
    assert all(0 < row.largest_cosine < BOUND for row in entries)
