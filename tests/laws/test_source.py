"""The laws with a source, against gradient descent on outputs that are quadratic in the weights."""

import numpy as np
import pytest
import torch

from symrun.laws import SGD, DiscreteLaw, Input, ModifiedFlow, Oscillator

FLOAT = torch.float64
TARGETS = torch.tensor([1.2, -0.7], dtype=FLOAT)
START = torch.tensor([1.0, -0.4, 0.3], dtype=FLOAT)
DEGREE = 2
"""Of the outputs (ab, bc + a^2), so that |theta|^2 is balanced by 2 S."""


def descended(law, sgd, lr, updates, off=0.0):
    """Measured and predicted |theta|^2, [updates + 1] each, of descent on half the squared error.

    off: added to the source that the law is told.
    """
    theta, buffer = START.clone(), None
    state = law.start((theta @ theta)[None], torch.tensor([2.0], dtype=FLOAT))
    measured, predicted = [theta @ theta], [state[0, 0]]
    for step in range(updates):
        a, b, c = theta.tolist()
        outputs = torch.tensor([a * b, b * c + a * a], dtype=FLOAT)
        slope = outputs - TARGETS
        jacobian = torch.tensor([[b, a, 0], [2 * a, c, b]], dtype=FLOAT)
        gradient = slope @ jacobian
        decayed = gradient + sgd.weight_decay * theta
        kept = 0.0 if buffer is None else sgd.momentum * buffer
        buffer = kept + decayed * (1 if buffer is None else 1 - sgd.dampening)
        update = decayed + sgd.momentum * buffer if sgd.nesterov else buffer
        source = DEGREE * (outputs @ slope) + off
        inputs = [gradient @ gradient, theta @ gradient, source]
        inputs += [update @ update, update @ buffer] if sgd.momentum else []
        state = law.matrix(2, lr, step == 0) @ torch.cat([state, torch.stack(inputs)[:, None]])
        theta = theta - lr * update
        measured.append(theta @ theta)
        predicted.append(state[0, 0])
    return torch.stack(measured), torch.stack(predicted)


VARIANTS = [
    SGD(0.0),
    SGD(0.05),
    SGD(0.0, 0.9),
    SGD(0.05, 0.9, 0.5),
    SGD(0.05, 0.9, nesterov=True),
]


@pytest.mark.parametrize("with_defect", [False, True])
@pytest.mark.parametrize("sgd", VARIANTS, ids=str)
def test_the_discrete_law_is_exact_once_it_knows_the_source(sgd, with_defect):
    """300 updates of about 20 roundings each, at sizes of about 1."""
    measured, predicted = descended(DiscreteLaw(sgd, with_defect), sgd, 0.02, 300)
    assert (measured[-1] - measured[0]).abs() > 0.1
    assert (measured - predicted).abs().max() <= 300 * 20 * 2.0**-53


def test_a_source_that_is_wrong_shows_in_the_discrete_law_and_not_in_the_identity():
    sgd = SGD(0.0)
    for with_defect, missed in ((False, 2 * 0.02 * 100 * 0.01), (True, 0.0)):
        measured, predicted = descended(DiscreteLaw(sgd, with_defect), sgd, 0.02, 100, off=0.01)
        assert (measured - predicted)[-1].item() == pytest.approx(missed, abs=1e-12)


def errors(law, sgd, lrs, time=2.0):
    """Of the law at a fixed time, which with momentum is that of lr / (1 - beta)."""
    found = []
    for lr in lrs:
        updates = round(time / lr * (1 - sgd.momentum) / (1 - sgd.dampening))
        measured, predicted = descended(law, sgd, lr, updates)
        found.append(abs(measured[-1] - predicted[-1]).item())
    return found


def order(lrs, found):
    return np.polyfit(np.log(lrs), np.log(found), 1)[0]


def test_modified_flow_has_no_error_without_decay_and_one_of_first_order_with_it():
    lrs = [0.01, 0.005, 0.0025, 0.00125]
    assert max(errors(ModifiedFlow(0.0), SGD(0.0), lrs)) <= 1600 * 20 * 2.0**-53
    found = errors(ModifiedFlow(0.2), SGD(0.2), lrs)
    assert order(lrs, found) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dampening", [0.0, 0.3])
@pytest.mark.parametrize(("corrected", "expected"), [(True, 2), (False, 1)])
def test_the_order_of_the_oscillator(corrected, expected, dampening):
    """A source that acts from its update on is half an update late for good."""
    sgd = SGD(0.0, 0.8, dampening)
    lrs = [0.004, 0.002, 0.001, 0.0005]
    found = errors(Oscillator(sgd, corrected), sgd, lrs)
    assert order(lrs, found) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("momentum", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
def test_the_oscillator_is_where_sgd_is_under_a_steady_source(momentum, dampening):
    """Once momentum has built up: 0.8^200 is below rounding."""
    sgd = SGD(0.0, momentum, dampening)
    laws = [Oscillator(sgd, corrected=True), DiscreteLaw(sgd, with_defect=False)]
    one, degree = torch.ones(1, dtype=FLOAT), torch.full((1,), 2.0, dtype=FLOAT)
    states = [law.start(one, degree) for law in laws]
    inputs = torch.zeros(5, 1, dtype=FLOAT)
    inputs[Input.source] = 0.3
    for step in range(200):
        states = [
            law.matrix(2, 0.01, step == 0) @ torch.cat([state, inputs])
            for law, state in zip(laws, states, strict=True)
        ]
    flow, discrete = (state[0].item() for state in states)
    assert abs(discrete - 1) > 0.1
    assert flow == pytest.approx(discrete, abs=200 * 20 * 2.0**-53)
