"""Units of several rows or columns, and a parameter in two layouts, against sums in plain Python.

Nothing here is found in a graph: each group is written down twice, as members for the tracker and
as entries for the sums. In Triton's interpreter, where `test_kernel.py` runs this file too, the
kernels make the sums that plain torch makes elsewhere.
"""

import math
import os

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.laws import SGD, laws_of_sgd
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.symmetry import Group, Members, Structure, Symmetry, columns, rows
from symrun.tracking import Tracker
from symrun.tracking import measure as measure_module
from symrun.tracking.torch_sums import TorchSums

LR, WEIGHT_DECAY, MOMENTUM, STEPS = 0.05, 1e-2, 0.9, 4
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Network(nn.Module):
    """A convolution in front of a GroupNorm of 2 groups, and a linear layer behind it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.last = nn.Linear(8 * 4, 5)

    def forward(self, images):
        return self.last(F.max_pool2d(F.relu(self.norm(self.conv(images))), 2).flatten(1))


FOUR_EACH = (0,) * 4 + (1,) * 4
MIXED = (2, 0, -1, 1, 0, 0, 2, 1)
"""Rows of one unit that are no neighbours, units of different size, and a row in none."""

# Group, and for each unit [(sign, parameter, index of its entries)].
GROUPS = {
    "norm": (
        Symmetry.scale,
        (Members("conv.weight", 0, FOUR_EACH, 27), Members("conv.bias", 0, FOUR_EACH, 1)),
        [
            [(1, name, slice(4 * unit, 4 * unit + 4)) for name in ("conv.weight", "conv.bias")]
            for unit in range(2)
        ],
    ),
    "whole layer": (
        Symmetry.scale,
        (Members("conv.weight", 0, (0,) * 8, 27), Members("conv.bias", 0, (0,) * 8, 1)),
        [[(1, name, slice(None)) for name in ("conv.weight", "conv.bias")]],
    ),
    "mixed": (
        Symmetry.scale,
        (Members("conv.weight", 0, MIXED, 27), Members("norm.bias", 0, MIXED, 1, sign=-1)),
        [
            [
                (sign, name, [row for row in range(8) if MIXED[row] == unit])
                for sign, name in ((1, "conv.weight"), (-1, "norm.bias"))
            ]
            for unit in range(3)
        ],
    ),
    "norm -> last": (
        Symmetry.rescale,
        (
            rows("norm.weight", (8,), -1),
            rows("norm.bias", (8,), -1),
            columns("last.weight", (5, 32), 8),
        ),
        [
            [(-1, "norm.weight", unit), (-1, "norm.bias", unit)]
            + [(1, "last.weight", (slice(None), slice(4 * unit, 4 * unit + 4)))]
            for unit in range(8)
        ],
    ),
    "kernel columns": (  # of unlike sizes, and not of whole channels: order in memory matters
        Symmetry.rescale,
        (Members("conv.weight", 1, (0,) * 5 + (1,) * 20 + (-1, 0), 8),),
        [
            [(1, "conv.weight", (slice(None), column // 9, column // 3 % 3, column % 3))
             for column in of_unit]
            for of_unit in ([0, 1, 2, 3, 4, 26], range(5, 25))
        ],
    ),
    "last": (
        Symmetry.translation,
        (columns("last.weight", (5, 32), 32),),
        [[(1, "last.weight", (slice(None), column))] for column in range(32)],
    ),
    "last rows": (
        Symmetry.translation,
        (rows("last.weight", (5, 32)), rows("last.bias", (5,), -1)),
        [[(1, "last.weight", row), (-1, "last.bias", row)] for row in range(5)],
    ),
    "last.bias": (
        Symmetry.translation,
        (columns("last.bias", (5,), 1),),
        [[(1, "last.bias", slice(None))]],
    ),
}  # fmt: skip


def kernel_sums(kind, reductions, momentum):
    from symrun.tracking.kernel import KernelSums

    return KernelSums(reductions, momentum)


def reduce(unit, tensors, product):
    """The sum over a unit's entries of sign * product(theta, g, ...), with its terms' sizes."""
    terms = []
    for sign, name, index in unit:
        values = [tensor[name][index].reshape(-1).tolist() for tensor in tensors]
        terms += [sign * product(*entry) for entry in zip(*values, strict=True)]
    return math.fsum(terms), math.fsum(map(abs, terms)) + 1e-300


class PlainPython:
    """The rows that the table must hold, with the size of what rounds in each."""

    def __init__(self):
        self.buffer = None
        self.laws = {}
        self.rows, self.sizes = {}, {}

    def before_update(self, step, model, final=False):
        theta = {name: p.detach().clone() for name, p in model.named_parameters()}
        if not final:
            g = {name: p.grad.clone() for name, p in model.named_parameters()}
            b = {name: g[name] + WEIGHT_DECAY * theta[name] for name in g}
            if self.buffer is not None:
                b = {name: MOMENTUM * self.buffer[name] + b[name] for name in b}
            self.buffer = b
        for group, (symmetry, _, units) in GROUPS.items():
            degree = 1 if symmetry is Symmetry.translation else 2
            for number, unit in enumerate(units):
                key = (step, symmetry.value, group, number)
                unsigned = [(1, name, index) for _, name, index in unit]
                row = {
                    "measured": reduce(unit, [theta], lambda x: x**degree)[0],
                    "magnitude": reduce(unsigned, [theta], lambda x: abs(x) ** degree)[0],
                }
                laws = self.laws.setdefault(key[1:], {"discrete": None, "exact": None})
                for law in laws:
                    laws[law] = laws[law] or (row["measured"], 0.0)
                    row[law] = laws[law][0]
                self.sizes[key] = dict.fromkeys(row, row["magnitude"] + LR)
                if not final:
                    both = [theta, g]
                    grad_norm_sq = reduce(unsigned, [g], lambda y: y * y)[0]
                    defect, size = reduce(unit, both, lambda x, y: y * x ** (degree - 1))
                    row |= {"grad_norm_sq": grad_norm_sq, "defect": defect}
                    self.sizes[key] |= {"grad_norm_sq": grad_norm_sq, "defect": size}
                    square = reduce(unit, [b], lambda u: u * u)[0] if degree == 2 else 0.0
                    for law, seen in (("discrete", 0.0), ("exact", defect)):
                        conserved, projected = laws[law]
                        moved = MOMENTUM * projected + seen + WEIGHT_DECAY * conserved
                        laws[law] = (
                            conserved - degree * LR * moved + LR**2 * square,
                            moved - LR * square,
                        )
                self.rows[key] = row


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("block", [None] if INTERPRETED else [None, 40])
def test_every_column_of_every_unit(layout, block, tmp_path, monkeypatch):
    if INTERPRETED:
        monkeypatch.setattr(measure_module, "select_sums", kernel_sums)
    elif block is not None:
        make = lambda _, reductions, momentum: TorchSums(reductions, momentum, block)  # noqa: E731
        monkeypatch.setattr(measure_module, "select_sums", make)
    model = Network().double().to(memory_format=layout)
    groups = tuple(Group(one[0], name, (), one[1]) for name, one in GROUPS.items())
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, momentum=MOMENTUM
    )
    plain = PlainPython()
    laws, _ = laws_of_sgd(SGD(WEIGHT_DECAY, momentum=MOMENTUM))
    run = RunDirectory.create(tmp_path / "run", "")
    with TableWriter(run) as writer:
        structure = Structure((), groups)
        tracker = Tracker(model, optimizer, structure, laws, writer, 1, sample=0, seed=0)
        for step in range(STEPS):
            images = torch.randn(4, 3, 4, 4, dtype=torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(model(images), torch.arange(4)).backward()
            plain.before_update(step, model)
            tracker.before_update(step, LR)
            optimizer.step()
        tracker.finish(STEPS)
        plain.before_update(STEPS, model, final=True)

    keys = ["step", "symmetry", "group", "unit"]
    table = pd.read_parquet(run.table("units")).astype({"symmetry": str, "group": str})
    table = table.set_index(keys)
    assert set(table.index) == set(plain.rows) and len(table) == len(plain.rows)
    # A float64 sum of n terms is off by n roundings of the sum of their sizes; n is at most 224,
    # the laws add some ten operations a step.
    rounding = 2**9 * 2.0**-53
    for key, row in plain.rows.items():
        for column, value in row.items():
            assert abs(table.loc[key, column] - value) <= rounding * plain.sizes[key][column], (
                key,
                column,
            )


def test_a_unit_may_not_be_empty():
    with pytest.raises(AssertionError, match="units without parameters: gap"):
        Group(Symmetry.scale, "gap", (), (Members("conv.bias", 0, (0, 2), 1),))


def test_entries_are_those_of_the_largest_unit():
    units = {
        name: Group(symmetry, name, (), members) for name, (symmetry, members, _) in GROUPS.items()
    }
    assert units["norm"].units == 2 and units["norm"].entries == 4 * 27 + 4
    assert units["mixed"].units == 3 and units["mixed"].entries == 3 * 27 + 3
    assert units["kernel columns"].entries == 20 * 8
