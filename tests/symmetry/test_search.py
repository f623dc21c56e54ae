"""A network's groups: names, members and order. test_blocks.py shows that none is missed."""

import random

import pytest
import torch
import torch.nn.functional as F
from blocks import IMAGES, TOKENS, Attention, conv_bn, squared_relu, transformer
from net import Net
from torch import nn

from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.symmetry import Members, Symmetry, columns, find_structure, rows
from symrun.symmetry.parameters import overlapping


def units_by_symmetry(structure):
    counts = dict.fromkeys((Symmetry.translation, Symmetry.scale, Symmetry.rescale), 0)
    for group in structure.groups:
        counts[group.symmetry] += group.units
    return counts


def names(model, example, symmetry=None):
    groups = find_structure(model, example).groups
    return [group.name for group in groups if symmetry in (None, group.symmetry)]


FEATURES = torch.zeros(2, 6)


def test_vgg16_without_bn_has_every_group():
    structure = find_structure(vgg("vgg16", 200, 64, 1.0, 0.5), torch.zeros(2, 3, 64, 64))
    assert units_by_symmetry(structure) == {
        Symmetry.scale: 0,
        Symmetry.rescale: 4224 + 2048,
        Symmetry.translation: 1024 + 1,
    }
    rescale = [group for group in structure.groups if group.symmetry is Symmetry.rescale]
    assert len(rescale) == 12 + 1 + 2
    assert [layer.kind for layer in structure.layers] == ["convolution"] * 13 + ["linear"] * 3
    blocks = [layer.block for layer in structure.layers if layer.kind == "convolution"]
    assert blocks == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_vgg16_with_bn_has_every_group():
    structure = find_structure(vgg("vgg16_bn", 200, 64, 1.0, 0.5), torch.zeros(2, 3, 64, 64))
    assert units_by_symmetry(structure) == {
        Symmetry.scale: 4224,
        Symmetry.rescale: 4224 + 2048,
        Symmetry.translation: 1024 + 1,
    }
    found = [group.name for group in structure.groups]
    assert "features.3" in found and "features.4 -> features.7" in found
    assert found[-2:] == ["classifier.6", "classifier.6.bias"]


def test_flattened_channels_keep_their_positions_together():
    structure = find_structure(vgg("vgg11", 10, 64, 1.0, 0.5), torch.zeros(2, 3, 64, 64))
    (group,) = [group for group in structure.groups if group.name.endswith("-> classifier.0")]
    assert group.units == 512
    assert group.members[-1] == columns("classifier.0.weight", (1024, 2048), 512)
    assert group.members[-1].units[:9] == (0, 0, 0, 0, 1, 1, 1, 1, 2)


def test_search_changes_nothing():
    model = vgg("vgg11_bn", 10, 32, 0.125, 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_states = torch.get_rng_state(), random.getstate()
    find_structure(model, torch.zeros(2, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def mlp(*between):
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Linear(5, 3))


@pytest.mark.parametrize(
    "between",
    [(), (nn.ReLU(),), (nn.LeakyReLU(0.1),), (nn.Dropout(0.5), nn.Identity(), nn.ReLU())],
)
def test_homogeneous_operations_keep_a_rescale_group(between):
    last = f"{1 + len(between)}"
    assert names(mlp(*between), FEATURES) == [f"0 -> {last}", last, f"{last}.bias"]


@pytest.mark.parametrize(
    "operation", [nn.GELU(), nn.Tanh(), nn.ReLU6(), nn.Softplus(), nn.AlphaDropout()]
)
def test_anything_else_ends_the_group(operation):
    assert names(mlp(operation), FEATURES, Symmetry.rescale) == []


def test_batch_norm_over_features_absorbs_scale_and_passes_its_own_parameters_on():
    model = mlp(nn.BatchNorm1d(5), nn.ReLU())
    assert names(model, FEATURES) == ["0", "1 -> 3", "3", "3.bias"]


def test_batch_norm_with_running_statistics_is_no_scale_symmetry():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    assert names(model, IMAGES) == ["0", "1 -> 3", "3", "3.bias"]
    model[1].eval()  # an affine map, which does not absorb a scale
    assert names(model, IMAGES) == ["1 -> 3", "3", "3.bias"]


def test_scale_reaches_a_normalisation_through_relu_and_pooling():
    norm = nn.BatchNorm2d(4, affine=False)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), norm, nn.Flatten())
    assert names(model, IMAGES) == ["0"]


def test_frozen_parameters_have_no_dynamics_and_no_group():
    model = mlp(nn.ReLU())
    model[0].bias.requires_grad_(False)
    assert names(model, FEATURES) == ["2", "2.bias"]


def test_the_channels_of_a_grouped_convolution_count_in_each_group():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 3, 1))
    first, second, *_ = find_structure(model, IMAGES).groups
    assert (first.name, second.name) == ("0 -> 1", "1 -> 2")
    assert first.members == (
        rows("0.weight", (4, 2), sign=-1),
        rows("0.bias", (4,), sign=-1),
        columns("1.weight", (6, 2), 4, parts=2),
    )


def test_a_residual_stream_is_one_group_of_all_that_write_to_it_and_read_from_it():
    model = Net(
        lambda net, x: net.head(F.relu((x := net.stem(x)) + net.two(net.one(x))).mean((2, 3))),
        stem=conv_bn(2, 4), one=conv_bn(4, 5), two=conv_bn(5, 4, 1, nn.Identity),
        head=nn.Linear(4, 3),
    )  # fmt: skip
    assert names(model, IMAGES) == [
        "stem.0", "one.0", "two.0", "stem.1, two.1 -> one.0, head", "one.1 -> two.0",
        "head", "head.bias",
    ]  # fmt: skip


