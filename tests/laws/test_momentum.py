"""The laws of SGD with momentum, against torch.optim.SGD on problems with a known symmetry.

Measured are the conserved quantities of torch's own parameters; b and u are formed here from its
documentation, not read from the laws or the tracker.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from symrun.laws import SGD, DiscreteLaw, Input, Oscillator, laws_of_sgd

FLOAT = torch.float64
ROUNDING = 2.0**-53


@functools.lru_cache(maxsize=16)
def matrix(law, degree, lr, first):
    return law.matrix(degree, lr, first)


def run(sgd, lrs, gradient_of, laws, start, linear=False):
    """torch.optim.SGD beside `laws`; Q measured [updates + 1], and predicted by name."""
    theta = torch.nn.Parameter(torch.tensor(start, dtype=FLOAT))
    optimizer = torch.optim.SGD([theta], lr=lrs[0], **dataclasses.asdict(sgd))
    degree = 1 if linear else 2
    zero = torch.zeros((), dtype=FLOAT)

    def conserved():
        now = theta.detach()
        return (now.sum() if linear else now.square().sum())[None]

    measured = [conserved()]
    degrees = torch.tensor([degree], dtype=FLOAT)
    states = {name: law.start(measured[0], degrees) for name, law in laws.items()}
    predicted = {name: [state[0]] for name, state in states.items()}
    buffer = None
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        now = theta.detach().clone()
        gradient = gradient_of(now)
        decayed = gradient + sgd.weight_decay * now
        new = (1 - sgd.dampening) * decayed
        buffer = decayed if buffer is None else sgd.momentum * buffer + new
        update = decayed + sgd.momentum * buffer if sgd.nesterov else buffer
        inputs = [zero, gradient.sum(), zero, zero, zero]
        if not linear:
            inputs = [gradient @ gradient, now @ gradient, zero, update @ update, update @ buffer]
        inputs = torch.stack(inputs if sgd.momentum else inputs[:3])[:, None]
        for name, law in laws.items():
            following = matrix(law, degree, lr, step == 0)
            states[name] = following @ torch.cat([states[name], inputs])
            predicted[name].append(states[name][0])
        theta.grad = gradient.clone()
        optimizer.step()
        measured.append(conserved())
    return torch.cat(measured), {name: torch.cat(curve) for name, curve in predicted.items()}


def scale_invariant(seed, noise=0.0):
    """Gradient of -cos(theta, target), whose target is disturbed by noise at every call."""
    generator = torch.Generator().manual_seed(seed)

    def gradient(theta):
        disturbance = torch.randn(3, dtype=FLOAT, generator=generator)
        target = torch.tensor([0.2, 0.5, 1.0], dtype=FLOAT) + noise * disturbance
        norm = theta.norm()
        return -(target / norm - theta * (theta @ target) / norm**3)

    return gradient


START = [1.0, -0.4, 0.3]
HEAVY = [10.0, -4.0, 3.0]
"""Far enough from the origin that Q takes hundreds of updates to move, as a filter's does."""


@given(
    momentum=st.floats(0, 0.999),
    dampening=st.floats(0, 0.9),
    nesterov=st.booleans(),
    weight_decay=st.floats(0, 0.5),
    lrs=st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=8),
    linear=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_law_is_an_identity_for_any_settings_and_any_gradient(
    momentum, dampening, nesterov, weight_decay, lrs, linear, seed
):
    if momentum == 0 or nesterov:
        dampening = 0.0
    sgd = SGD(weight_decay, momentum, dampening, nesterov and momentum > 0)
    random = torch.Generator().manual_seed(seed)
    largest = [2.0]

    def gradient(theta):
        largest.append(theta.abs().max().item() + 5)
        return torch.randn(3, dtype=FLOAT, generator=random)

    law = {"exact": DiscreteLaw(sgd, with_defect=True)}
    measured, predicted = run(sgd, lrs, gradient, law, START, linear)
    # 8 updates of some 50 roundings, each of at most the square of the largest (g + theta) that
    # 8 momentum steps can add up to
    allowed = 8 * 50 * ROUNDING * (len(lrs) * max(largest)) ** 2
    assert (measured - predicted["exact"]).abs().max() <= allowed


