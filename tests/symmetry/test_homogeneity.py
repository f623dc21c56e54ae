"""Which exponents scale the outputs, and that they do, in float64."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from net import Net
from torch import nn

from symrun.models.gpt import GPT
from symrun.models.resnet import SmallImageResNet
from symrun.models.vgg import vgg
from symrun.symmetry.homogeneity import find_homogeneity
from symrun.symmetry.proof import prove


def mlp(activation, bias=True):
    layers = [nn.Linear(4, 5, bias), activation, nn.Linear(5, 6, bias), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3, bias))


class Squared(nn.Module):
    def forward(self, x):
        return x.relu() ** 2


def normed():
    before = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*before, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def residual():
    """A branch cannot scale with its stream unless its layers do nothing to it."""
    return Net(
        lambda net, x: net.out(net.stem(x) + net.up(net.down(net.stem(x)).relu())),
        **{"stem": nn.Linear(4, 5), "down": nn.Linear(5, 6), "up": nn.Linear(6, 5)},
        out=nn.Linear(5, 3),
    )


def gpt(tied):
    return GPT(vocabulary=7, tokens=6, layers=1, heads=2, width=8, tied=tied)


VECTORS, IMAGES, TOKENS = torch.ones(4, 4), torch.ones(4, 3, 8, 8), torch.zeros(4, 6).long()
CASES = {
    "biases": (
        *(lambda: mlp(nn.ReLU()), VECTORS, 3),
        {"0.weight": 1, "0.bias": 1, "2.weight": 1, "2.bias": 2, "4.weight": 1, "4.bias": 3},
    ),
    "no biases": (
        *(lambda: mlp(nn.ReLU(), bias=False), VECTORS, 3),
        {"0.weight": 1, "2.weight": 1, "4.weight": 1},
    ),
    "tanh": (
        *(lambda: mlp(nn.Tanh()), VECTORS, 2),
        {"2.weight": 1, "2.bias": 1, "4.weight": 1, "4.bias": 2},
    ),
    "squared": (
        *(lambda: mlp(Squared()), VECTORS, 4),
        {"0.weight": 1, "0.bias": 1, "2.weight": 1, "2.bias": 3, "4.weight": 1, "4.bias": 4},
    ),
    "normalised": (
        *(normed, IMAGES, 2),
        {"4.weight": 1, "4.bias": 1, "7.weight": 1, "7.bias": 2},
    ),
    "residual": (
        *(residual, VECTORS, 2),
        {
            **{"stem.weight": 1, "stem.bias": 1, "down.bias": 1, "up.bias": 1},
            **{"out.weight": 1, "out.bias": 2},
        },
    ),
    "resnet": (
        *(lambda: SmallImageResNet(18, 3, 5, 0.0625), IMAGES, 2),
        {
            **{f"layer4.{place}.weight": 1 for place in ("0.bn2", "0.downsample.1", "1.bn2")},
            **{f"layer4.{place}.bias": 1 for place in ("0.bn2", "0.downsample.1", "1.bn2")},
            **{"fc.weight": 1, "fc.bias": 2},
        },
    ),
    "gpt": (
        lambda: gpt(tied=False),
        TOKENS,
        2,
        {"norm.weight": 1, "norm.bias": 1, "head.weight": 1},
    ),
    "tied gpt": (
        *(lambda: gpt(tied=True), TOKENS, 2),
        {
            **{"embedding.weight": 1, "positions": 1, "norm.weight": 1, "norm.bias": 1},
            **{"blocks.0.attention.value.weight": 1, "blocks.0.attention.value.bias": 1},
            **{"blocks.0.attention.project.bias": 1, "blocks.0.down.weight": 1},
            "blocks.0.down.bias": 1,
        },
    ),
}


def loss_of(outputs):
    """No symmetric one: of all outputs, and of each by itself."""
    flat = outputs.flatten(0, -2)
    return F.cross_entropy(flat, torch.arange(len(flat)) % flat.shape[-1]) + outputs[0].sum()


def inputs_like(example):
    return torch.randn(example.shape).double() if example.is_floating_point() else example


@pytest.mark.parametrize("name", CASES)
def test_the_exponents_are_found_and_proven(name):
    make, example, outputs, expected = CASES[name]
    torch.manual_seed(0)
    model = make()
    group = find_homogeneity(model, example)
    assert group.units == 1 and group.outputs == outputs
    assert {one.parameter: one.sign for one in group.members} == expected
    (proof,) = prove(model, [group], inputs_like(example), loss_of)
    assert proof.reason is None and max(proof.loss_change, proof.defect) < 1e-12


def test_a_vgg_with_biases_has_as_many_as_layers():
    model = vgg("vgg11", classes=10, image_size=32, width=0.125, dropout=0.5)
    group = find_homogeneity(model, torch.zeros(2, 3, 32, 32))
    exponents = {one.parameter: one.sign for one in group.members}
    assert group.outputs == 11
    assert [a for name, a in exponents.items() if name.endswith("weight")] == [1] * 11
    assert [a for name, a in exponents.items() if name.endswith("bias")] == [*range(1, 12)]


@pytest.mark.parametrize(
    "last", [nn.Softmax(1), nn.Sigmoid(), nn.LayerNorm(3, elementwise_affine=False)]
)
def test_outputs_that_no_exponents_scale(last):
    assert find_homogeneity(nn.Sequential(nn.Linear(4, 3), last), VECTORS) is None


def test_wrong_exponents_fail_the_proof():
    torch.manual_seed(0)
    model = mlp(nn.ReLU())
    group = find_homogeneity(model, VECTORS)
    inputs = inputs_like(VECTORS)
    (proof,) = prove(model, [dataclasses.replace(group, outputs=2)], inputs, loss_of)
    assert "the outputs scale otherwise than by its exponent" in proof.reason
    members = tuple(dataclasses.replace(one, sign=1) for one in group.members)
    (proof,) = prove(model, [dataclasses.replace(group, members=members)], inputs, loss_of)
    assert proof.reason is not None


def test_a_loss_of_more_than_the_outputs_fails_the_proof():
    torch.manual_seed(0)
    model = mlp(nn.ReLU())
    group = find_homogeneity(model, VECTORS)
    penalised = lambda z: loss_of(z) + 0.1 * model[0].weight.square().sum()  # noqa: E731
    (proof,) = prove(model, [group], inputs_like(VECTORS), penalised)
    assert "the loss depends on more than the outputs" in proof.reason
