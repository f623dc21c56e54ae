"""The Hessian's constraints against the whole Hessian, unit by unit, on networks small enough.

Nothing here shares code with the package but what is checked: units are written down by hand, the
whole Hessian is torch's own.
"""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symrun.constraints import hessian_constraints
from symrun.constraints.hessian import Curvature
from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.symmetry import Group, Symmetry, columns, find_structure
from symrun.symmetry.homogeneity import find_homogeneity
from symrun.symmetry.lines import lines_of

SEED = 3
# Sums of up to 100 terms, in 4 layers, 3 passes: their roundings, each 2^-53 relative.
ROUNDING = 100 * 4 * 3 * 2.0**-53


def network(eps=1e-30, classes=3):
    """Conv -> BatchNorm -> ReLU -> Linear -> ReLU -> Linear: each symmetry, 267 parameters or so.

    `eps` as it is rounds away beside a variance.
    """
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, eps=eps), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * 16, 4), nn.ReLU(), nn.Linear(4, classes),
    ).double()  # fmt: skip
    with torch.no_grad():  # biases away from 0, so that they count
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    images = torch.randn(6, 2, 6, 6, dtype=torch.float64)
    labels = torch.arange(6) % classes
    return model, find_structure(model, images).groups, images, labels


def units_by_hand(classes=3):
    """(symmetry, group) -> for each unit, [(sign, parameter, index of its entries)]."""
    of_images = [(4, slice(None), slice(16 * unit, 16 * unit + 16)) for unit in range(3)]
    return {
        ("scale", "0"): [[(1, "0.weight", unit), (1, "0.bias", unit)] for unit in range(3)],
        ("rescale", "1 -> 4"): [
            [(-1, "1.weight", unit), (-1, "1.bias", unit), (1, "4.weight", of_images[unit][1:])]
            for unit in range(3)
        ],
        ("rescale", "4 -> 6"): [
            [(-1, "4.weight", u), (-1, "4.bias", u), (1, "6.weight", (slice(None), u))]
            for u in range(4)
        ],
        ("translation", "6"): [[(1, "6.weight", (slice(None), unit))] for unit in range(4)],
        ("translation", "6.bias"): [[(1, "6.bias", slice(None))]],
    }


def flat(model, vector):
    """A vector over named parameters, zero where it names none, as one [parameters]."""
    return torch.cat([
        vector.get(name, torch.zeros_like(parameter)).reshape(-1)
        for name, parameter in model.named_parameters()
    ])  # fmt: skip


def on_unit(unit, values):
    """`values` on the entries of a unit, with the unit's signs, and zero elsewhere."""
    vector = {}
    for sign, name, index in unit:
        vector.setdefault(name, torch.zeros_like(values[name]))[index] = sign * values[name][index]
    return vector


def whole_hessian(model, images, labels):
    """By torch.autograd.functional.hessian: [parameters, parameters]; and the gradient."""
    parameters = dict(model.named_parameters())
    sizes = [parameter.numel() for parameter in parameters.values()]

    def loss(theta):
        parts = zip(parameters.items(), theta.split(sizes), strict=True)
        weights = {name: part.view(parameter.shape) for (name, parameter), part in parts}
        return F.cross_entropy(torch.func.functional_call(model, weights, images), labels)

    theta = flat(model, {name: p.detach() for name, p in parameters.items()}).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta)
    named = zip(parameters.items(), gradient.split(sizes), strict=True)
    gradient = {name: part.view(parameter.shape) for (name, parameter), part in named}
    return torch.autograd.functional.hessian(loss, theta.detach()), gradient