def test_units_that_leave_by_two_layers_have_both_in_their_group():
    model = Net(
        lambda net, x: net.left(h := F.relu(net.one(x))) + net.right(h),
        one=nn.Linear(6, 5), left=nn.Linear(5, 3), right=nn.Linear(5, 3),
    )  # fmt: skip
    group, *_ = find_structure(model, FEATURES).groups
    assert group.name == "one -> left, right" and group.layers == ("one", "left", "right")
    assert [members.sign for members in group.members] == [-1, -1, 1, 1]


def test_many_layers_are_counted_in_a_name_rather_than_listed():
    model = Net(
        lambda net, x: sum(part(net.one(x).relu()) for part in net.parts),
        one=nn.Linear(6, 5), parts=nn.ModuleList([nn.Linear(5, 3) for _ in range(4)]),
    )  # fmt: skip
    assert names(model, FEATURES)[0] == "one -> parts.0 and 3 more"


def test_queries_and_keys_are_units_of_the_rows_of_one_parameter():
    groups = find_structure(transformer(Attention()), TOKENS).groups
    (group,) = [group for group in groups if group.name == "mix.qkv -> mix.qkv"]
    nothing, each = (-1,) * 4, (0, 1, 2, 3)
    queries, keys = (*each, *nothing, *nothing), (*nothing, *each, *nothing)
    assert set(group.members) == {
        Members(name, 0, units, length, sign)
        for name, length in (("mix.qkv.weight", 4), ("mix.qkv.bias", 1))
        for units, sign in ((queries, -1), (keys, 1))
    }


def test_behind_a_squared_relu_weights_count_twice():
    group, *_ = find_structure(squared_relu(), torch.zeros(2, 4)).groups
    assert group.name == "hidden -> out"
    assert {members.parameter: members.sign for members in group.members} == {
        "hidden.weight": -1, "hidden.bias": -1, "out.weight": 2,
    }  # fmt: skip


def test_a_flat_weight_that_is_divided_by_its_norm_is_one_unit_of_scale():
    model = Net(
        lambda net, x: net.out(F.linear(x, net.w / net.w.norm()).relu()),
        w=nn.Parameter(torch.ones(5, 6)), out=nn.Linear(5, 3),
    )  # fmt: skip
    group, *_ = find_structure(model, FEATURES).groups
    assert group.name == "w" and group.symmetry is Symmetry.scale
    assert group.members == (Members("w", 0, (0,) * 5, 6),)


def test_a_parameter_whose_rows_and_columns_cancel_is_no_member():
    model = mlp(nn.ReLU())
    nn.utils.parametrizations.spectral_norm(model[0])
    assert names(model, FEATURES) == ["0.parametrizations.weight.original", "2", "2.bias"]


def test_tied_weights_are_units_together():
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False))
    model.append(nn.ReLU()).append(nn.Linear(6, 3))
    model[2].weight = model[0].weight
    group, *_ = find_structure(model, FEATURES).groups
    assert group.name == "0 -> 4" and group.units == 1
    assert [members.sign for members in group.members] == [-1, 2]


def test_weights_that_share_their_numbers_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = nn.Parameter(model[0].weight)  # another Parameter, the same memory
    assert names(model, FEATURES) == ["4", "4.bias"]


def test_what_a_network_does_at_random_or_in_turn_is_seen_in_every_pass_that_is_made():
    class InTurn(nn.Sequential):
        calls = 0

        def forward(self, x):
            self.calls += 1
            hidden = self[0](x)
            return self[1](hidden.relu() if self.calls % 2 else hidden.tanh())

    assert names(InTurn(nn.Linear(6, 5), nn.Linear(5, 3)), FEATURES) == ["1", "1.bias"]


def test_a_criterion_decides_on_translations():
    assert names(mlp(nn.ReLU()), FEATURES)[1:] == ["2", "2.bias"]
    squares = find_structure(mlp(nn.ReLU()), FEATURES, lambda outputs: outputs.square().sum())
    assert [group.name for group in squares.groups] == ["0 -> 2"]
    of_two = Net(lambda net, x: (net.a(x), net.b(x)), a=nn.Linear(6, 3), b=nn.Linear(6, 3))
    both = find_structure(of_two, FEATURES, lambda pair: sum(y.log_softmax(1) for y in pair).sum())
    assert [group.name for group in both.groups] == ["a", "a.bias", "b", "b.bias"]


def test_layers_are_listed_once_and_only_with_a_weight_of_their_own():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 6), nn.Linear(6, 3))
    nn.utils.parametrizations.weight_norm(model[3])
    assert [layer.name for layer in find_structure(model, FEATURES).layers] == ["0", "4"]


def test_a_model_that_reads_numbers_is_followed_on_copies():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = mlp(nn.ReLU())

        def forward(self, x):
            return self.layers(x if x.sum() >= 0 else -x)

    assert names(Dynamic(), FEATURES)[0] == "layers.0 -> layers.2"


def test_all_parameters_within_the_memory_of_a_longer_one_overlap_it():
    memory = torch.randn(36)
    pieces = {"long": memory, "first": memory[2:6], "second": memory[20:24], "alone": memory + 1}
    assert overlapping(nn.ParameterDict(pieces)) == {"long", "first", "second"}


def test_a_model_that_fails_is_one_clear_error():
    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("no good\nat all")

    with pytest.raises(
        UsageError, match=r"Failing fails on inputs of shape .* found: no good"
    ) as caught:
        find_structure(Failing(), FEATURES)
    assert "\n" not in str(caught.value)
