"""Every column of the tables, computed again in plain Python over named parameters.

Nothing here shares code with the tracker: the groups are written down from the network's layers,
sums are `math.fsum` over Python floats, the laws are stepped unit by unit, the oscillator by its
complex roots, and momentum is kept here, not read from the optimiser.
"""

import cmath
import dataclasses
import math
from typing import NamedTuple

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from matrices import BLOCKS, Mixing, structure_of
from torch import nn

from symrun.laws import SGD, laws_of_sgd
from symrun.models.vgg import vgg
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.symmetry import find_structure
from symrun.tracking import Tracker, pairs, stacks

LR, WEIGHT_DECAY, STEPS, EVERY = 0.05, 1e-2, 7, 3
OPTIMISERS = {
    "plain": SGD(WEIGHT_DECAY),
    "momentum": SGD(WEIGHT_DECAY, momentum=0.9),
    "dampening": SGD(WEIGHT_DECAY, momentum=0.6, dampening=0.3),
    "underdamped": SGD(WEIGHT_DECAY, momentum=0.99),
    "nesterov": SGD(WEIGHT_DECAY, momentum=0.9, nesterov=True),
}


def expected_groups(model):
    """(symmetry, group) -> for each unit, [(sign, parameter name, index of its entries)]."""
    features, classifier = list(model.features), list(model.classifier)
    convolutions = [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)]
    with_bn = any(isinstance(layer, nn.BatchNorm2d) for layer in features)
    groups = {}
    for i in convolutions if with_bn else ():
        groups["scale", f"features.{i}"] = [
            [(1, f"features.{i}.weight", unit), (1, f"features.{i}.bias", unit)]
            for unit in range(features[i].out_channels)
        ]
    takers = [(f"features.{i}", 1) for i in convolutions[1:]]
    positions = classifier[0].in_features // features[convolutions[-1]].out_channels
    takers.append(("classifier.0", positions))
    for i, (taker, spread) in zip(convolutions, takers, strict=True):
        giver = f"features.{i + 1 if with_bn else i}"
        groups["rescale", f"{giver} -> {taker}"] = [
            [
                (-1, f"{giver}.weight", unit),
                (-1, f"{giver}.bias", unit),
                (1, f"{taker}.weight", (slice(None), slice(unit * spread, (unit + 1) * spread))),
            ]
            for unit in range(features[i].out_channels)
        ]
    for giver, taker in ((0, 3), (3, 6)):
        groups["rescale", f"classifier.{giver} -> classifier.{taker}"] = [
            [
                (-1, f"classifier.{giver}.weight", unit),
                (-1, f"classifier.{giver}.bias", unit),
                (1, f"classifier.{taker}.weight", (slice(None), unit)),
            ]
            for unit in range(classifier[giver].out_features)
        ]
    groups["translation", "classifier.6"] = [
        [(1, "classifier.6.weight", (slice(None), unit))]
        for unit in range(classifier[6].in_features)
    ]
    groups["translation", "classifier.6.bias"] = [[(1, "classifier.6.bias", slice(None))]]
    return groups


class Pair(NamedTuple):
    """Two units whose parameters are paired in their order."""

    one: list
    other: list


def groups_with_matrices(structure):
    """As `expected_groups`, of `Mixing`; which pairs there are is read off the structure."""

    def rows(name, *units):
        return [(-1, f"{name}.{kind}", list(units)) for kind in ("weight", "bias")]

    def columns(name, unit):
        return [(1, f"{name}.weight", (slice(None), unit))]

    units = {
        "first -> second": [rows("first", i) + columns("second", i) for i in range(4)],
        "second -> third": [rows("second", i) + columns("third", i) for i in range(5)],
        "third -> query, value, key": [
            rows("third", i) + columns("query", i) + columns("value", i) + columns("key", i)
            for i in range(6)
        ],
        "query -> key": [
            rows("query", i, 3 + i) + [(1, "key.weight", i), (1, "key.bias", i)] for i in range(3)
        ],
        "value -> project": [rows("value", i) + columns("project", i) for i in range(6)],
    }
    groups = {("rescale", name): found for name, found in units.items()}
    for group in structure.groups[len(units) :]:
        block_of = {unit: block for block in BLOCKS[group.name] for unit in block}
        assert all(a < b and block_of[a] is block_of[b] for a, b in group.pairs)
        found = [Pair(units[group.name][a], units[group.name][b]) for a, b in group.pairs]
        groups["general_linear", group.name] = found
    return groups


