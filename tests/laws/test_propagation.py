"""All laws and degrees at once, against each law and unit alone."""

import pytest
import torch

from symrun.laws import SGD, Propagation, Rule, laws_of_sgd

UNITS = 12
SETTINGS = [
    SGD(0.0),
    SGD(1e-2),
    SGD(1e-2, momentum=0.9),
    SGD(1e-3, momentum=0.99, dampening=0.3),
    SGD(1e-2, momentum=0.9, nesterov=True),
]


class Decay:
    """Of Q_k by e^{-k lr}, driven by the defect: of a degree that no law of SGD describes."""

    def start(self, conserved, degree, carried=None):
        return conserved[None].clone()

    def matrix(self, degree, lr, first):
        decay = torch.exp(torch.tensor(-degree * lr, dtype=torch.float64))
        none = torch.zeros_like(decay)
        return torch.stack([decay, none, lr * decay, none])[None]


def inputs(momentum):
    return torch.rand(5 if momentum else 3, UNITS, dtype=torch.float64) + 0.1


def propagate(laws, degrees, momentum):
    """Ten updates under a learning rate that falls half-way, all at once and one by one."""
    degree = torch.tensor(degrees, dtype=torch.float64)
    conserved = torch.rand(UNITS, dtype=torch.float64) + 1
    propagation = Propagation([laws], conserved, degree, momentum)
    states = {name: law.start(conserved, degree) for name, law in laws.items()}
    for step in range(10):
        lr, first = 0.1 if step < 5 else 0.01, step == 0
        found = inputs(momentum)
        propagation.prepare([Rule(laws, lr, first)])
        propagation.advance(found)
        for name, law in laws.items():
            units = zip(degrees, torch.cat([states[name], found]).T, strict=True)
            alone = [law.matrix(degree, lr, first) @ unit for degree, unit in units]
            states[name] = torch.stack(alone, dim=1)
    assert all(not torch.equal(state[0], conserved) for state in states.values())
    return propagation.predicted, {name: state[0] for name, state in states.items()}


def assert_agree(together, alone):
    """All entries are positive but for the signs of a few coefficients, and sums of at most ten
    terms are made twice, each within ten roundings: 1e-13 of the largest term, ten times over."""
    assert list(together) == list(alone)
    for name, expected in alone.items():
        error = (together[name] - expected).abs().max()
        assert error <= 1e-12 * expected.abs().max(), name


@pytest.mark.parametrize("sgd", SETTINGS, ids=str)
def test_one_product_does_what_each_law_does_to_each_unit(sgd):
    laws, _ = laws_of_sgd(sgd)
    assert_agree(*propagate(laws, [1, 2] * (UNITS // 2), sgd.momentum > 0))


@pytest.mark.parametrize("degrees", [[2] * UNITS, [5, 1, 2, 2] * (UNITS // 4)])
def test_degrees_may_be_any(degrees):
    assert_agree(*propagate({"decay": Decay()}, degrees, momentum=False))


def test_the_state_stays_where_it_is_so_that_a_graph_can_hold_it():
    laws, _ = laws_of_sgd(SGD(1e-2))
    degree = torch.full((UNITS,), 2.0, dtype=torch.float64)
    propagation = Propagation(
        [laws], torch.ones(UNITS, dtype=torch.float64), degree, momentum=False
    )
    before = {name: values.data_ptr() for name, values in propagation.predicted.items()}
    for lr in (0.1, 0.2):
        propagation.prepare([Rule(laws, lr, first=False)])
        propagation.advance(inputs(momentum=False))
    assert {name: values.data_ptr() for name, values in propagation.predicted.items()} == before


@pytest.mark.parametrize("units", [0, UNITS])
def test_no_laws_predict_nothing(units):
    degree = torch.ones(units, dtype=torch.float64)
    propagation = Propagation([{}], degree, degree, momentum=False)
    propagation.prepare([Rule({}, 0.1, first=False)])
    propagation.advance(inputs(momentum=False)[:, :units])
    assert propagation.predicted == {}