def violation(model, hessian, gradient, symmetry, unit):
    """H v_u + g_u for one unit, and the two terms."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ones = {name: torch.ones_like(weight) for name, weight in weights.items()}
    translation = symmetry == "translation"
    product = hessian @ flat(model, on_unit(unit, ones if translation else weights))
    right_side = flat(model, on_unit(unit, gradient))
    right_side = torch.zeros_like(product) if translation else right_side
    return product + right_side, product, right_side


def test_products_are_those_of_the_whole_hessian():
    model, _, images, labels = network()
    hessian, gradient = whole_hessian(model, images, labels)
    curvature = Curvature(model, images, labels, SEED)
    everywhere = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for vector in (everywhere, {name: everywhere[name] for name in ("0.bias", "6.weight")}):
        expected = hessian @ flat(model, vector)
        error = flat(model, curvature.times(vector)) - expected
        assert error.norm() <= ROUNDING * hessian.norm() * flat(model, vector).norm()
    error = flat(model, curvature.gradient) - flat(model, gradient)
    assert error.norm() <= ROUNDING * flat(model, gradient).norm()


def test_every_unit_of_the_whole_hessian_meets_its_constraint():
    """The theory itself, H v_u = -g_u; and the check agrees that it holds."""
    model, groups, images, labels = network()
    hessian, gradient = whole_hessian(model, images, labels)
    units = units_by_hand()
    assert [(group.symmetry.value, group.name) for group in groups] == list(units)
    for (symmetry, _), units_of_group in units.items():
        for unit in units_of_group:
            error, _, right_side = violation(model, hessian, gradient, symmetry, unit)
            assert error.norm() <= ROUNDING * hessian.norm() * 5  # |v_u| < 5
            if symmetry != "translation":
                assert right_side.norm() > 1e-3  # there is something to be met
    for row in hessian_constraints(model, groups, images, labels, SEED):
        assert row.units == len(units[row.symmetry, row.group])
        # relative to the right side, which the bound above is not
        assert row.relative_error <= ROUNDING * hessian.norm() * 5 / 1e-3
        assert row.largest_cosine <= ROUNDING


def test_a_broken_symmetry_shows_as_large_as_it_is():
    """BatchNorm's eps as large as a variance: the error is that of the random combination."""
    model, groups, images, labels = network(eps=0.5)
    hessian, gradient = whole_hessian(model, images, labels)
    rows = {
        (row.symmetry, row.group): row
        for row in hessian_constraints(model, groups, images, labels, SEED)
    }
    for (symmetry, group), units in units_by_hand().items():
        if symmetry == "translation":
            continue
        draws = torch.Generator().manual_seed(SEED)
        factors = torch.randn(len(units), dtype=torch.float64, generator=draws)
        parts = [violation(model, hessian, gradient, symmetry, unit) for unit in units]
        error = sum(factor * part[0] for factor, part in zip(factors, parts, strict=True))
        scale = sum(factor * part[2] for factor, part in zip(factors, parts, strict=True)).norm()
        found = rows[symmetry, group].relative_error
        assert abs(found - error.norm() / scale) <= ROUNDING * hessian.norm() * 5 / scale
        assert (found > 0.1) == (symmetry == "scale")
    for row in rows.values():
        assert (row.largest_cosine > 1e-3) == (row.symmetry == "scale")


@pytest.mark.parametrize("unit", [0, 1, 2, 3])
def test_a_violation_in_a_single_unit_shows(unit):
    """A constant behind one ReLU breaks the rescale symmetry of that unit alone."""
    model, groups, images, labels = network()
    constant = torch.zeros(4, dtype=torch.float64)
    constant[unit] = 0.5
    model[5].register_forward_hook(lambda _module, _inputs, output: output + constant)
    hessian, gradient = whole_hessian(model, images, labels)
    for number, entries in enumerate(units_by_hand()["rescale", "4 -> 6"]):
        error, _, right_side = violation(model, hessian, gradient, "rescale", entries)
        assert (error.norm() > 1e-2 * right_side.norm()) == (number == unit)
    for row in hessian_constraints(model, groups, images, labels, SEED):
        broken = row.group == "4 -> 6"
        assert (row.relative_error > 1e-3) == broken and (row.largest_cosine > 1e-3) == broken


def test_what_is_no_translation_symmetry_is_off_by_its_whole_size():
    """The scale of a constraint whose right side is 0: the columns of a hidden layer."""
    model, _, images, labels = network()
    hidden = Group(Symmetry.translation, "4", ("4",), (columns("4.weight", (4, 48), 48),))
    (row,) = hessian_constraints(model, [hidden], images, labels, SEED)
    # H v beside H w for two directions, neither of them special: of one order of magnitude
    assert 0.1 < row.relative_error < 10 and row.largest_cosine > 0.1


@pytest.mark.parametrize("seed", range(10))
def test_two_classes_leave_translation_a_scale(seed):
    """With random signs on two entries, half of all seeds would compare rounding with rounding."""
    model, groups, images, labels = network(classes=2)
    for row in hessian_constraints(model, groups, images, labels, seed):
        if row.symmetry == "translation":
            assert row.relative_error <= ROUNDING


def test_dead_units_have_no_numbers():
    model, groups, images, labels = network()
    with torch.no_grad():
        model[4].bias.fill_(-100)  # the ReLU behind it lets nothing through
    rows = {row.group: row for row in hessian_constraints(model, groups, images, labels, SEED)}
    for group in ("4 -> 6", "6"):
        assert rows[group].relative_error is None and rows[group].largest_cosine is None
    assert rows["6.bias"].relative_error <= ROUNDING


def test_weights_that_diverged_show():
    model, groups, images, labels = network()
    with torch.no_grad():
        model[6].weight[0, 0] = math.nan
    for row in hessian_constraints(model, groups, images, labels, SEED):
        assert math.isnan(row.relative_error) and math.isnan(row.largest_cosine)