def entries(tensors, name, index):
    return tensors[name][index].reshape(-1).tolist()


def reduce(unit, left, right=None):
    """B(left, right) = sum of sign * left * right over a unit; of sign * left without right."""
    if isinstance(unit, Pair):
        return (crossed(*unit, left, right) + crossed(*unit[::-1], left, right)) / 2
    terms = []
    for sign, name, index in unit:
        ones = [1.0] * len(entries(left, name, index))
        pairs = zip(
            entries(left, name, index), entries(right, name, index) if right else ones, strict=True
        )
        terms += [sign * x * y for x, y in pairs]
    return math.fsum(terms)


def crossed(one, other, left, right):
    """The sum of sign * left * right, left of one unit and right of another."""
    terms = []
    for (sign, name, index), (_, _, index_of_other) in zip(one, other, strict=True):
        pairs = zip(entries(left, name, index), entries(right, name, index_of_other), strict=True)
        terms += [sign * x * y for x, y in pairs]
    return math.fsum(terms)


def scale(unit, left, right=None):
    """Of B(left, right): without signs; of a pair the mean of both units' own."""
    if isinstance(unit, Pair):
        return (scale(unit.one, left, right) + scale(unit.other, left, right)) / 2
    return reduce([(1, name, index) for _, name, index in unit], left, right)


class BruteForce:
    """The rows that the table must hold, keyed by (step, symmetry, group, unit)."""

    def __init__(self, groups, sgd):
        self.groups = groups
        self.sgd = sgd
        self.rows = {}
        self.predicted = {}
        self.buffer = None

    def before_update(self, step, model, recorded, final=False):
        theta = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        gradient = None if final else {n: p.grad.clone() for n, p in model.named_parameters()}
        buffer, update = (None, None) if final else self.next_update(theta, gradient)
        for (symmetry, group), units in self.groups.items():
            linear = symmetry == "translation"
            for number, unit in enumerate(units):
                key = (symmetry, group, number)
                square = None if linear else theta
                measured = reduce(unit, theta, square)
                laws = self.predicted.setdefault(key, self.start(measured, linear))
                row = {name: state[0] for name, state in laws.items()} | {"measured": measured}
                size = {name: value.abs() for name, value in theta.items()}
                row["magnitude"] = scale(unit, size, None if linear else size)
                if gradient is not None:
                    row["grad_norm_sq"] = scale(unit, gradient, gradient)
                    row["defect"] = reduce(unit, gradient, square)
                    drive = dict.fromkeys(("gg", "uu", "ub", "bb"), 0.0)
                    if not linear:
                        drive = {
                            "gg": reduce(unit, gradient, gradient),
                            "uu": reduce(unit, update, update),
                            "ub": reduce(unit, update, buffer),
                            "bb": reduce(unit, buffer, buffer),
                        }
                    self.predicted[key] = self.advance(laws, linear, drive, row["defect"], step)
                if recorded:
                    self.rows[(step, *key)] = row

    def next_update(self, theta, gradient):
        """b_n and u_n of every parameter, by torch.optim.SGD's documentation."""
        sgd = self.sgd
        decayed = {name: gradient[name] + sgd.weight_decay * theta[name] for name in theta}
        last, self.buffer = self.buffer, decayed
        if last is not None:
            self.buffer = {
                name: sgd.momentum * last[name] + (1 - sgd.dampening) * decayed[name]
                for name in decayed
            }
        if not sgd.nesterov:
            return self.buffer, self.buffer
        return self.buffer, {n: decayed[n] + sgd.momentum * self.buffer[n] for n in decayed}

    def start(self, measured, linear):
        sgd, laws = self.sgd, {"discrete": (measured, 0.0), "exact": (measured, 0.0)}
        if not sgd.nesterov:
            degree = 1 if linear else 2
            share = (1 + sgd.dampening) / (1 - sgd.dampening) / (1 + sgd.momentum)
            velocity = -degree * sgd.weight_decay * share * measured
            laws["flow"] = (measured, velocity if sgd.momentum else 0.0)
        return laws

    def advance(self, laws, linear, drive, defect, step):
        sgd, degree = self.sgd, 1 if linear else 2
        following = {}
        for name, seen in (("discrete", 0.0), ("exact", defect)):
            conserved, projected = laws[name]
            if sgd.momentum == 0:
                keep = 1 - LR * sgd.weight_decay
                moved = -LR * degree * keep ** (degree - 1) * seen + LR**2 * drive["gg"]
                following[name] = (keep**degree * conserved + moved, 0.0)
                continue
            pull = seen + sgd.weight_decay * conserved
            new = pull if step == 0 else (1 - sgd.dampening) * pull
            buffer = sgd.momentum * projected + new
            update = pull + sgd.momentum * buffer if sgd.nesterov else buffer
            following[name] = (
                conserved - degree * LR * update + LR**2 * drive["uu"],
                buffer - LR * drive["ub"],
            )
        if "flow" in laws:
            solve = oscillated if sgd.momentum else flowed
            following["flow"] = solve(*laws["flow"], sgd, degree, drive)
        return following


