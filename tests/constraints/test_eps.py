"""BatchNorm's eps breaks the scale symmetry in proportion to it, by an amount that is known."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import symrun
from symrun.constraints import hessian_constraints
from symrun.models.vgg import vgg
from symrun.symmetry import Symmetry, find_structure

SCRIPT = Path(symrun.__file__).parent.parent / "scripts" / "constraints_against_eps.py"
EPS = [1e-6, 1e-7, 1e-8, 1e-9]


@pytest.fixture
def network():
    model = vgg("vgg11_bn", 4, 32, 1 / 16, dropout=0.0).double()
    images, labels = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.arange(8) % 4
    return model, find_structure(model, images).groups, images, labels


def set_eps(model, eps):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps


def slope(x, y):
    """Of the straight line through (log x, log y), by least squares."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())


def variances(model, images):
    """Of the output of each convolution, by the name of the convolution: [channels]."""
    found, values = {}, images
    for name, layer in model.features.named_children():
        values = layer(values)
        if isinstance(layer, nn.Conv2d):
            found[f"features.{name}"] = values.detach().var((0, 2, 3), correction=0)
    return found


def test_violations_are_proportional_to_eps(network):
    model, groups, images, labels = network
    groups = [group for group in groups if group.symmetry is Symmetry.scale]
    rows = []
    for eps in EPS:
        set_eps(model, eps)
        rows.append(list(hessian_constraints(model, groups, images, labels, seed=0)))
    # eps / (s^2 + eps) is off eps / s^2 by a share eps / s^2, at most 1e-6 / 1e-2; roundings of
    # 1e-12 are a share 1e-3 of the smallest violation, 1e-9. Over the three decades between, a
    # factor 1 + 1e-3 at one end turns the line by 1e-3 / log(1000).
    assert min(variance.min() for variance in variances(model, images).values()) > 1e-2
    for number, group in enumerate(groups):
        for key in ("relative_error", "largest_cosine"):
            found = [getattr(at_eps[number], key) for at_eps in rows]
            assert slope(EPS, found) == pytest.approx(1, abs=1e-3), (group.name, key)


@pytest.mark.parametrize("eps", [1e-1, 1e-5])
def test_the_gradients_violation_is_eps_over_variance_times_that_of_batch_norms_weight(
    network, eps
):
    """<g, theta_A> = eps / (s^2 + eps) gamma dL/dgamma, by hand for every filter."""
    model, groups, images, labels = network
    set_eps(model, eps)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    F.cross_entropy(model(images), labels).backward()
    for name, variance in variances(model, images).items():
        filters = model.get_submodule(name)
        norm = model.get_submodule(f"features.{int(name.removeprefix('features.')) + 1}")
        products = filters.weight.grad * filters.weight.detach()
        defect = products.sum((1, 2, 3)) + filters.bias.grad * filters.bias.detach()
        expected = eps / (variance + eps) * norm.weight.detach() * norm.weight.grad
        # the terms of the sum cancel but for the defect: their roundings, as far as they may go
        rounding = 1e3 * 2.0**-53 * filters.weight.grad.norm() * filters.weight.detach().norm()
        assert (defect - expected).abs().max() <= rounding, name


def test_the_script_measures_prints_and_draws(tmp_path, monkeypatch, capsys):
    small = ["model=vgg11_bn", "model.width=0.03125", "data.train_images=50", "device=cpu"]
    command = ["constraints_against_eps.py", "--out", str(tmp_path), "train.batch_size=4", *small]
    monkeypatch.setattr(sys, "argv", command)
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setitem(script["main"].__globals__, "EPS", [1e-2, 1e-4])
    script["main"]()
    *table, path = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + 2 and table[2].startswith("1.0e-02")
    for line in table[2:]:
        _, *numbers = map(float, line.split())
        for place in range(3):
            _, cosine, predicted, error_of_norm, _ = numbers[5 * place : 5 * place + 5]
            # printed with two digits
            assert cosine == pytest.approx(predicted, rel=0.05) and error_of_norm < 1e-10
    assert (tmp_path / "constraints_eps.png").stat().st_size > 0 and path.startswith(str(tmp_path))
