"""S at the outputs, beside sums by hand, where outputs or gradients are not finite."""

import torch
from torch import nn

from symrun.symmetry import Structure
from symrun.symmetry.homogeneity import find_homogeneity
from symrun.tracking.output_source import OutputSource


def made():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    group = find_homogeneity(model, inputs)
    assert Structure((), (group,)).balanced is group
    return model, inputs, OutputSource(model, group)


def test_an_infinite_output_without_a_gradient_adds_nothing():
    """As behind a mask: -inf * 0."""
    model, inputs, source = made()
    outputs = model(inputs).masked_fill(torch.tensor([True, False, False]), -torch.inf)
    source.watch(outputs)
    outputs[:, 1:].square().sum().backward()
    expected = 2 * outputs[:, 1:].detach().square().sum()
    assert torch.allclose(source.taken(), expected, rtol=1e-14)


def test_a_source_that_is_not_finite_counts_as_none_and_is_forgotten_with_its_gradients():
    model, inputs, source = made()
    for factor, cleared in ((torch.inf, False), (1.0, True)):
        model.zero_grad(set_to_none=False)
        outputs = model(inputs)
        source.watch(outputs)
        (factor * outputs.square().sum()).backward()
        expected = 2 * outputs.detach().square().sum() if cleared else torch.zeros(()).double()
        assert torch.allclose(source.taken(), expected, rtol=1e-14)


def test_a_source_lasts_as_long_as_the_gradients():
    model, inputs, source = made()
    expected = torch.zeros((), dtype=torch.float64)
    for _ in range(2):
        outputs = model(inputs)
        source.watch(outputs)
        outputs.square().sum().backward()
        expected += 2 * outputs.detach().square().sum()
        assert torch.allclose(source.taken(), expected, rtol=1e-14)


def test_layers_that_are_frozen_later_are_not_waited_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    source = OutputSource(model, find_homogeneity(model, inputs))
    model[-1].requires_grad_(False)
    outputs = model(inputs)
    source.watch(outputs)
    outputs.square().sum().backward()
    assert torch.allclose(source.taken(), 2 * outputs.detach().square().sum(), rtol=1e-14)
