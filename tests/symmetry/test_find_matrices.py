"""Matrices are found wherever any invertible matrix may mix units, and nowhere else."""

import random
from itertools import combinations

import attentions
import pytest
import torch
from attentions import Attention, Cross, Fused, LowRank, Residual, Strided, Torch, chain, tokens
from torch import nn

from symrun.symmetry import Group, Symmetry, columns, find_structure, matrices, rows
from symrun.symmetry.groups import off_diagonal
from symrun.symmetry.matrices import find_matrices, with_off_diagonal
from symrun.symmetry.proof import prove

HEADS = [(0, 1, 2, 3), (4, 5, 6, 7)]
ALL = [(0, 1, 2, 3)]


def found(model, inputs=None, criterion=attentions.criterion, seed=0):
    """The blocks of each group of rescale, by its name; groups without any left out."""
    inputs = tokens() if inputs is None else inputs
    torch.manual_seed(0)
    structure = find_structure(model.double(), inputs, criterion)
    groups = find_matrices(model, structure.groups, inputs, criterion, structure.varies, seed)
    assert [one.name for one in groups] == [one.name for one in structure.groups]
    return {one.name: list(one.blocks) for one in groups if one.blocks}


@pytest.mark.parametrize(
    ("kind", "queries", "values"),
    [
        (Attention, HEADS, HEADS),
        (attentions.ByHand, HEADS, HEADS),
        (attentions.Dropped, HEADS, HEADS),
        (Strided, [(0, 2, 4, 6), (1, 3, 5, 7)], [(0, 2, 4, 6), (1, 3, 5, 7)]),
        (attentions.MultiQuery, ALL, ALL),
        (attentions.Repeated, ALL, ALL),
        (Cross, HEADS, HEADS),
        (attentions.Normalised, None, HEADS),
        (attentions.Rotary, None, HEADS),
        (attentions.PartlyRotary, [(1, 2), (4, 5)], HEADS),
    ],
)
def test_each_head_has_one_between_queries_and_keys_and_one_between_values_and_output(
    kind, queries, values
):
    expected = {"q -> k": queries, "v -> out": values}
    assert found(kind()) == {name: blocks for name, blocks in expected.items() if blocks}


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 4}, {"bias": False}, {"dropout": 0.2}])
def test_those_of_torchs_own_attention_are_found_in_its_packed_weights(options):
    assert list(found(Torch(**options)).values()) == [HEADS, HEADS]


def test_one_layer_for_queries_keys_and_values_has_both():
    assert found(Fused()) == {"qkv -> qkv": HEADS, "qkv -> out": HEADS}


def test_an_adapter_of_low_rank_has_one_beside_a_frozen_layer():
    assert found(LowRank()) == {"a -> b": [(0, 1, 2)]}


def test_a_stream_between_linear_layers_has_one_over_all_that_write_and_read():
    assert found(Residual()) == {"read, add -> add, write": ALL}


@pytest.mark.parametrize("between", [(), (nn.Identity(),)])
def test_linear_layers_in_a_row_have_one(between):
    assert list(found(chain(*between)).values()) == [ALL]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.Dropout(0.01), nn.Dropout(0.99), nn.GELU()],
    ids=str,
)
def test_what_stands_between_two_layers_and_is_not_linear_leaves_none(between, seed):
    # Two examples, so that many units are cut off in the same ones
    few = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert found(chain(between, widths=(5, 24, 3)), few, seed=seed) == {}


class Gate(nn.Module):
    """Between two layers. draws: what is drawn, of the shape of its argument; 0 shuts."""

    def __init__(self, draws):
        super().__init__()
        self.draws = draws

    def forward(self, x):
        return x * self.draws(x).to(x.dtype)


