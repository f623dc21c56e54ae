"""Every group that is found is a symmetry: the loss does not change along it, to rounding.

BatchNorm's eps breaks the scale symmetry, so these networks have one too small to be felt.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.models.vgg import vgg
from symrun.symmetry import Symmetry, find_structure

MODELS = ["vgg11", "vgg11_bn", "vgg16", "vgg16_bn"]


def network(name, dtype):
    torch.manual_seed(1)
    model = vgg(name, 5, 64, 1 / 16, dropout=0.0).to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30  # torch refuses 0; beside a variance this rounds away
    with torch.no_grad():  # biases away from 0, so that they count
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images = torch.randn(4, 3, 64, 64, dtype=dtype)
    labels = torch.tensor([0, 1, 2, 4])
    return model, images, labels


def unit_by_unit(values, members):
    """[units, entries of the unit]"""
    lines = values.view(len(values), -1).movedim(members.axis, 0)
    return lines.reshape(members.count, -1)


def transform(model, group, factors):
    """Act on each unit with a factor of its own: + factor, or * factor on A1 and / factor on A2."""
    for members in group.members:
        values = model.get_parameter(members.parameter)
        entries = values.view(len(values), -1).movedim(members.axis, 0)
        factor = factors[list(members.units), None]
        if group.symmetry is Symmetry.translation:
            entries += factor
        elif group.symmetry is Symmetry.scale or members.sign == -1:
            entries *= factor
        else:
            entries /= factor


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_loss_is_invariant_under_every_group(name):
    model, images, labels = network(name, torch.float64)
    loss = F.cross_entropy(model(images), labels)
    for group in find_structure(model, images).groups:
        changed, _, _ = network(name, torch.float64)
        transform(changed, group, 0.5 + torch.rand(group.units, dtype=torch.float64))
        difference = F.cross_entropy(changed(images), labels) - loss
        assert abs(difference) < rounding(torch.float64) * loss, group.name


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_is_no_symmetry_changes_the_loss(name):
    """The test above can fail: scaling only what enters the units shows."""
    model, images, labels = network(name, torch.float64)
    loss = F.cross_entropy(model(images), labels)
    groups = find_structure(model, images).groups
    group = next(group for group in groups if group.symmetry is Symmetry.rescale)
    model.get_parameter(group.members[0].parameter).mul_(2)
    assert abs(F.cross_entropy(model(images), labels) - loss) > 1e-6 * loss


def rounding(dtype):
    """What rounding alone can leave of an exact zero, relative to its terms.

    Machine epsilon times the root of the longest sum (4 images of 64x64), times 20 layers.
    """
    return 20 * torch.finfo(dtype).eps * (4 * 64 * 64) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_orthogonal_to_the_generator(name, dtype):
    model, images, labels = network(name, dtype)
    F.cross_entropy(model(images), labels).backward()
    for group in find_structure(model, images).groups:
        constraint = norm_sq = grad_norm_sq = torch.zeros(group.units, dtype=torch.float64)
        for members in group.members:
            parameter = model.get_parameter(members.parameter)
            generator = unit_by_unit(parameter.detach().double(), members)
            if group.symmetry is Symmetry.translation:
                generator = torch.ones_like(generator)
            gradient = unit_by_unit(parameter.grad.double(), members)
            constraint = constraint + members.sign * (generator * gradient).sum(1)
            norm_sq = norm_sq + generator.square().sum(1)
            grad_norm_sq = grad_norm_sq + gradient.square().sum(1)
        alive = grad_norm_sq > 0  # a dead ReLU has no gradient at all
        assert alive.any(), group.name
        cosine = constraint.abs()[alive] / (norm_sq * grad_norm_sq)[alive].sqrt()
        assert cosine.max() < rounding(dtype), group.name