def flowed(conserved, _, sgd, degree, drive):
    """The integral of e^{-rate (lr - s)} over a step by 200 midpoints, not in closed form."""
    rate = sgd.weight_decay * degree
    kernel = [math.exp(-rate * LR * (i + 0.5) / 200) for i in range(200)]
    return math.exp(-rate * LR) * conserved + LR * drive["gg"] * math.fsum(kernel) * LR / 200, 0.0


def oscillated(conserved, velocity, sgd, degree, drive):
    """x'' + 2 gamma x' + omega^2 x = F by its two exponentials, F a part of an update earlier."""
    h = LR * (1 - sgd.dampening)
    gamma = (1 - sgd.momentum) / (h * (1 + sgd.momentum))
    omega_sq = 2 * degree * sgd.weight_decay / (h * (1 + sgd.momentum))
    split = cmath.sqrt(gamma**2 - omega_sq)
    one, two = -gamma + split, -gamma - split

    def free(x, v, duration):
        first = (v - two * x) / (one - two)
        parts = first * cmath.exp(one * duration), (x - first) * cmath.exp(two * duration)
        return sum(parts), one * parts[0] + two * parts[1]

    rest = 2 * drive["bb"] / (1 - sgd.dampening) ** 2 / omega_sq
    away = free(-rest, 0.0, h)  # from rest at 0, towards where F holds it
    forced = free(rest + away[0], away[1], h * (1 - sgd.momentum) / (1 + sgd.momentum) / 2)
    unforced = free(conserved, velocity, h)
    return (unforced[0] + forced[0]).real, (unforced[1] + forced[1]).real


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_every_column_of_every_unit(name, optimiser, tmp_path):
    model = vgg(name, 4, 64, 1 / 32, dropout=0.5).double()
    model = model.to(memory_format=torch.channels_last)
    structure = find_structure(model, torch.zeros(2, 3, 64, 64, dtype=torch.float64))
    groups = expected_groups(model)
    compare(model, (3, 64, 64), structure, groups, OPTIMISERS[optimiser], tmp_path)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("way", ["full", "sampled", "gathered"])