@pytest.mark.parametrize(
    "draws",
    [
        lambda x: torch.rand_like(x) > 0.001,
        lambda x: torch.rand(x.shape) < 0.999,
        lambda x: torch.empty_like(x).uniform_(-1, 1) < 0.999,
        lambda x: torch.bernoulli(torch.full_like(x, 0.999)),
        lambda x: torch.bernoulli(torch.ones_like(x), p=0.999),
        lambda x: torch.empty_like(x).bernoulli_(0.999),
        lambda x: torch.empty_like(x).bernoulli_(torch.full_like(x, 0.999)),
        lambda x: torch.randn_like(x) < 3.5,
        lambda x: 1 + 0.01 * torch.randn_like(x),
        lambda x: torch.native_dropout(torch.ones_like(x), p=0.001, train=True)[0],
    ],
)
def test_a_gate_that_is_drawn_at_random_leaves_none_however_seldom_it_shuts(draws):
    few = tokens(4, 1, 5)[:, 0]
    assert found(chain(Gate(draws), widths=(5, 24, 3)), few) == {}


def test_noise_that_all_units_share_leaves_their_matrix():
    shared = Gate(lambda x: torch.rand_like(x[..., :1]) > 0.1)
    assert list(found(chain(shared)).values()) == [ALL]


def test_a_relu_that_cuts_nothing_off_in_the_batch_leaves_none():
    model = chain(nn.ReLU(), widths=(4, 6, 3))
    with torch.no_grad():
        model[0].bias.fill_(100.0)
    assert found(model, tokens(width=4)) == {}


def test_convolutions_in_a_row_have_one_and_one_for_each_of_their_groups():
    model = nn.Sequential(
        nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 1),
        nn.Conv2d(6, 4, 3, groups=2),
    )  # fmt: skip
    images = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    blocks = found(model, images, lambda out: out.log_softmax(1).square().sum())
    assert blocks == {"0 -> 1": [(0, 1, 2, 3, 4)], "3 -> 4": [(0, 1, 2), (3, 4, 5)]}


@pytest.mark.parametrize("kind", [Attention, attentions.Normalised, Torch, Fused])
def test_in_sequences_of_one_token_none_is_looked_for(kind, caplog):
    assert found(kind(), tokens()[:, :1]) == {}
    assert "no matrix is looked for: the loss does not feel" in caplog.text
    assert caplog.text.count("give others") == 1


def test_what_these_inputs_do_not_show_is_seen_in_random_ones():
    alike = tokens()[:, :1].repeat(1, 5, 1)
    assert found(Attention(), alike) == found(Attention())
    flat = torch.randn(4, 1, 1, 1, dtype=torch.float64).expand(4, 1, 4, 4)
    pooled = nn.Sequential(nn.Conv2d(1, 6, 1), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2), nn.Flatten())
    assert found(pooled, flat) == {}
    dark = torch.zeros(4, 5, dtype=torch.float64)
    dark[0, 0] = 1
    cut = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    assert found(cut, dark, lambda out: out.log_softmax(-1)[:, 0].sum()) == {}


class Positive(nn.Module):
    """Takes no other inputs than positive ones."""

    def forward(self, x):
        if (x.detach() < 0).any():
            raise ValueError("negative")
        return x


def test_a_network_that_does_not_take_random_inputs_is_looked_at_with_its_own():
    own = tokens().abs() + 0.1
    assert found(nn.Sequential(Positive(), *chain()), own) == {"1 -> 2": ALL}


class Experts(nn.Module):
    """Two of two layers; no example reaches the second."""

    def __init__(self):
        super().__init__()
        self.one, self.other = (
            nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)),
            nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)),
        )

    def forward(self, x):
        return torch.where(x[:, :1] > 1e9, self.other(x), self.one(x))


def test_an_expert_that_no_example_reaches_takes_none_from_the_others(caplog):
    few = torch.randn(4, 6, dtype=torch.float64)
    assert found(Experts(), few) == {"one.0 -> one.1": ALL}
    assert "no matrix is looked for in other.0 -> other.1: the loss does not feel" in caplog.text


