"""Directions in parameter space, entry by entry."""

import math

import pytest
import torch

from symrun.symmetry import Group, Symmetry, columns, rows
from symrun.symmetry.generator import asymmetric, generator, per_unit

# A hidden unit: rows of one weight with their bias, columns of the next, each behind 3 positions.
MEMBERS = (
    rows("enters.weight", (2, 5), -1),
    rows("enters.bias", (2,), -1),
    columns("leaves.weight", (4, 6), 2),
)
SHAPES = {"enters.weight": (2, 5), "enters.bias": (2,), "leaves.weight": (4, 6)}


def entries(vector, unit):
    """Of one unit, as plain numbers: (what enters, what leaves)."""
    columns = vector["leaves.weight"][:, 3 * unit : 3 * unit + 3]
    enters = [*vector["enters.weight"][unit].tolist(), vector["enters.bias"][unit].item()]
    return enters, columns.reshape(-1).tolist()


@pytest.fixture
def theta():
    return {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}


def test_generators_entry_by_entry(theta):
    factors = torch.tensor([2.0, -3.0], dtype=torch.float64)
    for symmetry, expected in (
        (Symmetry.rescale, lambda values: values),
        (Symmetry.translation, lambda values: [1.0] * len(values)),
    ):
        group = Group(symmetry, "g", (), MEMBERS)
        vector = generator(group, theta, factors)
        assert {name: values.shape for name, values in vector.items()} == SHAPES
        for unit, factor in enumerate((2, -3)):
            enters, leaves = entries(theta, unit)
            assert entries(vector, unit) == (
                [-factor * value for value in expected(enters)],
                [factor * value for value in expected(leaves)],
            )


def test_inner_products_entry_by_entry(theta):
    group = Group(Symmetry.rescale, "g", (), MEMBERS)
    other = {name: torch.randn_like(values) for name, values in theta.items()}
    for unit, product in enumerate(per_unit(group, theta, other).tolist()):
        pairs = zip(sum(entries(theta, unit), []), sum(entries(other, unit), []), strict=True)
        # 18 terms of a few units
        assert product == pytest.approx(math.fsum(x * y for x, y in pairs), abs=1e-13)


def test_what_is_no_symmetry_is_across_each_unit_and_as_long(theta):
    group = Group(Symmetry.rescale, "g", (), MEMBERS)
    vector = generator(group, theta, torch.ones(2))
    across = asymmetric(group, vector, torch.Generator().manual_seed(0))
    for unit in range(2):
        along, found = (sum(entries(values, unit), []) for values in (vector, across))
        assert math.hypot(*found) == pytest.approx(math.hypot(*along), rel=1e-13)
        product = math.fsum(x * y for x, y in zip(along, found, strict=True))
        assert abs(product) <= 1e-13 * math.hypot(*along) ** 2
    again = asymmetric(group, vector, torch.Generator().manual_seed(0))
    assert all(torch.equal(across[name], again[name]) for name in across)