def test_every_column_of_every_entry_of_a_matrix(way, optimiser, tmp_path, monkeypatch):
    """In pieces of few entries, of which a line of a parameter makes several."""
    monkeypatch.setattr(pairs, "entries_at_once", lambda device: 20)
    if way == "gathered":
        monkeypatch.setattr(stacks, "_SMALL", 0)
    model = Mixing().double()
    structure = structure_of(model, torch.randn(2, 7, 5).double(), sampled=way != "full")
    groups = groups_with_matrices(structure)
    assert sum(map(len, groups.values())) == 24 + (40 if way == "full" else 24)
    compare(model, (7, 5), structure, groups, OPTIMISERS[optimiser], tmp_path)


def compare(model, shape, structure, groups, sgd, tmp_path):
    run = RunDirectory.create(tmp_path / "run", "")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, **dataclasses.asdict(sgd))
    brute_force = BruteForce(groups, sgd)
    laws, unpredicted = laws_of_sgd(sgd)
    with TableWriter(run) as writer:
        tracker = Tracker(model, optimizer, structure, laws, writer, EVERY, sample=5, seed=0)
        for step in range(STEPS):
            images = torch.randn(4, *shape, dtype=torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(model(images), torch.arange(4)).backward()
            brute_force.before_update(step, model, recorded=step % EVERY == 0)
            tracker.before_update(step, LR)
            optimizer.step()
        tracker.finish(STEPS)
        brute_force.before_update(STEPS, model, recorded=True, final=True)

    table = pd.read_parquet(run.table("units"))
    keys = ["step", "symmetry", "group", "unit"]
    table = table.astype({"symmetry": str, "group": str}).set_index(keys).sort_index()
    expected = pd.DataFrame.from_dict(brute_force.rows, orient="index")
    expected.index = pd.MultiIndex.from_tuples(expected.index, names=keys)
    expected = expected.sort_index()
    assert sorted(set(table.index.get_level_values("step"))) == [0, 3, 6, 7]
    assert list(table.index) == list(expected.index)
    assert set(table.columns) == set(expected.columns) | set(unpredicted)
    assert table[list(unpredicted)].isna().all(axis=None)

    # float64 sums of at most 1e4 terms: 1e4 roundings relative to the sum of their sizes, plus
    # the midpoint rule's (rate lr / 200)^2 / 24 in `flow`, which is smaller still
    rounding = 1e4 * 2.0**-53
    size = {
        "defect": (expected["grad_norm_sq"] * expected["magnitude"]).pow(0.5) + 1e-30,
        "grad_norm_sq": expected["grad_norm_sq"],
    }
    linear = expected.index.get_level_values("symmetry") == "translation"
    size["defect"] = size["defect"].where(~linear, (4 * expected["grad_norm_sq"]).pow(0.5) + 1e-30)
    for column in expected.columns:
        allowed = rounding * size.get(column, expected["magnitude"] + LR)
        error = (table[column] - expected[column]).abs()
        assert table[column].isna().equals(expected[column].isna()), column
        assert (error.dropna() <= allowed[error.notna()]).all(), column


def test_sampled_parameters_are_the_weights(tmp_path):
    model = vgg("vgg11", 4, 32, 1 / 16, dropout=0.5).to(memory_format=torch.channels_last)
    structure = find_structure(model, torch.zeros(2, 3, 32, 32))
    run = RunDirectory.create(tmp_path / "run", "")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    with TableWriter(run) as writer:
        tracker = Tracker(model, optimizer, structure, {}, writer, every=1, sample=20, seed=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        tracker.finish(5)
    table = pd.read_parquet(run.table("parameters"))
    assert set(table["step"]) == {5}
    assert table["layer"].nunique() == 8 + 3
    assert (table.groupby("layer", observed=True).size() == 20).all()
    assert not table.duplicated(["layer", "index"]).any()
    for row in table.itertuples():
        weight = dict(model.named_parameters())[f"{row.layer}.weight"]
        assert row.value == weight.detach().contiguous().reshape(-1)[row.index].item()
