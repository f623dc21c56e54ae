"""The laws as matrices, against the laws themselves."""

import pytest
import torch

from symrun.laws import SGD, Drive, MomentumDrive, Propagation, laws_of_sgd

UNITS = 12
SETTINGS = [
    SGD(0.0),
    SGD(1e-2),
    SGD(1e-2, momentum=0.9),
    SGD(1e-3, momentum=0.99, dampening=0.3),
    SGD(1e-2, momentum=0.9, nesterov=True),
]


def a_drive(degree, momentum, first):
    quadratic = degree - 1

    def positive():
        return torch.rand(UNITS, dtype=torch.float64) + 0.1

    carried = MomentumDrive(quadratic * positive(), quadratic * positive(), first)
    return Drive(degree, quadratic * positive(), positive(), carried if momentum else None)


@pytest.mark.parametrize("sgd", SETTINGS, ids=str)
def test_a_matrix_does_what_the_law_does(sgd):
    """Over ten updates, under a learning rate that falls half-way.

    All entries are positive but for the signs of a few coefficients, and sums of at most ten terms
    are made twice, each within ten roundings: 1e-13 of the largest term, ten times over.
    """
    laws, _ = laws_of_sgd(sgd)
    degree = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(UNITS // 2)
    conserved = torch.rand(UNITS, dtype=torch.float64) + 1
    propagation = Propagation(laws, conserved, degree, momentum=sgd.momentum > 0)
    states = {name: law.start(conserved, degree) for name, law in laws.items()}
    for step in range(10):
        lr = 0.1 if step < 5 else 0.01
        drive = a_drive(degree, sgd.momentum > 0, first=step == 0)
        propagation.prepare(lr, first=step == 0)
        propagation.advance(drive)
        states = {name: law.advance(states[name], drive, lr) for name, law in laws.items()}
        for name, state in states.items():
            largest = state.abs().max()
            assert (propagation.predicted[name] - state[0]).abs().max() <= 1e-12 * largest, name
    assert not torch.equal(propagation.predicted["exact"], conserved)


def test_the_state_stays_where_it_is_so_that_a_graph_can_hold_it():
    laws, _ = laws_of_sgd(SGD(1e-2))
    degree = torch.full((UNITS,), 2.0, dtype=torch.float64)
    propagation = Propagation(laws, torch.ones(UNITS, dtype=torch.float64), degree, momentum=False)
    before = {name: values.data_ptr() for name, values in propagation.predicted.items()}
    for lr in (0.1, 0.2):
        propagation.prepare(lr, first=False)
        propagation.advance(a_drive(degree, False, False))
    assert {name: values.data_ptr() for name, values in propagation.predicted.items()} == before


def test_no_laws_predict_nothing():
    degree = torch.ones(UNITS, dtype=torch.float64)
    propagation = Propagation({}, degree, degree, momentum=False)
    propagation.prepare(0.1, first=False)
    propagation.advance(a_drive(degree, False, False))
    assert propagation.predicted == {}
