"""The antisymmetric part of what mixes two linear layers, as docs/laws.md promises of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


@pytest.mark.parametrize("nesterov", [False, True])
def test_it_stays_zero_under_momentum_from_rest_and_not_with_a_look_ahead(nesterov):
    """The sum of b X^T - X b^T over both sides; rounding is 2^-53 of each of 100 updates' terms."""
    torch.manual_seed(0)
    first = nn.Linear(4, 3, bias=False).double()
    second = nn.Linear(3, 5, bias=False).double()
    inputs, target = torch.randn(8, 4).double(), torch.randn(8, 5).double()
    settings = {"dampening": 0.0 if nesterov else 0.1, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer = torch.optim.SGD([first.weight, second.weight], lr=0.05, momentum=0.9, **settings)
    largest = 0.0
    for _ in range(100):
        optimizer.zero_grad()
        F.mse_loss(second(first(inputs)), target).backward()
        optimizer.step()
        buffers = [optimizer.state[one.weight]["momentum_buffer"] for one in (first, second)]
        sides = [(first.weight, buffers[0]), (second.weight.T, buffers[1].T)]
        terms = [(b @ x.T).detach() for x, b in sides]
        turning = sum(term - term.T for term in terms)
        largest = max(largest, float(turning.norm() / sum(term.norm() for term in terms)))
    assert (largest < 100 * 2**-53) != nesterov
    assert not nesterov or largest > 1e-6
