"""The search finds what theory.md's table of VGG16 lists, and nothing that it cannot prove."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.symmetry import Symmetry, columns, find_structure


def units_by_symmetry(structure):
    counts = dict.fromkeys(Symmetry, 0)
    for group in structure.groups:
        counts[group.symmetry] += group.units
    return counts


def names(model, example, symmetry=None):
    groups = find_structure(model, example).groups
    return [group.name for group in groups if symmetry in (None, group.symmetry)]


IMAGES = torch.zeros(2, 3, 8, 8)
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
    random_state = torch.get_rng_state()
    find_structure(model, torch.zeros(2, 3, 32, 32))
    assert torch.equal(torch.get_rng_state(), random_state)
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
    "operation",
    [nn.GELU(), nn.Tanh(), nn.ReLU6(), nn.Softplus(), nn.AlphaDropout(), nn.LayerNorm(5)],
)
def test_anything_else_ends_the_group(operation):
    assert names(mlp(operation), FEATURES, Symmetry.rescale) == []


def test_batch_norm_over_features_absorbs_scale_and_passes_its_own_parameters_on():
    model = mlp(nn.BatchNorm1d(5), nn.ReLU())
    assert names(model, FEATURES) == ["0", "1 -> 3", "3", "3.bias"]


def test_scale_reaches_a_normalisation_through_relu_and_pooling():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Flatten()
    )
    assert names(model, IMAGES) == ["0"]


def test_frozen_batch_norm_is_no_scale_symmetry():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert names(model, IMAGES) == ["0", "1 -> 3"]
    model[1].eval()  # running statistics: an affine map, which does not absorb a scale
    assert names(model, IMAGES) == ["1 -> 3"]


def test_frozen_parameters_have_no_dynamics_and_no_group():
    model = mlp(nn.ReLU())
    model[0].bias.requires_grad_(False)
    assert names(model, FEATURES) == ["2", "2.bias"]


def test_grouped_convolution_ends_a_group_but_may_start_one():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3))
    assert names(model, IMAGES) == ["1 -> 2"]


def test_pooling_across_the_units_ends_the_group():
    assert names(mlp(nn.Unflatten(1, (5, 1)), nn.Flatten()), FEATURES, Symmetry.rescale) == []
    # one axis short of [batch, channels, length]: max_pool1d pools over the units themselves
    model = nn.Sequential(nn.Linear(6, 6), nn.MaxPool1d(2), nn.Linear(3, 2))
    assert names(model, FEATURES, Symmetry.rescale) == []


def test_linear_over_positions_does_not_pair_with_channels():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(6, 6))  # acts on the image's columns
    assert names(model, IMAGES, Symmetry.rescale) == []


def test_flatten_that_interleaves_units_ends_the_group():
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(8, 5), nn.Linear(3 * 8 * 5, 2)

        def forward(self, x):  # [batch, 3, 8, 8] -> units on the last axis -> flattened
            return self.two(torch.flatten(self.one(x), 1))

    assert names(ChannelsLast(), IMAGES, Symmetry.rescale) == []


class TwoBranches(nn.Module):
    def __init__(self, merge):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.merge = merge

    def forward(self, x):
        hidden = F.relu(self.one(x))
        return self.merge(self.left(hidden), self.right(hidden), hidden)


def test_units_that_leave_by_two_layers_have_both_in_their_group():
    model = TwoBranches(lambda left, right, hidden: left + right)
    (group,) = find_structure(model, IMAGES).groups
    assert group.name == "one -> left, right"
    assert [members.sign for members in group.members] == [-1, -1, 1, 1]


def test_a_residual_connection_ends_the_group():
    assert names(TwoBranches(lambda left, right, hidden: left + right + hidden), IMAGES) == []


def test_a_module_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.two(F.relu(self.one(F.relu(self.one(x)))))

    assert names(Twice(), FEATURES) == ["two", "two.bias"]


def test_tied_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = model[0].weight
    assert names(model, FEATURES) == ["4", "4.bias"]


def test_a_parametrised_weight_is_left_alone():
    model = mlp(nn.ReLU())
    nn.utils.parametrizations.weight_norm(model[0])
    assert names(model, FEATURES) == ["2", "2.bias"]


def test_a_parametrised_bias_is_left_alone():
    for layer, found in ((0, ["2", "2.bias"]), (2, [])):
        model = mlp(nn.ReLU())
        nn.utils.parametrize.register_parametrization(model[layer], "bias", nn.Softplus())
        assert names(model, FEATURES) == found


@pytest.mark.parametrize(
    ("alter", "found"),
    [
        (lambda m: m[0].register_forward_hook(lambda layer, x, y: y.clamp(max=1)), ["2", "2.bias"]),
        (lambda m: m[1].register_forward_pre_hook(lambda layer, x: (x[0] + 1,)), ["2", "2.bias"]),
        (lambda m: m[2].register_full_backward_hook(lambda layer, x, y: None), []),
        (lambda m: m.register_forward_hook(lambda layer, x, y: y.tanh()), []),
        (lambda m: setattr(m[0], "forward", torch.tanh), ["2", "2.bias"]),
    ],
)
def test_what_hooks_may_change_is_left_alone(alter, found):
    model = mlp(nn.ReLU())
    model[0] = nn.Linear(6, 6)
    model[2] = nn.Linear(6, 3)
    alter(model)
    assert names(model, FEATURES) == found


@pytest.mark.parametrize(
    "read",
    [
        lambda layer: layer.weight.norm(),
        lambda layer: layer._parameters["weight"].norm(),
        lambda layer: layer.state_dict()["weight"].norm(),
        lambda layer: sum(parameter.square().sum() for parameter in layer.parameters()),
    ],
)
def test_a_parameter_that_forward_reads_elsewhere_too_is_left_alone(read):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.two(F.relu(self.one(x))) * read(self.one)

    assert names(Reads(), FEATURES) == []


def test_a_layer_that_works_inside_another_module_too_is_left_alone():
    class Borrows(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
            self.last = nn.Linear(8, 6)

        def forward(self, x):
            borrowed = self.last(F.relu(self.encoder.linear1(x)))
            return self.encoder(x[:, None])[:, 0] + borrowed

    assert names(Borrows(), FEATURES) == []


def test_weights_that_share_their_numbers_are_left_alone():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[2].weight = nn.Parameter(model[0].weight)  # another Parameter, the same memory
    assert names(model, FEATURES) == ["4", "4.bias"]


def test_layers_are_listed_once_and_only_with_a_weight_of_their_own():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 6), nn.Linear(6, 3))
    nn.utils.parametrizations.weight_norm(model[3])
    assert [layer.name for layer in find_structure(model, FEATURES).layers] == ["0", "4"]


def test_logits_read_twice_or_not_from_a_linear_layer_are_no_translation():
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
    assert names(model, FEATURES) == []


def test_a_model_that_cannot_be_traced_is_one_clear_error():
    class Dynamic(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UsageError, match="Dynamic cannot be traced") as caught:
        find_structure(Dynamic(), FEATURES)
    assert "\n" not in str(caught.value)
