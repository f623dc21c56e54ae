"""The measuring pass in blocks, against sums over whole parameters written with einsum."""

import pytest
import torch
from largest import LargestFloat64
from torch import nn

from symrun.models.vgg import vgg
from symrun.symmetry import Group, Members, Symmetry, find_structure, rows
from symrun.tracking.measure import Measure
from symrun.tracking.momentum import momentum_of
from symrun.tracking.reductions import Reductions
from symrun.tracking.torch_sums import TorchSums


def a_model(
    name="vgg11_bn", layout=torch.channels_last, gradients=torch.channels_last, width=0.0625
):
    """With random gradients, in a layout of their own."""
    model = vgg(name, 10, 64, width, 0.5).to(memory_format=layout)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape)
        if parameter.dim() == 4:
            gradient = gradient.to(memory_format=gradients)
        parameter.grad = gradient
    return model, find_structure(model, torch.zeros(2, 3, 64, 64)).groups


def over_units(members, values, units):
    """By index_add_, which the measuring pass does without."""
    matrix = values.reshape(len(values), -1)
    sums = torch.zeros(units, dtype=values.dtype)
    return sums.index_add_(0, torch.tensor(members.units), matrix.sum(1 - members.axis))


def expected(model, groups):
    """measured, magnitude, grad_norm_sq, force, defect, no source; [units] over all groups."""
    parameters = dict(model.named_parameters())
    columns = [[], [], [], [], [], []]
    for group in groups:
        sums = [0, 0, 0, 0, 0, 0]
        for members in group.members:
            theta = parameters[members.parameter].detach().double()
            g = parameters[members.parameter].grad.double()
            if group.symmetry is Symmetry.translation:
                terms = [theta, theta.abs(), g * g, 0 * g, g, 0 * g]
            else:
                terms = [theta * theta, theta * theta, g * g, g * g, theta * g, 0 * g]
            signs = [members.sign, 1, 1, members.sign, members.sign, 1]
            for i, (sign, term) in enumerate(zip(signs, terms, strict=True)):
                sums[i] = sums[i] + sign * over_units(members, term, group.units)
        for column, values in zip(columns, sums, strict=True):
            column.append(values)
    return [torch.cat(column) for column in columns]


@pytest.mark.parametrize("block", [1, 1000, 2**14, 2**30])
@pytest.mark.parametrize("gradients", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_any_block_and_layout_gives_the_sums_over_parameters(name, layout, gradients, block):
    """Within the rounding of two float64 sums of at most 2^13 terms, none larger than 40."""
    model, groups = a_model(name, layout, gradients)
    measure = Measure(model, groups)
    (kind,) = measure._kinds
    kind._sums = TorchSums(kind._reductions, None, block)
    weights, found = measure.weights(), measure.gradients()
    of = [weights.measured, weights.magnitude, found.grad_norm_sq, *found.inputs]
    bound = 2 * 2**13 * 2.0**-53 * 2**13 * 40
    for ours, theirs in zip(of, expected(model, groups), strict=True):
        assert (ours - theirs).abs().max() <= bound


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_no_copy_of_a_network_is_made(momentum):
    """The largest float64 tensor holds eight planes of a block, or the sums that make the units."""
    model, groups = a_model(width=0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    measure = Measure(model, groups, momentum_of(optimizer))
    (kind,) = measure._kinds
    kind._sums = TorchSums(kind._reductions, momentum_of(optimizer), block=2**14)
    optimizer.step()

    with LargestFloat64() as largest:
        measure.weights()
        measure.gradients()
    assert 0 < largest.entries <= 8 * max(2**14, 4 * len(measure.degree))
    assert 4 * largest.entries < sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def test_the_last_slot_is_nothing():
    model, groups = a_model("vgg11")
    sums = TorchSums(Reductions(model, groups), None)
    assert (sums.weights()[:, -1] == 0).all() and (sums.gradients()[:, -1] == 0).all()
    assert (sums.gradients()[1, :-1] > 0).all()


@torch.no_grad()
def test_a_stream_of_many_members_beside_units_of_few():
    """12 members of one unit, and 40 units of which the first member has 3: each unit sums 1s."""
    names = [f"writes_{number}" for number in range(12)]
    model = nn.ParameterDict({name: torch.ones(5, 2) for name in names})
    model["few"], model["many"] = torch.ones(3, 2), torch.ones(40, 4)
    stream = tuple(Members(name, 0, (0,) * 5, length=2) for name in names)
    units = rows("few", (3, 2)), rows("many", (40, 4), sign=-2)
    groups = [Group(Symmetry.rescale, "stream", (), stream)]
    groups += [Group(Symmetry.rescale, "units", (), units), *groups]
    reductions = Reductions(model, groups)
    assert len(reductions._tables) == 2  # else this test proves nothing
    found = Measure(model, groups).weights()
    assert found.measured.tolist() == [120, *[2 - 8] * 3, *[-8] * 37, 120]
    assert found.magnitude.tolist() == [120, *[2 + 8] * 3, *[8] * 37, 120]
