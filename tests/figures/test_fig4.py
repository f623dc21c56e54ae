"""Fig. 4: descent is torch's, the flows solve their equations, in the orders of the theory."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from symrun.errors import UsageError
from symrun.figures import plot, select_runs, style
from symrun.figures.fig4 import (
    _LOOKS,
    HESSIAN,
    START,
    critical_lr,
    descent,
    draw,
    errors_at,
    flows,
    modified_flow,
)
from symrun.figures.style import Trajectory

EPSILON = np.finfo(np.float64).eps
ORDERS = {"gradient flow": 1, "modified flow": 2, "modified flow from rest": 1}

each_momentum = pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])


@pytest.fixture(scope="module")
def figure():
    return draw([])


@each_momentum
def test_descent_is_torchs_on_the_papers_loss(momentum):
    w = torch.tensor(START, requires_grad=True)
    matrix = torch.tensor([[2.5, -1.5], [-1.5, 2.0]], dtype=torch.float64)
    optimizer = torch.optim.SGD([w], lr=0.01, momentum=momentum)
    path = [w.detach().numpy().copy()]
    for _ in range(50):
        optimizer.zero_grad()
        (w @ matrix @ w).backward()
        optimizer.step()
        path.append(w.detach().numpy().copy())
    # Stable: rounding of each step, some ten operations on numbers below 8, at most adds up, and
    # momentum takes each up to 1 / (1 - momentum) times
    tolerance = 50 * 80 * EPSILON / (1 - momentum)
    np.testing.assert_allclose(descent(0.01, momentum, 50), np.transpose(path), atol=tolerance)


@each_momentum
@pytest.mark.parametrize("lr", [0.01, 1e-4])
def test_flows_solve_their_equations(momentum, lr):
    time, points = 0.2, 101
    times = np.linspace(0, time, points)
    curvatures, modes = np.linalg.eigh(HESSIAN)
    inertia, friction = lr * (1 + momentum) / 2, 1 - momentum
    starts = modes.T @ START
    for name, path in flows(lr, momentum, time, points).items():
        expected = []
        for h, start in zip(curvatures, starts, strict=True):
            if name == "gradient flow":
                expected.append(start * np.exp(-h * times / friction))
                continue
            velocity = -h * start / (1 + momentum) if name == "modified flow" else 0.0
            low, high = np.roots([inertia, friction, h]).astype(complex)
            share = (velocity - high * start) / (low - high)
            motion = share * np.exp(low * times) + (start - share) * np.exp(high * times)
            expected.append(motion.real)
        # Rounding of the rates, times the time, and of the shares, which the distance of the two
        # rates divides
        fastest = max(friction / inertia, curvatures[-1] / friction)
        tolerance = 64 * EPSILON * (points + fastest * time)
        np.testing.assert_allclose(path, modes @ expected, rtol=0, atol=tolerance)


def small_lrs(momentum):
    """A time, and learning rates that end on it, from an eighth of the critical one downwards.

    The time, 4 (1 + beta) / (1 - beta) critical learning rates, is 2 (1 - beta) / h, two units of
    the stiffest mode's decay; at the eighth, its inertia is e^-64 by then.
    """
    most = critical_lr(momentum) / 8
    time = 8 * most * 4 * (1 + momentum) / (1 - momentum)
    steps = np.ceil(time / most) * 2 ** np.arange(6)
    return time, time / steps


def order(lrs, errors):
    slope, _ = np.polyfit(np.log(lrs), np.log(errors), 1)
    return slope


@each_momentum
def test_errors_fall_with_the_order_of_the_theory(momentum):
    time, lrs = small_lrs(momentum)
    for name, errors in errors_at(time, momentum, lrs).items():
        # The error is C lr^order (1 + K lr + ...), a series in lr over the critical one. Its slope
        # is off by about K lr: at most 1/8, and that at the largest alone
        assert order(lrs, errors) == pytest.approx(ORDERS[name], abs=1 / 8), name
        assert order(lrs[2:], errors[2:]) == pytest.approx(ORDERS[name], abs=1 / 32), name


@each_momentum
def test_the_modified_flow_is_the_better_one_and_best_with_the_matched_velocity(momentum):
    time, lrs = small_lrs(momentum)
    errors = errors_at(time, momentum, lrs)
    assert (errors["modified flow from rest"] < errors["gradient flow"]).all()
    assert (errors["modified flow"] < 0.2 * errors["modified flow from rest"]).all()
    gain = errors["modified flow from rest"] / errors["modified flow"]
    assert order(lrs, gain) == pytest.approx(-1, abs=1 / 4)


@each_momentum
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_no_other_velocity_has_order_2(momentum, factor):
    time, lrs = small_lrs(momentum)
    velocity = -factor * HESSIAN @ START / (1 + momentum)
    errors = [
        np.hypot(
            *modified_flow(lr, momentum, velocity, time, 2)[:, -1]
            - descent(lr, momentum, round(time / lr))[:, -1]
        )
        for lr in lrs
    ]
    assert order(lrs[-3:], errors[-3:]) < 1.5


@each_momentum
def test_from_rest_the_flow_is_half_a_step_late(momentum):
    time, lrs = small_lrs(momentum)
    errors = []
    for lr in lrs:
        late = modified_flow(lr, momentum, np.zeros(2), time + lr / 2, 2)[:, -1]
        errors.append(np.hypot(*late - descent(lr, momentum, round(time / lr))[:, -1]))
    assert order(lrs[2:], errors[2:]) == pytest.approx(2, abs=1 / 8)


def test_the_left_panel_shows_the_originals_run(figure):
    left, _ = figure.axes
    trajectories = [line for line in left.lines if isinstance(line, Trajectory)]
    blue, red, dots = (np.stack(line.get_data()) for line in trajectories)
    expected = flows(0.01, 0.9, 0.5, points=blue.shape[1])
    np.testing.assert_array_equal(blue, expected["gradient flow"])
    np.testing.assert_array_equal(red, expected["modified flow"])
    np.testing.assert_array_equal(dots, descent(0.01, 0.9, 50))
    assert trajectories[2].get_marker() == "o" and trajectories[2].get_linestyle() == "None"
    assert [
        to_rgb(line.get_color()).index(max(to_rgb(line.get_color()))) for line in trajectories[:2]
    ] == [2, 0]
    steps = (red.shape[1] - 1) // 50
    near = np.hypot(*(red[:, ::steps] - dots)).max()
    assert near < 0.1 * np.hypot(*(blue[:, ::steps] - dots)).max()
    for x, y in (blue, red, dots):
        assert left.get_xlim()[0] < x.min() and x.max() < left.get_xlim()[1]
        assert left.get_ylim()[0] < y.min() and y.max() < left.get_ylim()[1]


def test_the_level_sets_are_those_of_the_loss(figure):
    (levels,) = figure.axes[0].collections
    w = [path.vertices.T for path in levels.get_paths()]
    for level, (first, second) in zip(levels.levels, w, strict=True):
        loss = 2.5 * first**2 - 3 * first * second + 2 * second**2
        # Linear interpolation along the edges of cells, 0.01 long: off by at most 0.01^2 / 8 of the
        # second derivative, 5 or 4
        assert len(loss) and np.abs(loss - level).max() < 5 * 0.01**2 / 8 + 1e-12


def test_the_right_panel_shows_errors_and_their_fitted_orders(figure):
    _, right = figure.axes
    texts = [text.get_text() for text in right.get_legend().get_texts()]
    for number, (name, text) in enumerate(zip(_LOOKS, texts, strict=True)):
        every, filled = right.lines[2 * number : 2 * number + 2]
        lrs, errors = every.get_data()
        np.testing.assert_array_equal(errors, errors_at(0.05, 0.9, lrs)[name])
        fitted, below = filled.get_data()
        assert (
            3 < len(fitted) < len(lrs) and fitted.max() < critical_lr(0.9) / 4 <= 4 * fitted.max()
        )
        assert text == f"order {order(fitted, below):.2f}"
        assert float(text.split()[1]) == pytest.approx(ORDERS[name], abs=1 / 16)
    assert right.get_xscale() == right.get_yscale() == "log"


def test_panels_and_lines_are_named(figure):
    left, right = figure.axes
    assert (left.get_xlabel(), left.get_ylabel(), left.get_aspect()) == ("$w_1$", "$w_2$", 1)
    assert right.get_xlabel() == "Learning rate $η$"
    assert right.get_ylabel() == "Distance to gradient descent"
    (legend,) = figure.subfigs[0].legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["gradient descent with momentum", *_LOOKS]
    assert figure.get_suptitle().startswith("Fig. 4, drawn from equations (a quadratic loss): ")
    assert "β = 0.9" in figure.get_supxlabel() and "w′(0) = 0" in figure.get_supxlabel()


@pytest.mark.parametrize("dpi", [100, 300])
def test_no_text_lies_on_another(overlaps, dpi):
    figure = draw([])
    figure.set_dpi(dpi)
    assert overlaps(figure) == []


@pytest.mark.slow
def test_every_format_is_written_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 4)
    formats = ["png", "pdf", "svg", "gif"]
    written = plot("fig4", [], tmp_path / "a", formats)
    assert written == [tmp_path / "a" / f"fig4.{name}" for name in formats]
    again = plot("fig4", [], tmp_path / "b", formats)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def test_a_gif_grows_in_time_and_its_dots_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_GIF_FRAMES", 5)
    figure = draw([])
    lines = [line for line in figure.axes[0].lines if isinstance(line, Trajectory)]
    for line in lines:
        line.reveal(0.2)
    assert [len(line.get_xdata()) for line in lines] == [201, 201, 11]
    ends = [np.stack(line.get_data())[:, -1] for line in lines]
    assert np.hypot(*(ends[1] - ends[2])) < 0.01 < np.hypot(*(ends[0] - ends[2]))

    (gif,) = plot("fig4", [], tmp_path, ["gif"])
    with Image.open(gif) as image:
        frames = []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=int))
    assert len(frames) == 5
    right = np.s_[:, -450:]  # the panel of errors, which does not move
    assert (frames[0][right] == frames[4][right]).all()
    inked = [(frame < 200).any(axis=-1).sum() for frame in frames]
    assert inked == sorted(set(inked))


def test_it_takes_no_runs(write_run):
    with pytest.raises(UsageError, match=r"^fig4 is drawn from equations and takes no runs$"):
        select_runs("fig4", [write_run(True)])
    assert select_runs("fig4", []) == []