def test_one_draw_of_dropout_serves_all_passes():
    """A second draw on the way back would break every constraint."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 4)).double()
    features, labels = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 4
    groups = find_structure(model, features).groups
    rows = []
    for seed in (0, 0, 1):
        rows.append(list(hessian_constraints(model, groups, features, labels, seed)))
        model.eval()  # it is set to training whatever it was
    assert rows[0] == rows[1] != rows[2]
    assert all(row.relative_error < 1e-3 for row in rows[0])


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
def test_a_product_for_each_unit_says_the_same(name):
    """The exhaustive check of a small VGG: a double backward pass for every unit of every group."""
    model = vgg(name, 4, 32, 1 / 32, dropout=0.0).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-30
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.arange(6) % 4
    groups = find_structure(model, images).groups
    rows = list(hessian_constraints(model, groups, images, labels, SEED))
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = F.cross_entropy(model(images), labels)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    gradient = dict(zip(names, gradient, strict=True))
    # 20 layers, 3 passes, each the roundings of the longest sum, 6 images of 32x32, which walk at
    # random; beside |g_u|, or where that is 0 beside 1, which H does not exceed there
    rounding = 20 * 3 * 2.0**-53 * (6 * 32 * 32) ** 0.5
    for group, row in zip(groups, rows, strict=True):
        translation = group.symmetry is Symmetry.translation
        for unit in range(group.units):
            slope = 0  # of the loss along v_u: its gradient is H v_u
            expected = {name: torch.zeros_like(parameter) for name, parameter in gradient.items()}
            for members in group.members:
                name, lines = members.parameter, torch.tensor(members.units) == unit
                theta = lines_of(members, model.get_parameter(name).detach())[lines]
                g = members.sign * lines_of(members, gradient[name])[lines]
                slope = slope + (g if translation else g * theta).sum()
                if not translation:
                    lines_of(members, expected[name])[lines] = -g.detach()
            product = torch.autograd.grad(
                slope, parameters, retain_graph=True, materialize_grads=True
            )
            error = math.hypot(
                *((h - e).norm() for h, e in zip(product, expected.values(), strict=True))
            )
            size = math.hypot(*(e.norm() for e in expected.values()))
            assert error <= rounding * (size or 1), (group.name, unit)
        assert row.relative_error <= rounding, row


def test_an_operation_without_a_second_derivative_is_one_line():
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.Hardsigmoid(), nn.Linear(3, 2)]
    model = nn.Sequential(*layers).double()
    images, labels = torch.ones(2, 2, dtype=torch.float64), torch.tensor([0, 1])
    groups = find_structure(model, images).groups
    with pytest.raises(UsageError, match="Hessian .* torch has no derivative of .*hardsigmoid"):
        list(hessian_constraints(model, groups, images, labels, SEED))


@pytest.mark.parametrize(
    "loss", [F.cross_entropy, lambda z, y: F.mse_loss(z, F.one_hot(y).double())]
)
def test_homogeneity_has_the_gradient_of_its_source_on_the_right_side(loss):
    """Beside torch's own Hessian, and the gradient of S by a difference of values."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    images, labels = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    group = find_homogeneity(model, images)
    (row,) = hessian_constraints(model, [group], images, labels, SEED, loss)
    assert row.relative_error <= ROUNDING and row.largest_cosine <= ROUNDING
    exponents = [1, 1, 1, 2]
    shapes = [parameter.shape for parameter in model.parameters()]
    theta = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    weights = torch.cat(
        [torch.full(s, a).flatten() for s, a in zip(shapes, exponents, strict=True)]
    )

    def outputs(values):
        parts = zip(values.split([s.numel() for s in shapes]), shapes, strict=True)
        (w1, b1, w2, b2) = (part.view(shape) for part, shape in parts)
        return (images @ w1.T + b1).relu() @ w2.T + b2

    def source(values):
        z = outputs(values).detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(z, labels), z)
        return (z * slope).sum().item()

    whole = torch.autograd.functional.hessian(lambda values: loss(outputs(values), labels), theta)
    gradient = torch.autograd.functional.jacobian(
        lambda values: loss(outputs(values), labels), theta
    )
    step = 1e-5 * torch.eye(len(theta), dtype=torch.float64)
    differences = [source(theta + e) - source(theta - e) for e in step]
    steepness = torch.tensor(differences, dtype=torch.float64) / 2e-5
    left, right = whole @ (weights * theta), 2 * steepness - weights * gradient
    # The difference is off by 1e-10 times third derivatives of about 1, and by rounding over 1e-5
    assert (left - right).abs().max() <= 1e-8 * left.abs().max()
    wrong = dataclasses.replace(group, outputs=3)
    (row,) = hessian_constraints(model, [wrong], images, labels, SEED, loss)
    assert row.relative_error > 0.1 and row.largest_cosine > 1e-3