VARIANTS = {
    "plain": SGD(0.0),
    "momentum": SGD(0.0, 0.9),
    "much momentum": SGD(0.0, 0.99),
    "dampening": SGD(0.0, 0.9, 0.5),
    "nesterov": SGD(0.0, 0.9, nesterov=True),
}
STEPS = 400
SCHEDULES = {
    "constant": [0.05] * STEPS,
    "drop": [0.05] * (STEPS // 2) + [0.005] * (STEPS // 2),
    "cosine": [0.025 * (1 + math.cos(math.pi * n / STEPS)) for n in range(STEPS)],
}


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_discrete_law_is_exact_where_the_symmetry_is(variant, schedule, weight_decay):
    sgd = dataclasses.replace(VARIANTS[variant], weight_decay=weight_decay)
    laws = {"discrete": DiscreteLaw(sgd, with_defect=False)}
    measured, predicted = run(sgd, SCHEDULES[schedule], scale_invariant(0, 0.5), laws, START)
    assert (measured - measured[0]).abs().max() > 1e-3
    # some 50 roundings of Q an update, each kept for 1 / (1 - momentum) updates
    allowed = 50 * STEPS * ROUNDING / (1 - sgd.momentum) * measured.max()
    assert (measured - predicted["discrete"]).abs().max() <= allowed


def stiffness(regime, momentum=0.9, lr=0.1, dampening=0.0):
    """Weight decay of a quadratic reducer in each damping regime."""
    critical = (1 - momentum) ** 2 / (4 * lr * (1 - dampening) * (1 + momentum))
    return {"overdamped": 0.1, "critical": 1.0, "underdamped": 10.0, "free": 0.0}[regime] * critical


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("dampening", [0.0, 0.5])
@pytest.mark.parametrize("regime", ["overdamped", "critical", "underdamped", "free"])
def test_oscillator_meets_its_differential_equation(regime, dampening, corrected):
    """Against an adaptive Runge-Kutta method of order 8, forcing that changes every update."""
    lr, momentum = 0.1, 0.9
    sgd = SGD(stiffness(regime, momentum, lr, dampening), momentum, dampening)
    h = lr * (1 - dampening)
    friction = 2 * (1 - momentum) / (h * (1 + momentum))
    spring = 4 * sgd.weight_decay / (h * (1 + momentum))
    assert {
        "overdamped": friction**2 > 4 * spring,
        "critical": friction**2 == pytest.approx(4 * spring, rel=1e-15),
        "underdamped": friction**2 < 4 * spring,
        "free": spring == 0,
    }[regime]

    def moved(state, duration, force=0.0):
        def slope(_, x):
            return [x[1], force - friction * x[1] - spring * x[0]]

        if duration == 0:
            return state
        solved = solve_ivp(slope, (0, duration), state, "DOP853", rtol=1e-13, atol=1e-14)
        return solved.y[:, -1]

    earlier = h * (1 - momentum) / (2 * (1 + momentum)) if corrected else 0.0
    law = Oscillator(sgd, corrected)
    state = law.start(torch.tensor([1.5], dtype=FLOAT), torch.tensor([2.0], dtype=FLOAT))
    expected = moved(state[:, 0].numpy(), -earlier)  # where the forcing begins
    for step in range(60):
        norm_sq = 1 + math.sin(step)
        inputs = torch.full((5, 1), norm_sq, dtype=FLOAT)
        inputs[Input.source] = 0
        state = law.matrix(2, lr, step == 0) @ torch.cat([state, inputs])
        expected = moved(expected, h, 2 * norm_sq / (1 - dampening) ** 2)
        now = moved(expected, earlier)
        # 120 integrations at 1e-13, and the law's own 60 propagations
        np.testing.assert_allclose(state[:, 0].numpy(), now, rtol=1e-11, atol=1e-11)


def order(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("dampening", [0.0, 0.5])
@pytest.mark.parametrize(("corrected", "expected"), [(True, 2), (False, 1)])
def test_the_initial_velocity_gains_an_order_in_lr_times_weight_decay(
    corrected, expected, dampening
):
    """A column sum, which weight decay alone moves, at time 2 / (decay rate)."""
    decays = np.array([0.02, 0.01, 0.005, 0.0025])
    errors = []
    for decay in decays:  # of theta in an update, once momentum has built up
        sgd = SGD(decay / (1 - dampening), 0.9, dampening)
        lrs = [0.1] * round(2 / decay)
        laws = {"flow": Oscillator(sgd, corrected)}
        measured, predicted = run(sgd, lrs, torch.zeros_like, laws, [1.0], linear=True)
        errors.append(abs(measured[-1] - predicted["flow"][-1]).item())
    # the next order is a relative decay / (1 - momentum): 0.2 at most, 0.08 in the mean
    assert order(decays, errors) == pytest.approx(expected, abs=0.15)
    if not corrected and dampening == 0:
        np.testing.assert_allclose(errors, decays / 2 * math.exp(-2), rtol=0.05)


@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.99])
def test_oscillator_lags_behind_steady_forcing_by_a_known_part_of_an_update(momentum):
    """(1 - beta) / (2 (1 + beta)), under a gradient of norm 1 that turns in a plane."""

    def gradient(theta):
        return torch.tensor([-theta[1], theta[0], 0.0], dtype=FLOAT) / theta.norm()

    sgd = SGD(0.0, momentum)
    laws = {"paper's": Oscillator(sgd), "corrected": Oscillator(sgd, corrected=True)}
    measured, predicted = run(sgd, [0.01] * 3000, gradient, laws, [100.0, 0.0, 0.0])
    update = measured[-1] - measured[-2]
    behind = {
        name: ((measured[-1] - curve[-1]) / update).item() for name, curve in predicted.items()
    }
    lag = (1 - momentum) / (2 * (1 + momentum))
    # 3000 updates in, what one update moves has changed by a few thousandths
    assert behind["paper's"] == pytest.approx(lag, rel=0.02)
    assert abs(behind["corrected"]) < (1 - momentum) * lag


