"""What the update of SGD will be, against what torch then does; and what is refused."""

import copy

import pytest
import torch

from symrun.errors import UsageError
from symrun.tracking.momentum import momentum_of


def a_parameter():
    return torch.nn.Parameter(torch.randn(5, dtype=torch.float64))


@pytest.mark.parametrize("settings", [{}, {"dampening": 0.4}, {"nesterov": True}])
def test_the_update_is_the_one_that_torch_makes(settings):
    theta = a_parameter()
    optimizer = torch.optim.SGD([theta], lr=0.1, momentum=0.9, weight_decay=0.1, **settings)
    momentum = momentum_of(optimizer)
    for step in range(4):
        if step == 2:  # a checkpoint replaces the optimiser's state
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        theta.grad = torch.randn(5, dtype=torch.float64)
        before = theta.detach().clone()
        assert momentum.first == (step == 0)
        last = () if momentum.first else (momentum.buffer(theta),)
        buffer, update = momentum.buffer_and_update(before, theta.grad.clone(), *last)
        optimizer.step()
        torch.testing.assert_close(0.1 * update, before - theta.detach())
        torch.testing.assert_close(buffer, optimizer.state[theta]["momentum_buffer"])


def test_only_sgd_with_momentum_has_any():
    assert momentum_of(torch.optim.Adam([a_parameter()])) is None
    assert momentum_of(torch.optim.RMSprop([a_parameter()], momentum=0.9)) is None
    assert momentum_of(torch.optim.SGD([a_parameter()], lr=0.1)) is None


def test_what_the_laws_do_not_describe_is_refused():
    for other in ({"weight_decay": 0.1}, {"lr": 0.01}):
        groups = [{"params": [a_parameter()]}, {"params": [a_parameter()], **other}]
        with pytest.raises(UsageError, match="the same settings of SGD for all groups"):
            momentum_of(torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(UsageError, match="maximize=False"):
        momentum_of(torch.optim.SGD([a_parameter()], lr=0.1, maximize=True))
