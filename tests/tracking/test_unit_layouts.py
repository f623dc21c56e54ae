"""Units of several rows or columns, and a parameter in two layouts, against sums in plain Python.

Nothing here is found in a graph: each group is written down twice, as members for the tracker and
as entries for the sums. In Triton's interpreter, where `test_kernel.py` runs this file too, the
kernels make the sums that plain torch makes elsewhere.
"""

import math
import os

import numpy as np
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
    """A convolution in front of a GroupNorm of 2 groups, convolutions of 2, 4 and 8 groups, linear
    layers, and parameters of 0 and 3 dimensions."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.two = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.four = nn.Conv2d(12, 8, (1, 2), padding=(0, 1), groups=4)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.doubled = nn.Conv2d(8, 16, 2, groups=8)
        self.last, self.square = nn.Linear(8 * 4, 5), nn.Linear(5, 5)
        self.factor = nn.Parameter(torch.tensor(0.7))
        self.place = nn.Parameter(torch.randn(1, 2, 5))

    def forward(self, images):
        first = F.max_pool2d(F.relu(self.norm(self.conv(images))), 2)
        scores = self.last(first.flatten(1))
        depth = self.depth(F.relu(self.four(F.relu(self.two(first)))))
        behind = self.doubled(depth).flatten(1)[:, :15].view(-1, 3, 5).sum(1)
        scores = scores + self.factor * behind
        return scores + self.square(scores) + self.place.square().sum((0, 1))


def columns_of(name, shape, units, parts, sign=1):
    """For each unit, [(sign, parameter, index of a column of a part)]."""
    found = [[] for _ in range(1 + max(units))]
    width, height = math.prod(shape[1:]), shape[0] // parts
    for line, unit in enumerate(units):
        if unit >= 0:
            part, column = divmod(line, width)
            place = tuple(int(index) for index in np.unravel_index(column, shape[1:]))
            rows = slice(part * height, (part + 1) * height)
            found[unit].append((sign, name, (rows, *place)))
    return found


def drawn(lines, units, seed):
    """The units of `lines` lines at random; some lie in none."""
    random = np.random.default_rng(seed)
    return (*range(units), *random.choice([-1, *range(units)], lines - units).tolist())


def joined(*of_units):
    """Units that consist of the entries of several."""
    return [sum(unit, []) for unit in zip(*of_units, strict=True)]


TWO, FOUR, DEPTH, DOUBLED = (12, 4, 3, 3), (8, 3, 1, 2), (8, 1, 3, 3), (16, 1, 2, 2)


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
    "norm -> two": (
        Symmetry.rescale,
        (rows("norm.weight", (8,), -1), columns("two.weight", TWO, 8, 2, parts=2)),
        [
            [(-1, "norm.weight", unit)]
            + [(2, "two.weight", (slice(6 * (unit // 4), 6 * (unit // 4) + 6), unit % 4))]
            for unit in range(8)
        ],
    ),
    "two -> four": (
        Symmetry.rescale,
        (rows("two.weight", TWO, -1), columns("four.weight", FOUR, 12, 3, parts=4)),
        [
            [(-1, "two.weight", unit)]
            + [(3, "four.weight", (slice(2 * (unit // 3), 2 * (unit // 3) + 2), unit % 3))]
            for unit in range(12)
        ],
    ),
    "four -> depth": (
        Symmetry.rescale,
        (rows("four.weight", FOUR, -1), columns("depth.weight", DEPTH, 8, parts=8)),
        [[(-1, "four.weight", unit), (1, "depth.weight", unit)] for unit in range(8)],
    ),
    "depth -> doubled": (
        Symmetry.rescale,
        (
            rows("depth.weight", DEPTH, -2),
            columns("doubled.weight", DOUBLED, 8, parts=8),
            rows("depth.bias", (8,), -2),
        ),
        [
            [(-2, "depth.weight", unit), (-2, "depth.bias", unit)]
            + [(1, "doubled.weight", slice(2 * unit, 2 * unit + 2))]
            for unit in range(8)
        ],
    ),
    "parts at random": (  # 2 and 3 of one weight make 6
        Symmetry.rescale,
        (
            Members("two.weight", 1, drawn(72, 5, 1), 6, -2, parts=2),
            Members("two.weight", 1, drawn(108, 5, 2), 4, 3, parts=3),
            Members("two.weight", 1, drawn(36, 5, 3), 12, -1),
            Members("two.weight", 0, drawn(12, 5, 4), 36, -1),
        ),
        joined(
            columns_of("two.weight", TWO, drawn(72, 5, 1), 2, -2),
            columns_of("two.weight", TWO, drawn(108, 5, 2), 3, 3),
            columns_of("two.weight", TWO, drawn(36, 5, 3), 1, -1),
            [
                [(-1, "two.weight", row) for row, one in enumerate(drawn(12, 5, 4)) if one == unit]
                for unit in range(5)
            ],
        ),
    ),
    "single rows at random": (
        Symmetry.scale,
        (Members("depth.weight", 1, drawn(72, 3, 5), 1, parts=8),),
        columns_of("depth.weight", DEPTH, drawn(72, 3, 5), 8),
    ),
    "parts, shifted": (
        Symmetry.translation,
        (
            Members("two.weight", 1, drawn(72, 4, 6), 6, parts=2),
            columns("two.bias", (12,), 4, parts=4),
        ),
        joined(
            columns_of("two.weight", TWO, drawn(72, 4, 6), 2),
            [[(1, "two.bias", slice(3 * unit, 3 * unit + 3))] for unit in range(4)],
        ),
    ),
    "whole parts": (
        Symmetry.scale,
        (Members("two.weight", 1, (0,) * 72, 6, parts=2),),
        [[(1, "two.weight", slice(None))]],
    ),
    "stream": (  # an entry enters one unit and leaves another
        Symmetry.rescale,
        (rows("square.weight", (5, 5), -1), columns("square.weight", (5, 5), 5)),
        [
            [(-1, "square.weight", unit), (1, "square.weight", (slice(None), unit))]
            for unit in range(5)
        ],
    ),
    "rows of two signs": (
        Symmetry.rescale,
        (
            Members("last.weight", 0, (0, -1, 1, -1, 0), 32),
            Members("last.weight", 0, (-1, 0, -1, 1, -1), 32, -1),
        ),
        [
            [(1, "last.weight", [0, 4]), (-1, "last.weight", 1)],
            [(1, "last.weight", 2), (-1, "last.weight", 3)],
        ],
    ),
    "factor": (
        Symmetry.rescale,
        (rows("factor", (), -1), rows("depth.bias", (8,), 2)),
        [[(-1, "factor", ()), (2, "depth.bias", 0)]]
        + [[(2, "depth.bias", unit)] for unit in range(1, 8)],
    ),
    "factor alone": (Symmetry.scale, (columns("factor", (), 1),), [[(1, "factor", ())]]),
    "place": (
        Symmetry.scale,
        (columns("place", (1, 2, 5), 10),),
        [[(1, "place", (0, unit // 5, unit % 5))] for unit in range(10)],
    ),
    "place, channels": (
        Symmetry.translation,
        (Members("place", 1, (0, 1, 2, 3, 4) * 2, 1),),
        [[(1, "place", (slice(None), slice(None), unit))] for unit in range(5)],
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
                unsigned = [(abs(sign), name, index) for sign, name, index in unit]
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


@pytest.mark.parametrize(
    "layout", [torch.channels_last, *([] if INTERPRETED else [torch.contiguous_format])]
)
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
    # A float64 sum of n terms is off by n roundings of the sum of their sizes; n is at most 432,
    # the laws add some ten operations a step.
    rounding = 2**10 * 2.0**-53
    for key, row in plain.rows.items():
        for column, value in row.items():
            assert abs(table.loc[key, column] - value) <= rounding * plain.sizes[key][column], (
                key,
                column,
            )


def test_a_unit_may_not_be_empty():
    with pytest.raises(AssertionError, match="units without parameters: gap"):
        Group(Symmetry.scale, "gap", (), (Members("conv.bias", 0, (0, 2), 1),))


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"sign": 0}, "weight 0"),
        ({"axis": 0, "parts": 2}, "only columns have parts"),
        ({"parts": 4}, "parts of unlike width"),
    ],
)
def test_members_that_make_no_sense_are_refused(wrong, reason):
    right = {"parameter": "weight", "axis": 1, "units": (0,) * 6, "length": 2}
    with pytest.raises(AssertionError, match=reason):
        Members(**right | wrong)


def test_a_sum_has_no_weights_and_a_part_whole_rows():
    with pytest.raises(AssertionError, match="a sum with weights: last"):
        Group(Symmetry.translation, "last", (), (rows("last.weight", (5, 32), 2),))
    with pytest.raises(AssertionError, match="rows that make no 5 parts"):
        columns("two.weight", TWO, 20, parts=5)


def test_entries_are_those_of_the_largest_unit():
    units = {
        name: Group(symmetry, name, (), members) for name, (symmetry, members, _) in GROUPS.items()
    }
    assert units["norm"].units == 2 and units["norm"].entries == 4 * 27 + 4
    assert units["mixed"].units == 3 and units["mixed"].entries == 3 * 27 + 3
    assert units["kernel columns"].entries == 20 * 8