@pytest.mark.parametrize("momentum", [0.9, 0.99])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4, 1e-3])
def test_oscillator_within_a_thousandth_of_the_motion(momentum, weight_decay):
    """Also where the motion is violent: from START, Q grows tenfold in a few dozen updates."""
    sgd = SGD(weight_decay, momentum)
    lrs = [0.1] * 1000 + [0.01] * 1000
    laws = {"flow": Oscillator(sgd, corrected=True)}
    for start in (START, HEAVY):
        measured, predicted = run(sgd, lrs, scale_invariant(0, 0.3), laws, start)
        motion = (measured - measured[0]).abs().max()
        assert motion > 0.01 * measured[0]
        assert (measured - predicted["flow"]).abs().max() < 1e-3 * motion


@pytest.mark.parametrize("lr", [0.1, 0.02])
def test_oscillator_does_not_describe_nesterov(lr):
    sgd = SGD(1e-4, 0.9, nesterov=True)
    flow, discrete = Oscillator(sgd, corrected=True), DiscreteLaw(sgd, with_defect=False)
    laws = {"flow": flow, "discrete": discrete}
    measured, predicted = run(sgd, [lr] * 400, scale_invariant(0, 0.3), laws, START)
    motion = (measured - measured[0]).abs().max()
    assert (measured - predicted["flow"]).abs().max() > 0.1 * motion
    allowed = 50 * 400 * ROUNDING / (1 - 0.9) * measured.max()
    assert (measured - predicted["discrete"]).abs().max() < allowed


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.9, 0.99])
def test_40000_updates_stay_finite_and_as_accurate(momentum):
    sgd = SGD(1e-3, momentum)
    flow, exact = Oscillator(sgd, corrected=True), DiscreteLaw(sgd, with_defect=True)
    laws = {"flow": flow, "exact": exact}
    updates = 40_000
    measured, predicted = run(sgd, [0.1] * updates, scale_invariant(0, 0.3), laws, HEAVY)
    assert all(curve.isfinite().all() for curve in predicted.values())
    motion = (measured - measured[0]).abs().max()
    error = (measured - predicted["flow"]).abs()
    assert error.max() < 1e-3 * motion and error[-1000:].max() < 1e-3 * motion
    allowed = 50 * updates * ROUNDING / (1 - momentum) * measured.max()
    assert (measured - predicted["exact"]).abs().max() <= allowed


def test_which_laws_hold():
    for sgd in (SGD(1e-4), SGD(1e-4, 0.9), SGD(1e-4, 0.9, 0.5)):
        laws, unpredicted = laws_of_sgd(sgd)
        assert set(laws) == {"flow", "discrete", "exact"} and unpredicted == {}
    laws, unpredicted = laws_of_sgd(SGD(1e-4, 0.9, nesterov=True))
    assert set(laws) == {"discrete", "exact"}
    assert set(unpredicted) == {"flow"} and "Nesterov" in unpredicted["flow"]
