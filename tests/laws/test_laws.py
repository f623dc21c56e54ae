"""The laws against SGD itself, on problems small enough to do by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symrun.laws import (
    SGD,
    DiscreteLaw,
    Input,
    ModifiedFlow,
    Oscillator,
    gradient_flow,
    kinds_of_sgd,
    laws_of_sgd,
    steady_forcing,
)

FLOAT = torch.float64


def advance(law, state, inputs, lr, degree=2):
    """state [rows, 1], inputs [3, 1] -> [rows, 1]"""
    return law.matrix(degree, lr, first=False) @ torch.cat([state, inputs])


def inputs_of(theta, gradient, degree):
    """B(g, g), D and no source of one unit, theta and gradient [entries] -> [3, 1]"""
    zero = torch.zeros((), dtype=FLOAT)
    if degree == 1:
        return torch.stack([zero, gradient.sum(), zero])[:, None]
    return torch.stack([gradient @ gradient, theta @ gradient, zero])[:, None]


def conserved(theta, degree):
    return (theta.sum() if degree == 1 else theta.square().sum())[None]


def scale_invariant_gradient(theta, target):
    """Of -cos(theta, target), which no rescaling of theta changes."""
    norm = theta.norm()
    return -(target / norm - theta * (theta @ target) / norm**3)


def sgd(law, lr, weight_decay, updates, gradient_of):
    """Run SGD beside a law; returns the measured and the predicted Q, [updates + 1] each."""
    theta = torch.tensor([1.0, -0.4, 0.3], dtype=torch.float64)
    state = law.start(conserved(theta, 2), torch.tensor([2.0], dtype=torch.float64))
    measured, predicted = [conserved(theta, 2)], [state[0]]
    for _ in range(updates):
        gradient = gradient_of(theta)
        state = advance(law, state, inputs_of(theta, gradient, 2), lr)
        predicted.append(state[0])
        theta = theta - lr * (gradient + weight_decay * theta)
        measured.append(conserved(theta, 2))
    return torch.cat(measured), torch.cat(predicted)


TARGET = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)


@given(
    lr=st.floats(1e-4, 1.0),
    weight_decay=st.floats(0, 0.5),
    degree=st.sampled_from([1, 2]),
    entries=st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=9),
)
def test_exact_law_is_an_identity_for_any_gradient(lr, weight_decay, degree, entries):
    theta, gradient = torch.tensor(entries, dtype=torch.float64).T
    law = DiscreteLaw(SGD(weight_decay), with_defect=True)
    state = law.start(conserved(theta, degree), torch.tensor([degree], dtype=FLOAT))
    (predicted,) = advance(law, state, inputs_of(theta, gradient, degree), lr, degree)
    updated = theta - lr * (gradient + weight_decay * theta)
    rounding = 50 * 2.0**-53 * (theta.abs().sum() + gradient.abs().sum() + 1) ** 2
    assert abs(predicted - conserved(updated, degree)) <= rounding


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-2])
def test_discrete_law_is_exact_where_the_symmetry_is(weight_decay):
    law = DiscreteLaw(SGD(weight_decay), with_defect=False)
    measured, predicted = sgd(
        law, 0.1, weight_decay, 400, lambda theta: scale_invariant_gradient(theta, TARGET)
    )
    assert (measured - measured[0]).abs().max() > 1e-3
    assert (measured - predicted).abs().max() < 400 * 10 * 2.0**-53


@pytest.mark.parametrize("breaking", [1.0, 1e-3])
def test_discrete_law_misses_the_accumulated_defect(breaking):
    """2 eta D an update, D what a pull of theta towards a target adds to a scale-invariant loss."""
    defects = []

    def gradient(theta):
        pull = breaking * (theta - TARGET)
        defects.append(2 * 0.1 * (theta @ pull).item())
        return scale_invariant_gradient(theta, TARGET) + pull

    law = DiscreteLaw(SGD(0.0), with_defect=False)
    measured, predicted = sgd(law, 0.1, 0.0, 10, gradient)
    assert abs(math.fsum(defects)) > 0.01 * breaking
    missed = (predicted[-1] - measured[-1]).item()
    assert missed == pytest.approx(math.fsum(defects), abs=10 * 10 * 2.0**-53)


def order(settings, errors):
    """Exponent p of error ~ setting^p, by regression.

    The next order adds a part c * setting to the error, and so at most c * max(settings) to p:
    below, c is about 1 and learning rates are at most 0.08, or times a weight decay of 0.5.
    """
    return np.polyfit(np.log(settings), np.log(errors), 1)[0]


def flow_error(lr, weight_decay, time=4.0, corrected=False, gradient_of=None):
    measured, predicted = sgd(
        ModifiedFlow(weight_decay, corrected),
        lr,
        weight_decay,
        round(time / lr),
        gradient_of or (lambda theta: scale_invariant_gradient(theta, TARGET)),
    )
    return abs(measured[-1] - predicted[-1]).item()


LRS = [0.08, 0.04, 0.02, 0.01]


def test_modified_flow_is_of_first_order_in_lr_at_fixed_time():
    assert order(LRS, [flow_error(lr, 0.1) for lr in LRS]) == pytest.approx(1, abs=0.1)


def test_modified_flow_forces_too_little_by_lr_times_weight_decay():
    """Relative to the forced motion, once the decay is that of SGD to the next order."""
    for weight_decay in (0.02, 0.01):
        errors, forced = [], []
        for lr in LRS:
            updates, theta = round(1 / lr), torch.tensor([1.0, -0.4, 0.3], dtype=torch.float64)
            errors.append(flow_error(lr, weight_decay, 1.0, corrected=True))
            for _ in range(updates):
                theta = theta - lr * scale_invariant_gradient(theta, TARGET)
            forced.append((theta @ theta).item() - 1.25)
        relative = np.array(errors) / np.array(forced)
        # the next order is a relative 0.08, and so is a gradient that changes as theta decays
        np.testing.assert_allclose(relative, weight_decay * np.array(LRS), rtol=0.16)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_gradient_flow_is_of_first_order_in_lr_at_fixed_time(weight_decay):
    errors = []
    for lr in LRS:
        law, updates = ModifiedFlow(weight_decay), round(4.0 / lr)
        measured, _ = sgd(
            law, lr, weight_decay, updates, lambda theta: scale_invariant_gradient(theta, TARGET)
        )
        expected = gradient_flow(np.array([1.25]), np.array([4.0]), 2, weight_decay)[0, 0]
        errors.append(abs(measured[-1].item() - expected))
    assert order(LRS, errors) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("corrected", "expected"), [(False, 1), (True, 2)])
def test_the_corrected_decay_is_one_order_closer(corrected, expected):
    """Without a gradient, where SGD shrinks theta by 1 - eta lambda and the laws by their rates."""
    errors = [flow_error(lr, 0.5, 4.0, corrected, torch.zeros_like) for lr in LRS]
    assert order(LRS, errors) == pytest.approx(expected, abs=0.05)
    left = 1.25 * math.exp(-2 * 0.5 * 4.0)  # of Q at time 4
    leading = 0.01 * 0.5**2 * 4.0 if expected == 1 else 0.01**2 * 0.5**3 * 4.0 * 2 / 3
    # the next order is relative to this one lr * weight_decay * time = 0.02
    assert errors[-1] == pytest.approx(left * leading, rel=0.02)


def test_the_corrected_decay_helps_where_decay_outweighs_the_forcing():
    for weight_decay in (1e-2, 1e-1):
        plain, corrected = (flow_error(0.1, weight_decay, 20.0, flag) for flag in (False, True))
        # what is left is the forcing's, lr * weight_decay of a motion of about Q
        assert corrected < plain


def test_modified_flow_improves_on_gradient_flow_and_is_exact_without_weight_decay():
    assert flow_error(0.1, 0.0) < 40 * 10 * 2.0**-53
    measured, _ = sgd(
        ModifiedFlow(0.01), 0.1, 0.01, 100, lambda theta: scale_invariant_gradient(theta, TARGET)
    )
    baseline = gradient_flow(np.array([1.25]), np.array([10.0]), 2, 0.01)
    assert flow_error(0.1, 0.01, time=10.0) < 0.05 * abs(measured[-1].item() - baseline[0, 0])


def test_modified_flow_meets_its_differential_equation():
    """Against the fourth-order Runge-Kutta method with 1000 steps, for both degrees."""
    lr, decay, force = 0.3, 0.7, 2.0
    for degree in (1, 2):

        def slope(q, degree=degree):
            return -degree * decay * q + lr * force

        q, h = 1.5, lr / 1000
        for _ in range(1000):
            k1 = slope(q)
            k2 = slope(q + h * k1 / 2)
            k3 = slope(q + h * k2 / 2)
            q += h * (k1 + 2 * k2 + 2 * k3 + slope(q + h * k3)) / 6
        start, inputs = torch.tensor([[1.5], [force], [0.0], [0.0]], dtype=FLOAT).split([1, 3])
        predicted = advance(ModifiedFlow(decay), start, inputs, lr, degree)
        assert predicted.item() == pytest.approx(q, rel=1e-12)


def test_modified_flow_is_continuous_at_no_weight_decay():
    tiny, none = (ModifiedFlow(decay).matrix(2, 0.1, first=False) for decay in (1e-14, 0.0))
    assert (tiny - none).abs().max() < 1e-14


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_steady_forcing_against_many_small_euler_steps(weight_decay, rate):
    """R' = -2 lambda R + eta in time that passes `rate` times as fast as the sum of eta; Euler's
    error is first order in the substep."""
    etas = np.array([0.1, 0.2, 0.05, 0.4])
    found = steady_forcing(etas, rate * etas, 2 * weight_decay)
    substeps, motion, expected = 20_000, 0.0, [0.0]
    for eta in etas:
        for _ in range(substeps):
            motion += rate * eta / substeps * (eta - 2 * weight_decay * motion)
        expected.append(motion)
    assert found == pytest.approx(expected, rel=1e-5)


def test_gradient_flow_decays_exponentially():
    curves = gradient_flow(np.array([2.0, -3.0]), np.array([0.0, 5.0]), 2, 0.1)
    assert curves.shape == (2, 2)
    assert curves[1].tolist() == pytest.approx([2 / math.e, -3 / math.e], rel=1e-15)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_each_law_is_a_column_with_a_label_and_only_an_identity_sees_the_defect(momentum):
    laws, _ = laws_of_sgd(SGD(1e-2, momentum))
    kinds = kinds_of_sgd(momentum > 0)
    assert list(kinds) == ["flow", "discrete", "exact"] and set(laws) == set(kinds)
    assert len({kind.label for kind in kinds.values()}) == len(kinds)
    for column, law in laws.items():
        rows = len(law.start(torch.ones(1, dtype=FLOAT), torch.ones(1, dtype=FLOAT)))
        of_defect = law.matrix(2, 0.1, first=False)[:, rows + Input.defect]
        assert bool(of_defect.any()) == kinds[column].identity, column


@pytest.mark.parametrize("degree", [0, 3])
def test_a_quantity_whose_forcing_is_unknown_is_refused(degree):
    sgd = SGD(1e-2, momentum=0.9)
    for law in (ModifiedFlow(1e-2), Oscillator(sgd), DiscreteLaw(sgd, True)):
        with pytest.raises(ValueError, match=f"degree 1 and 2, got degree {degree}"):
            law.matrix(degree, 0.1, first=False)
