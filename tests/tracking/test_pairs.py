"""The entries off the diagonal of conserved matrices: their laws, and what tracking them leaves."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from largest import LargestFloat64
from matrices import Mixing, structure_of

from symrun.laws import SGD
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.symmetry import Group, Members, Symmetry
from symrun.symmetry.groups import off_diagonal, rows
from symrun.tracking import Tracker
from symrun.tracking.audit import Audit
from symrun.tracking.followed import FollowedOptimizer
from symrun.tracking.measure import Measure

STEPS = 100
ROUNDING = 1e-12
"""100 updates of about 20 roundings each, and sums of up to 30 products, each 2^-53 relative to the
magnitude: 3e-13."""
OPTIMISERS = {
    "plain": SGD(0.0),
    "weight decay": SGD(1e-2),
    "momentum": SGD(1e-2, momentum=0.9),
    "dampening": SGD(1e-2, momentum=0.6, dampening=0.3),
    "nesterov": SGD(1e-2, momentum=0.9, nesterov=True),
}
ADAM = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def made(optimiser):
    """Mixing in float64, 20 examples of one batch, and an optimiser."""
    torch.manual_seed(0)
    model = Mixing().double()
    batch = torch.randn(20, 7, 5).double(), torch.randint(4, (20,))
    if optimiser in ADAM:
        return model, batch, ADAM[optimiser](model.parameters(), lr=1e-2, weight_decay=1e-2)
    settings = dataclasses.asdict(OPTIMISERS[optimiser])
    return model, batch, torch.optim.SGD(model.parameters(), lr=0.1, **settings)


def train(made, steps, tracker=None, followed=None):
    """The learning rate falls to a tenth at half of all steps."""
    model, (inputs, labels), optimizer = made
    for step in steps:
        if step == STEPS // 2:
            optimizer.param_groups[0]["lr"] /= 10
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        if tracker is not None:
            assert followed.follow(step) is None
            tracker.before_update(step)
        optimizer.step()
        if tracker is not None:
            tracker.after_update()


def table_of(
    optimiser, folder, sampled=False, diagonals=True, steps=STEPS, every=10, stopped_at=None
):
    """The table `units` of a run, stopped and continued if asked, and the weights at its end."""
    parts = made(optimiser)
    model, (inputs, _), optimizer = parts
    structure = structure_of(model, inputs, sampled, diagonals)
    ends = [0, *([] if stopped_at is None else [stopped_at]), steps]
    run = RunDirectory.create(folder, "")
    by_law = None
    with TableWriter(run) as writer:
        for first, end in zip(ends, ends[1:], strict=False):
            followed = FollowedOptimizer(model, optimizer, structure.groups)
            tracker = Tracker(
                *(model, optimizer, structure, followed, writer, every, 0, 0),
                more=("projection", "discretisation"),
            )
            if by_law is not None:
                tracker.divide(by_law)
            train(parts, range(first, end), tracker, followed)
            by_law = {name: rows.clone() for name, rows in tracker.by_law.items()}
        tracker.finish(steps)
    return pd.read_parquet(run.table("units")), list(model.parameters())


def residual(table, law):
    return ((table["measured"] - table[law]).abs() / table["magnitude"]).max()


@pytest.mark.parametrize(
    ("optimiser", "sampled"),
    [*((name, False) for name in (*OPTIMISERS, *ADAM)), ("nesterov", True)],
)
def test_laws_hold_entry_by_entry(optimiser, sampled, tmp_path):
    table, _ = table_of(optimiser, tmp_path / "run", sampled)
    table = table[table["symmetry"] == "general_linear"]
    assert len(table) == 11 * (24 if sampled else 40)
    assert residual(table, "exact") <= ROUNDING
    if optimiser in OPTIMISERS:
        assert residual(table, "discrete") <= ROUNDING
    last = table["step"].isin([0, STEPS])
    changes = table[last].groupby(["group", "unit"], observed=True)["measured"].diff().dropna()
    assert len(changes) and (changes.abs() > 1e3 * ROUNDING).all()  # by far more than the bound


@pytest.mark.parametrize(
    ("optimiser", "lr", "kept"),
    [("plain", 0.1, 1.0), ("nesterov", 0.1, 1.0), ("adamw", 1e-2, 1 - 1e-4)],
)
def test_the_terms_of_an_update_make_up_the_change(optimiser, lr, kept, tmp_path):
    """Q_{n+1} = s^2 Q_n - 2 eta s B(theta, u) + eta^2 B(u, u), with theta' = s theta - eta u."""
    table, _ = table_of(optimiser, tmp_path / "run", steps=5, every=1)
    mixing = table[table["symmetry"] == "general_linear"].set_index(["group", "unit"])
    for step in range(5):
        now, after = (mixing[mixing["step"] == one] for one in (step, step + 1))
        moved = kept**2 * now["measured"] - 2 * lr * kept * now["projection"]
        error = (moved + now["discretisation"] - after["measured"]).abs()
        assert len(error) == 40 and (error <= ROUNDING * now["magnitude"]).all()
        assert (now["discretisation"].abs() > 1e2 * ROUNDING * now["magnitude"]).all()


