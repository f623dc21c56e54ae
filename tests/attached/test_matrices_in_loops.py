"""symrun.track(matrices=...): entries of matrices in a loop of the user's own."""

import dataclasses

import pytest
import torch
from torch import nn

import symrun
from symrun.errors import UsageError
from symrun.symmetry.matrices import find_matrices


def made():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def inputs():
    return torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def groups(folder, model=None, **settings):
    """The units of each group of a run of two updates, by symmetry and name."""
    model = model or made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with symrun.track(model, optimizer, inputs(), folder / "run", every=1, **settings) as tracker:
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs()), torch.arange(6) % 3).backward()
            optimizer.step()
    run = symrun.open_run(tracker.path)
    last = run.units().query("symmetry == 'general_linear'")
    assert last[["flow", "discrete", "exact"]].notna().to_numpy().all()
    return {(row.symmetry.value, row.group): row.units for row in run.info.groups}


@pytest.mark.parametrize(("matrices", "entries"), [("full", 6), ("sample", 4)])
def test_the_entries_that_are_asked_for_are_recorded_last(matrices, entries, tmp_path):
    found = groups(tmp_path, matrices=matrices)
    assert list(found.items())[-1] == (("general_linear", "0 -> 1"), entries)


def test_without_it_none_is(tmp_path):
    assert not any(symmetry == "general_linear" for symmetry, _ in groups(tmp_path))


def test_a_structure_that_was_found_before_keeps_its_matrices(tmp_path):
    model = made()
    structure = symrun.find_structure(model, inputs())
    loss = lambda out: out.log_softmax(1).sum()  # noqa: E731
    found = find_matrices(model, structure.groups, inputs(), loss)
    whole = dataclasses.replace(structure, groups=tuple(found))
    recorded = groups(tmp_path / "one", model, structure=whole, matrices="full")
    assert recorded["general_linear", "0 -> 1"] == 6
    diagonal = groups(tmp_path / "two", model, structure=whole)
    assert ("general_linear", "0 -> 1") not in diagonal


def test_a_structure_without_any_says_how_to_find_them(tmp_path, caplog):
    model = made()
    structure = symrun.find_structure(model, inputs())
    groups(tmp_path, model, structure=structure, matrices="full")
    assert "structure holds no matrix: add those of find_matrices" in caplog.text


def test_a_network_without_any_says_that_it_has_no_effect(tmp_path, caplog):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    symrun.track(model, optimizer, torch.randn(8, 4), tmp_path / "run", matrices="full").close()
    assert "matrices=full has no effect: Sequential has no matrix" in caplog.text


class Late(nn.Module):
    """A ReLU that cuts nothing off of the first four examples."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = self.into(x)
        return self.out(torch.cat([hidden[:4], hidden[4:].relu()]))


@pytest.mark.parametrize(
    "loss", [{}, {"loss": nn.CrossEntropyLoss(), "target": torch.arange(6) % 3}]
)
def test_more_examples_are_looked_at_than_those_of_a_proof(loss, tmp_path):
    found = groups(tmp_path, Late().double(), matrices="full", **loss)
    assert ("rescale", "into -> out") in found
    assert ("general_linear", "into -> out") not in found


def test_another_value_is_refused(tmp_path):
    with pytest.raises(UsageError, match="matrices must be diagonal, sample or full, got 'all'"):
        groups(tmp_path, matrices="all")


ASKED = [
    ({}, {"matrices": "full"}, "matrices=diagonal, and now has matrices=full"),
    ({"matrices": "sample"}, {"matrices": "full"}, "matrices=sample, and now has matrices=full"),
    ({"matrices": "full"}, {}, "matrices=full, and now has matrices=diagonal"),
    ({}, {"homogeneity": True}, "homogeneity=False, and now has homogeneity=True"),
]


@pytest.mark.parametrize(("before", "now", "told"), ASKED)
def test_a_run_goes_on_with_what_it_was_asked_for(before, now, told, tmp_path):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), torch.randn(16, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with symrun.track(model, optimizer, inputs, tmp_path / "run", **before) as tracker:
        model(inputs).square().sum().backward()
        optimizer.step()
        state = tracker.state_dict()
    with symrun.track(model, optimizer, inputs, tmp_path / "run", **before) as tracker:
        tracker.load_state_dict(state)
    tracker = symrun.track(model, optimizer, inputs, tmp_path / "run", **now)
    with pytest.raises(symrun.UsageError, match=f"was tracked with {told}: ask for the same"):
        tracker.load_state_dict(state)
    tracker.close()
