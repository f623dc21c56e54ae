"""symrun's own networks: their layers, their sizes, and what they may depend on."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from symrun.constraints.hessian import Curvature
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.models import MODELS, build_model, entry_of
from symrun.tasks import make_criterion


def network(*settings, shape=(3, 32, 32), classes=10):
    return build_model(compose(["data=synthetic", *settings]).model, shape, classes)


def kinds(model):
    return [type(module).__name__ for module in model if not isinstance(module, nn.Flatten)]


def test_layers_of_an_mlp():
    assert kinds(network("model=mlp", "model.depth=0")) == ["Linear"]
    plain = network("model=mlp", "model.activation=tanh", "model.hidden=5", "model.bias=false")
    assert kinds(plain) == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [tuple(p.shape) for p in plain.parameters()] == [(5, 3072), (5, 5), (10, 5)]
    normed = network("model=mlp", "model.depth=1", "model.batch_norm=true", shape=(1, 28, 28))
    assert kinds(normed) == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert normed(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(("name", "whole"), [("resnet18_64", resnet18), ("resnet50_64", resnet50)])
def test_a_resnet_is_torchvisions_but_for_its_stem(name, whole):
    ours, theirs = network(f"model={name}"), whole(num_classes=10)
    here, there = (
        {key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs)
    )
    assert here.pop("conv1.weight") == (64, 3, 3, 3)
    assert there.pop("conv1.weight") == (64, 3, 7, 7)
    assert here == there
    assert ours.conv1.stride == (1, 1) and isinstance(ours.maxpool, nn.Identity)


@pytest.mark.parametrize("name", ["resnet18_64", "resnet34_64", "resnet50_64"])
def test_the_width_of_a_resnet_scales_every_layer(name):
    narrow, full = network(f"model={name}", "model.width=0.125"), network(f"model={name}")
    parameters = zip(narrow.named_parameters(), full.parameters(), strict=True)
    for (layer, small), large in parameters:
        units, usual = small.shape[0], large.shape[0]
        assert units == usual == 10 if layer.startswith("fc.") else units * 8 == usual
    assert narrow(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_stem_keeps_the_resolution():
    model = network("model=resnet18_64", "model.width=0.0625", shape=(1, 28, 28))
    seen = {}
    model.layer1.register_forward_hook(lambda _, images, out: seen.update(size=out.shape))
    model(torch.zeros(2, 1, 28, 28))
    assert seen["size"] == (2, 4, 28, 28)


def gpt(*settings):
    small = ["model=gpt", "model.layers=2", "model.heads=2", "model.width=8", *settings]
    return network(*small, shape=(6,), classes=11).double()


def test_a_gpt_sees_no_token_that_comes_later():
    model = gpt()
    tokens = torch.randint(11, (3, 6))
    changed = tokens.clone()
    changed[:, 4] = (tokens[:, 4] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 6, 11)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).all()


def test_a_gpt_against_a_computation_without_its_modules():
    """Every product is of numbers below 1 and exact to 2^-53; a few hundred of them are summed."""
    model = gpt()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    w = dict(model.named_parameters())
    tokens = torch.randint(11, (3, 6))

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return unit * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    stream = w["embedding.weight"][tokens] + w["positions"]
    later = torch.ones(6, 6).triu(1).bool()
    for block in ("blocks.0", "blocks.1"):
        x = norm(stream, f"{block}.norm")
        q, k, v = (linear(x, f"{block}.attention.{part}") for part in ("query", "key", "value"))
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = q[..., part] @ k[..., part].mT / 2  # sqrt of the 4 units of a head
            heads.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ v[..., part])
        stream = stream + linear(torch.cat(heads, -1), f"{block}.attention.project")
        hidden = linear(norm(stream, f"{block}.mlp_norm"), f"{block}.up")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        stream = stream + linear(hidden, f"{block}.down")
    expected = norm(stream, "norm") @ w["embedding.weight"].T
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)


def vit(*settings):
    small = ["model=vit", "model.layers=2", "model.heads=2", "model.width=8", "model.patch=4"]
    return network(*small, *settings, shape=(3, 8, 12), classes=5).double()


def test_a_vit_sees_every_patch_and_tells_their_places_apart_by_their_positions_alone():
    model, images = vit(), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert model.positions.shape == (6, 8) and model(images).shape == (2, 5)
    changed = images.clone()
    changed[:, :, 4:, 8:] += 1  # the last patch
    seen = []
    model.blocks[0].register_forward_hook(lambda _, stream, out: seen.append(out))
    assert (model(images) != model(changed)).all()
    assert (seen[0][:, 0] != seen[1][:, 0]).all()  # which a causal first patch would not see
    moved = torch.cat([images[..., 8:], images[..., :8]], dim=3)
    assert (model(images) - model(moved)).abs().min() > 1e-6
    nn.init.zeros_(model.positions)
    assert (model(images) - model(moved)).abs().max() < 1e-13


def test_what_a_vit_reads_and_classifies_against_a_computation_without_its_modules():
    """Sums of at most 48 products of numbers below 4, exact to 2^-53."""
    model, images = vit("model.bias=false"), torch.randn(2, 3, 8, 12, dtype=torch.float64)
    model.blocks, model.norm = nn.Identity(), nn.Identity()
    cut = images.reshape(2, 3, 2, 4, 3, 4).permute(0, 2, 4, 1, 3, 5).reshape(2, 6, 48)
    read = cut @ model.patches.weight.reshape(8, 48).T + model.positions
    expected = read.mean(dim=1) @ model.head.weight.T
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert (model(images) - expected).abs().max() < 1e-13


def test_the_curvature_of_a_gpt_vanishes_where_the_softmax_forgives_a_shift():
    """A constant added to a column of the head changes no loss, to any order: what is left is the
    rounding, 2^-53 each, of sums of some hundred terms below 1."""
    model = gpt("model.tied=false")
    tokens, labels = torch.randint(11, (2, 3, 6))
    task = compose(["task=next_token"]).task
    criterion = make_criterion(task, 11, torch.device("cpu"), torch.float64)
    curvature = Curvature(model, tokens, labels, 0, criterion)
    column = torch.zeros(11, 8, dtype=torch.float64)
    column[:, 3] = 1
    along = curvature.times({"head.weight": column})
    across = curvature.times({"head.weight": column * torch.randn(11, 1, dtype=torch.float64)})
    largest = max(values.abs().max() for values in across.values())
    assert largest > 1e-4
    assert all(values.abs().max() < 1e-13 for values in along.values())


def test_the_head_of_a_gpt_is_its_embedding_if_tied():
    tied, free = gpt(), gpt("model.tied=false", "model.bias=false")
    assert tied.head.weight is tied.embedding.weight
    assert free.head.weight is not free.embedding.weight
    assert not [name for name, _ in free.named_parameters() if name.endswith("bias")]


def test_dropout_of_a_gpt_acts_in_training_alone():
    model, tokens = gpt("model.dropout=0.5"), torch.randint(11, (3, 6))
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=mlp", "model.depth=-1"], "model.depth must be in [0, 1000], got -1"),
        (["model=mlp", "model.hidden=0"], "model.hidden must be in [1, 1000000], got 0"),
        (["model=mlp", "model.activation=swish"], "model.activation must be one of relu, tanh,"),
        (["model=mlp", "model.width=1"], "there is no setting model.width with model=mlp"),
        (["model=resnet18_64", "model.width=9"], "model.width must be in [1/64, 8], got 9"),
        (["model=gpt", "model.heads=3"], "model.width must be a multiple of model.heads (3), got"),
        (["model=gpt", "model.layers=0"], "model.layers must be in [1, 100000], got 0"),
        (["model=vit", "model.heads=5"], "model.width must be a multiple of model.heads (5), got"),
        (["model=vit", "data=cifar10", "model.patch=5"], "data.image_size must be a multiple of"),
        (["model=vit", "model.patch=0"], "model.patch must be in [1, 100000], got 0"),
        (["model=gpt", "model.dropout=1"], "model.dropout must be in [0, 1), got 1.0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UsageError) as caught:
        compose(["data=synthetic", *settings])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("gpt", (3, 32, 32), "data must be text for model=gpt, got images"),
        ("vit", (3, 30, 30), r"data.size must be a multiple of model.patch \(8\), got 30"),
        ("vit", (64,), "data must be images for model=vit, got text"),
        ("vgg11", (64,), "data must be images for model=vgg11, got text"),
        ("mlp", (64,), "data must be images for model=mlp, got text"),
    ],
)
def test_data_of_another_kind(model, shape, message):
    with pytest.raises(UsageError, match=message):
        network(f"model={model}", shape=shape)


def test_titles():
    titles = {
        "vgg16_bn": ("VGG16 with BN", "VGG16"),
        "resnet34_64": ("ResNet-34", "ResNet-34"),
        "mlp": ("MLP 2×256 relu", "MLP"),
        "gpt": ("GPT 4×128", "GPT"),
        "vit": ("ViT 6×192", "ViT"),
        "torchvision/vgg11": ("torchvision/vgg11", "vgg11"),
        "nets.mine:make": ("nets.mine:make", "make"),
    }
    for name, expected in titles.items():
        config = compose([f"model={name}"]).model
        assert MODELS[entry_of(name)].titles(config) == expected