@pytest.mark.parametrize("optimiser", ["momentum", "adamw"])
def test_training_is_the_same_with_and_without(optimiser, tmp_path):
    _, tracked = table_of(optimiser, tmp_path / "run")
    parts = made(optimiser)
    structure_of(parts[0], parts[1][0])
    train(parts, range(STEPS))
    assert all(map(torch.equal, tracked, parts[0].parameters()))


@pytest.mark.parametrize("optimiser", ["nesterov", "adamw"])
def test_a_resumed_run_keeps_the_state_of_the_laws(optimiser, tmp_path):
    whole, _ = table_of(optimiser, tmp_path / "whole")
    resumed, _ = table_of(optimiser, tmp_path / "resumed", stopped_at=50)
    pd.testing.assert_frame_equal(resumed, whole, check_exact=True)


def test_pairs_alone_are_measured_as_beside_their_diagonals(tmp_path):
    both, _ = table_of("nesterov", tmp_path / "both")
    alone, _ = table_of("nesterov", tmp_path / "alone", diagonals=False)
    both = both[both["symmetry"] == "general_linear"].reset_index(drop=True)
    numbers = both.select_dtypes("number").columns
    pd.testing.assert_frame_equal(alone[numbers], both[numbers], check_exact=True)


def test_the_defect_is_the_cosine_of_the_gradient_and_the_generator():
    """The generator of entry (a, b) moves line a by x_b / 2 and line b by x_a / 2, with signs."""
    model, (inputs, _), _ = made("plain")
    groups = structure_of(model, inputs, diagonals=False).groups
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    measure = Measure(model, groups)
    weights, gradients = measure.weights(), measure.gradients()
    assert (weights.measured.abs() <= weights.magnitude).all()
    scale = (weights.magnitude * gradients.grad_norm_sq).sqrt()
    found = gradients.inputs[1] / scale
    (group,) = (one for one in groups if one.name == "value -> project")
    start = sum(one.units for one in groups[: groups.index(group)])
    value = torch.cat([model.value.weight, model.value.bias[:, None]], 1)
    slopes = torch.cat([model.value.weight.grad, model.value.bias.grad[:, None]], 1)
    lines = torch.cat([value, model.project.weight.T], 1).detach()
    slopes = torch.cat([slopes, model.project.weight.grad.T], 1)
    signs = torch.tensor([-1.0] * 7 + [1.0] * 4).double()
    for number, (a, b) in enumerate(group.pairs):
        generator = torch.cat([signs * lines[b], signs * lines[a]])
        gradient = torch.cat([slopes[a], slopes[b]])
        cosine = F.cosine_similarity(generator, gradient, dim=0)
        assert abs(found[start + number] - cosine) < 1e-14


def test_the_audit_names_the_pair_whose_constraint_is_broken(tmp_path):
    model, (inputs, _), _ = made("plain")
    group = structure_of(model, inputs, diagonals=False).groups[-1]
    audit = Audit([group], torch.float64)
    values = dict.fromkeys(("measured", "exact"), np.zeros(6))
    values |= {"magnitude": np.ones(6), "grad_norm_sq": np.ones(6)}
    audit.on_record(3, {**values, "defect": np.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.1])})
    assert "general_linear of value -> project [3, 5] by 2.0e-01" in audit.line(audit.broken)


def test_the_entries_of_a_pair_are_the_parameters_of_both_units():
    """Units of 3 + 2, 3 and 3 + 4 parameters."""
    group = Group(
        Symmetry.rescale,
        "uneven",
        (),
        (rows("a", (3, 3)), Members("b", 0, (0, 2, 2), length=2)),
        blocks=((0, 1, 2),),
    )
    assert off_diagonal(group).entries == 5 + 7


@torch.no_grad()
def test_lines_that_a_unit_lacks_count_as_none():
    """Q_ab = 2 of `b` of which only unit 2 has two lines."""
    group = off_diagonal(
        Group(
            Symmetry.rescale,
            "uneven",
            (),
            (rows("a", (3, 3)), Members("b", 0, (0, 2, 2), length=2, sign=-1)),
            blocks=((0, 1, 2),),
        )
    )
    model = torch.nn.ParameterDict({"a": torch.zeros(3, 3), "b": torch.ones(3, 2)})
    found = Measure(model, [group]).weights()
    assert found.measured.tolist() == [0, -2, 0]
    assert found.magnitude.tolist() == [1, 3, 2]


def test_no_copy_of_a_network_is_made():
    """Four planes of a piece, or the products of all pairs, are the largest float64 tensors."""
    model = torch.nn.Sequential(*(torch.nn.Linear(400, 400) for _ in range(6)))
    groups = [
        Group(Symmetry.rescale, str(n), (), (rows(f"{n}.weight", (400, 400)),)) for n in range(6)
    ]
    blocks = tuple(tuple(range(first, first + 40)) for first in range(0, 400, 40))
    pairs = [off_diagonal(dataclasses.replace(one, blocks=blocks)) for one in groups]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    with LargestFloat64() as largest:
        measure = Measure(model, pairs)
        measure.weights()
        measure.gradients()
        measure.keep()
        measure.step()
    assert 0 < largest.entries <= 2 * 6 * 400 * 40 < 6 * 400 * 400 / 4
