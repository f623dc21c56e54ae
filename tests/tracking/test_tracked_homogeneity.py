"""The balance of what scales the outputs, against sums of its own by torch alone, in float64."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import symrun
from symrun.laws import SGD

STEPS = 100
LR = 0.02


def with_biases():
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))


def without_biases():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(20, 4, bias=False)),
    )


NETWORKS = {
    "biases": (with_biases, (6,), {"0": (1, 1), "2": (1, 2), "4": (1, 3)}),
    "no biases": (without_biases, (2, 6, 6), {"0": (1,), "2": (1,), "5": (1,)}),
}
"""How to make it, the shape of an input, and the exponents of weight and bias by layer; the
outputs have 3."""
LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": lambda z, labels: F.mse_loss(z, F.one_hot(labels, 4).to(z.dtype)),
}
VARIANTS = {
    "plain": SGD(0.0),
    "momentum": SGD(0.0, 0.9),
    "dampening": SGD(1e-2, 0.9, 0.5),
    "nesterov": SGD(1e-2, 0.9, nesterov=True),
    "decay": SGD(1e-2),
}


def weighted(exponents, one, other):
    """sum of a_p <x_p, y_p>, over parameters in order."""
    return sum(a * (x * y).sum().item() for a, x, y in zip(exponents, one, other, strict=True))


def recursion(sgd, q, rows):
    """Law 3 from 2 <theta, g>_a = 2 h S; rows of S, U and V."""
    found, carried = [q], 0.0
    for step, (pull, update_sq, cross) in enumerate(rows):
        pull = 3 * pull + sgd.weight_decay * q
        if sgd.momentum:
            buffer = sgd.momentum * carried + (1 - (sgd.dampening if step else 0)) * pull
            along = pull + sgd.momentum * buffer if sgd.nesterov else buffer
            carried = buffer - LR * cross
        else:
            along = pull
        q = q - 2 * LR * along + LR**2 * update_sq
        found.append(q)
    return found


def by_hand(network, loss, sgd):
    """Q measured and by the recursion, [STEPS + 1] each."""
    model, batches, exponents = made(network)
    weights = list(model.parameters())
    buffers, rows, measured = None, [], [weighted(exponents, weights, weights)]
    for images, labels in batches:
        outputs = model(images)
        value = LOSSES[loss](outputs, labels)
        *gradients, slope = torch.autograd.grad(value, [*weights, outputs])
        with torch.no_grad():
            pulls = [g + sgd.weight_decay * w for g, w in zip(gradients, weights, strict=True)]
            if buffers is None or not sgd.momentum:
                buffers = pulls
            else:
                pairs = zip(buffers, pulls, strict=True)
                buffers = [sgd.momentum * b + (1 - sgd.dampening) * d for b, d in pairs]
            pairs = zip(pulls, buffers, strict=True)
            updates = [d + sgd.momentum * b for d, b in pairs] if sgd.nesterov else buffers
            source = (outputs * slope).sum().item()
            squares = weighted(exponents, updates, updates)
            rows.append((source, squares, weighted(exponents, updates, buffers)))
            for weight, update in zip(weights, updates, strict=True):
                weight -= LR * update
        measured.append(weighted(exponents, weights, weights))
    return measured, recursion(sgd, measured[0], rows)


def made(network):
    make, shape, exponents = NETWORKS[network]
    torch.manual_seed(0)
    model = make().double()
    data = torch.randn(64, *shape, dtype=torch.float64), torch.randint(4, (64,))
    chosen = [torch.randint(64, (16,)) for _ in range(STEPS)]
    flat = [a for layer in exponents.values() for a in layer]
    return model, [(data[0][rows], data[1][rows]) for rows in chosen], flat


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_law_but_flow_is_exact(network, loss, variant, tmp_path):
    """100 updates of about 20 roundings, and sums of up to 600 products, relative to |theta|^2."""
    sgd = VARIANTS[variant]
    measured, predicted = by_hand(network, loss, sgd)
    model, batches, _ = made(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, **dataclasses.asdict(sgd))
    example = {"loss": LOSSES[loss], "target": batches[0][1]}
    with symrun.track(
        model, optimizer, batches[0][0], tmp_path / "run", every=1, homogeneity=True, **example
    ):
        for images, labels in batches:
            optimizer.zero_grad()
            LOSSES[loss](model(images), labels).backward()
            optimizer.step()
    table = symrun.open_run(tmp_path / "run").units(symmetry="homogeneity").sort_values("step")
    size = max(measured)
    assert len(table) == STEPS + 1
    assert abs(measured[-1] - measured[0]) > 1e-3 * size
    for column, expected in {
        "measured": measured,
        "discrete": predicted,
        "exact": measured,
        "magnitude": measured,
    }.items():
        assert (table[column] - expected).abs().max() <= 1e-12 * size, column
    assert table["discrete"].sub(table["measured"]).abs().max() <= 1e-12 * size
    if variant in ("plain", "decay"):
        assert table["flow"].sub(table["measured"]).abs().max() <= 1e-4 * size