def test_units_of_large_layers_are_compared_in_part_first():
    model = nn.Sequential(
        nn.Linear(3, 400), nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 300), nn.Tanh()
    )
    assert found(model, torch.randn(4, 3, dtype=torch.float64)) == {"0 -> 1": [tuple(range(400))]}


class Half(nn.Module):
    """Two layers; a ReLU cuts off the second half of the units between them."""

    def __init__(self, units):
        super().__init__()
        self.into, self.out = nn.Linear(6, units, bias=False), nn.Linear(units, 3)

    def forward(self, x):
        free, cut = self.into(x).chunk(2, dim=1)
        return self.out(torch.cat([free, cut.relu()], 1))


@pytest.mark.parametrize(("units", "seed"), [(64, 0), (64, 1), (300, 0), (300, 1)])
def test_linear_units_beside_many_of_a_relu_are_all_found(units, seed):
    few = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    blocks = found(Half(units), few, lambda out: out.log_softmax(1)[:, 0].sum(), seed)
    assert blocks == {"into -> out": [tuple(range(units // 2))]}


def test_a_block_that_fails_its_proof_is_divided_at_other_points(monkeypatch):
    monkeypatch.setattr(matrices, "_POINTS", 1)  # one does not tell all apart
    few = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = found(Half(60), few, lambda out: out.log_softmax(1)[:, 0].sum())
    assert blocks == {"into -> out": [tuple(range(30))]}


def test_a_block_that_is_none_fails_the_proof_and_leaves_the_others():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs = tokens(width=4)
    groups = find_structure(model, inputs, attentions.criterion).groups
    linear, cut = (one for one in groups if one.symmetry is Symmetry.rescale)
    claimed = [
        off_diagonal(Group(one.symmetry, one.name, one.layers, one.members, blocks))
        for one, blocks in ((linear, ALL), (cut, [(0, 1, 2)]), (cut, [(3, 5)]))
    ]
    true, *false = prove(model, claimed, inputs, attentions.criterion)
    assert true.reason is None
    assert true.loss_change < 1e-12 and true.defect < 1e-12
    assert all("under its transformation" in proof.reason for proof in false)


@pytest.mark.parametrize("units", [2, 3, 40])
def test_drawn_entries_are_a_sample_of_all(units):
    members = rows("one", (units, 2)), columns("two", (2, units), units, -1)
    blocks = (tuple(range(units)),)
    group = Group(Symmetry.rescale, "one -> two", ("one", "two"), members, blocks)
    every = off_diagonal(group).pairs
    assert every == tuple(combinations(range(units), 2))
    draws = random.Random("7 one -> two")
    drawn = sorted(draws.sample(every, min(units, len(every))))
    assert off_diagonal(group, sampled=True, seed=7).pairs == tuple(drawn)


def test_units_with_other_signs_are_left_out():
    shapes = {"one": (3, 2), "two": (4, 3)}
    members = rows("one", shapes["one"], -2), columns("two", shapes["two"], 3, 1)
    group = Group(Symmetry.rescale, "one -> two", ("one", "two"), members)
    assert find_matrices(nn.Linear(1, 1), [group], tokens(), attentions.criterion) == [group]


def test_nothing_of_the_model_changes():
    model, draws = attentions.Dropped().double(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups = find_structure(model, tokens(), attentions.criterion).groups
    find_matrices(model, groups, tokens(), attentions.criterion)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(one.grad is None for one in model.parameters())
    assert torch.get_rng_state().equal(draws)


def test_entries_come_last_and_are_added_once():
    model = Attention().double()
    structure = find_structure(model, tokens(), attentions.criterion)
    groups = find_matrices(model, structure.groups, tokens(), attentions.criterion)
    whole = with_off_diagonal(type(structure)(structure.layers, tuple(groups)), sampled=False)
    assert [one.units for one in whole.groups[-2:]] == [12, 12]
    assert not any(one.pairs for one in whole.groups[:-2])
    assert with_off_diagonal(whole, sampled=True) == whole
