"""Each law of scalars that theory knows beyond the paper's, on the smallest network that has it.

The search finds it, SGD obeys it to rounding, and so does the Hessian. The eps of normalisations is
negligible here, so that nothing breaks a symmetry but rounding.
"""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from net import Net
from torch import nn

import symrun
from symrun.constraints import hessian_constraints
from symrun.symmetry import Group, Symmetry, find_structure, rows

EPS = 1e-30
STEPS = 100
ROUNDING = 1e-12
"""100 updates of about 20 roundings, and sums of up to 100 products, relative to the magnitude."""


def linear(*sizes, bias=True):
    return nn.Linear(*sizes, bias)


def behind(activation, **more):
    """A hidden layer of 6 with this activation."""
    return Net(
        lambda net, x: net.out(activation(net, net.one(x))),
        one=linear(5, 6),
        out=linear(6, 3),
        **more,
    )


def normed(norm, before, after, flat=False):
    """before -> norm -> ReLU -> after."""

    def forward(net, x):
        x = net.norm(net.one(x)).relu()
        return net.out(x.flatten(1) if flat else x)

    return Net(forward, one=before, norm=norm, out=after)


def residual():
    """Two layers write to a stream that two read, with nothing to take its scale away."""

    def forward(net, x):
        stream = net.one(x)
        stream = stream + net.up(net.down(stream).relu())
        return net.out(stream)

    return Net(forward, one=linear(5, 4), down=linear(4, 6), up=linear(6, 4), out=linear(4, 3))


def gated():
    """SwiGLU: of the two branches one is linear."""
    return Net(
        lambda net, x: net.out(F.silu(net.gate(x)) * net.line(x)),
        gate=linear(5, 6),
        line=linear(5, 6),
        out=linear(6, 3),
    )


def depthwise():
    return Net(
        lambda net, x: net.out(net.mix(net.deep(net.one(x).relu()).relu()).mean((2, 3))),
        one=nn.Conv2d(2, 4, 1),
        deep=nn.Conv2d(4, 4, 3, groups=4),
        mix=nn.Conv2d(4, 5, 1),
        out=linear(5, 3),
    )


def squeezed():
    """The channels are scaled by numbers that depend on them."""

    def forward(net, x):
        x = net.one(x).relu()
        x = x * net.excite(net.squeeze(x.mean((2, 3))).relu()).sigmoid()[..., None, None]
        return net.out(net.two(x).mean((2, 3)))

    return Net(
        forward,
        one=nn.Conv2d(2, 4, 3),
        squeeze=linear(4, 2),
        excite=linear(2, 4),
        two=nn.Conv2d(4, 5, 1),
        out=linear(5, 3),
    )


def layer_scale():
    def forward(net, x):
        return net.out(x + net.gamma * net.two(F.gelu(net.one(x))))

    return Net(
        forward,
        one=linear(5, 6),
        two=linear(6, 5),
        out=linear(5, 3),
        gamma=nn.Parameter(torch.rand(5) + 0.5),
    )


def standardised():
    def forward(net, x):
        w = net.one.weight
        mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
        return net.out(F.conv2d(x, (w - mean) / std).relu().flatten(1))

    return Net(forward, one=nn.Conv2d(2, 4, 3, bias=False), out=linear(4 * 16, 3))


def maxout():
    """A unit is the larger of two lines."""
    return Net(
        lambda net, x: net.out(net.one(x).unflatten(1, (6, 2)).amax(-1)),
        one=linear(5, 12),
        out=linear(6, 3),
    )


def before(norm):
    return lambda: normed(norm, linear(5, 6), linear(6, 3))


def before_images(norm):
    return lambda: normed(norm, nn.Conv2d(2, 4, 3), linear(64, 3), flat=True)


VECTORS, IMAGES = (5,), (2, 6, 6)
HIDDEN = [("rescale", "one -> out", 6)]
ROWS = {
    "LayerNorm": (
        *(before(nn.LayerNorm(6, EPS)), VECTORS),
        [("scale", "one", 1), ("translation", "one", 5), ("rescale", "norm -> out", 6)],
    ),
    "RMSNorm": (before(nn.RMSNorm(6, EPS)), VECTORS, [("scale", "one", 1)]),
    "GroupNorm": (
        *(before_images(nn.GroupNorm(2, 4, EPS)), IMAGES),
        [("scale", "one", 2), ("translation", "one.bias", 2), ("rescale", "norm -> out", 4)],
    ),
    "InstanceNorm": (
        *(before_images(nn.InstanceNorm2d(4, EPS, affine=True)), IMAGES),
        [("scale", "one", 4), ("rescale", "norm -> out", 4)],
    ),
    "squared ReLU": (lambda: behind(lambda net, x: x.relu() ** 2), VECTORS, HIDDEN),
    "cube": (lambda: behind(lambda net, x: x**3), VECTORS, HIDDEN),
    "PReLU": (lambda: behind(lambda net, x: net.act(x), act=nn.PReLU()), VECTORS, HIDDEN),
    "abs": (lambda: behind(lambda net, x: x.abs()), VECTORS, HIDDEN),
    "maxout": (maxout, VECTORS, HIDDEN),
    "clamp": (lambda: behind(lambda net, x: x.clamp(min=0)), VECTORS, HIDDEN),
    "residual stream": (
        *(residual, VECTORS),
        [("rescale", "one, up -> down, out", 4), ("rescale", "down -> up", 6)],
    ),
    "gate": (gated, VECTORS, [("rescale", "line -> out", 6)]),
    "depthwise": (
        *(depthwise, IMAGES),
        [("rescale", "one, deep -> mix", 4), ("rescale", "deep -> mix", 4)],
    ),
    "squeeze and excite": (
        *(squeezed, IMAGES),
        [("rescale", "one -> squeeze, two", 4), ("rescale", "squeeze -> excite", 2)],
    ),
    "layer scale": (layer_scale, VECTORS, [("rescale", "two -> gamma", 5)]),
    "weight standardisation": (standardised, IMAGES, [("scale", "one", 4)]),
}


@pytest.mark.parametrize("name", ROWS)
def test_it_is_found_and_obeyed(name, tmp_path):
    make, shape, expected = ROWS[name]
    torch.manual_seed(0)
    model = make().double()
    images, labels = torch.randn(64, *shape, dtype=torch.float64), torch.arange(64) % 3
    structure = find_structure(model, images)
    found = [(one.symmetry.value, one.name, one.units) for one in structure.groups]
    assert set(expected) <= set(found)
    by_hand = []
    if name == "weight standardisation":  # which the search does not follow
        members = (rows("one.weight", model.one.weight.shape),)
        by_hand = [Group(Symmetry.translation, "filters", ("one",), members)]
    structure = dataclasses.replace(structure, groups=(*structure.groups, *by_hand))
    constraints = hessian_constraints(model, structure.groups, images, labels, seed=0)
    assert max(row.relative_error or 0 for row in constraints) <= 1e-10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-2)
    path = tmp_path / "run"
    with symrun.track(model, optimizer, images, path, every=10, structure=structure):
        for _ in range(STEPS):
            batch = torch.randint(64, (16,))
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    units = symrun.open_run(path).units()
    for law in ("exact", "discrete"):
        error = (units["measured"] - units[law]).abs()
        assert (error / units["magnitude"]).where(error > 0, 0.0).max() <= ROUNDING, law
    motion = units.groupby(["symmetry", "group", "unit"], observed=True).measured
    assert (motion.max() - motion.min()).groupby(["symmetry", "group"]).max().min() > 1e-4
