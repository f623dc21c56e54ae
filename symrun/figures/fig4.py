"""Fig. 4: momentum on a quadratic loss, beside gradient flow and the modified flow.

For L(w) = w^T A w, with Hessian H = 2A, gradient descent with learning rate eta and momentum beta,

    b_n = beta b_{n-1} + H w_n  (b_0 = H w_0),    w_{n+1} = w_n - eta b_n,

and two flows in the time t = eta n:

    gradient flow    (1 - beta) w' = -H w
    modified flow    eta (1 + beta) / 2 w'' + (1 - beta) w' = -H w

The modified flow needs a velocity to start with; the paper leaves it at rest, w'(0) = 0. Descent
starts with b_0 = H w_0 and takes a while to reach its steady b = g / (1 - beta). Under a constant
gradient g it thereby loses eta beta / (1 - beta)^2 g of its way; the flow, from w'(0) = -c g, loses
(1 / (1 - beta) - c) eta (1 + beta) / (2 (1 - beta)) g. The two agree for c = 1 / (1 + beta).

Measured for beta = 0, 0.5 and 0.9, as the slope of log error over log eta at a fixed time, eta well
below `critical_lr`: gradient flow is of order 1 (1.00), the modified flow from rest too (1.00),
with the smaller error, and from w'(0) = -H w_0 / (1 + beta) it is of order 2 (2.01). So this one is
the red line. The one from rest lags behind it by half a step (eta / 2, from the difference above).

Source: Kunin et al. (2021), arXiv 2012.04728, Fig. 4 and section 5; the initial velocity is ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.figures.selection import NoRuns
from symrun.figures.style import Trajectory, frame, styled
from symrun.runs.directory import RunDirectory

Array = NDArray[np.float64]

RUNS = NoRuns()

HESSIAN = 2 * np.array([[2.5, -1.5], [-1.5, 2.0]])
START = np.array([1.0, 0.0])

_HEADING = "Fig. 4, drawn from equations (a quadratic loss): momentum and its modified flow"
_CAPTION = (
    "L(w) = wᵀAw, A = [[2.5, −1.5], [−1.5, 2]], w(0) = (1, 0); momentum β = 0.9; "
    "left: η = 0.01, 50 steps.",
    "The modified flow starts with w′(0) = −∇L / (1 + β), that from rest with w′(0) = 0. "
    "Orders are fitted to the filled points.",
)
_LR, _MOMENTUM, _STEPS = 0.01, 0.9, 50
_COMPARED_STEPS = 5
_HALVINGS = 11
_DOTS: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 2.5, "linestyle": ""}
_LOOKS: dict[str, dict[str, Any]] = {
    "gradient flow": {"color": "#1F5FBF"},
    "modified flow": {"color": "#D62728"},
    "modified flow from rest": {"color": "#E58A8A", "linestyle": "--"},
}


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """Left, the trajectories over level sets of L; right, the errors of the flows over eta.

    runs: none.
    Source: Kunin et al. (2021), Fig. 4, for the left panel.
    Example: draw([]).savefig("fig4.png")
    """
    figure, panels = frame((7, 3.5), _HEADING, _CAPTION)
    left, right = panels.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_trajectories(left)
    _draw_errors(right)
    handles = [Line2D([], [], label="gradient descent with momentum", **_DOTS)]
    handles += [Line2D([], [], label=name, **look) for name, look in _LOOKS.items()]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_trajectories(axes: Axes) -> None:
    x, y = np.linspace(-0.4, 1.1, 151), np.linspace(-0.4, 0.7, 111)
    w = np.stack(np.meshgrid(x, y))
    loss = 0.5 * np.einsum("i...,ij,j...->...", w, HESSIAN, w)
    levels = loss.max() * np.linspace(0.1, 0.9, 9) ** 2  # evenly apart in distance
    axes.contour(x, y, loss, levels=levels, colors="0.8", linewidths=0.6)
    paths = flows(_LR, _MOMENTUM, _LR * _STEPS, points=20 * _STEPS + 1)
    for name in ("gradient flow", "modified flow"):
        axes.add_line(Trajectory(paths[name], linewidth=1.4, **_LOOKS[name]))
    axes.add_line(Trajectory(descent(_LR, _MOMENTUM, _STEPS), zorder=3, **_DOTS))
    axes.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal", xlim=x[[0, -1]], ylim=y[[0, -1]])
    axes.set_title("Trajectories, over level sets of $L$")


def _draw_errors(axes: Axes) -> None:
    time = _LR * _COMPARED_STEPS
    lrs = _LR * np.exp2(-np.arange(_HALVINGS, dtype=np.float64))
    fitted = lrs < critical_lr(_MOMENTUM) / 4
    handles = []
    for name, errors in errors_at(time, _MOMENTUM, lrs).items():
        look = _LOOKS[name] | {"markersize": 3}
        axes.loglog(lrs, errors, marker="o", markerfacecolor="white", linewidth=1, **look)
        axes.loglog(lrs[fitted], errors[fitted], **look | {"marker": "o", "linestyle": ""})
        order, _ = np.polyfit(np.log(lrs[fitted]), np.log(errors[fitted]), 1)
        handles.append(Line2D([], [], label=f"order {order:.2f}", **_LOOKS[name]))
    axes.legend(handles=handles, loc="lower right")
    axes.set(xlabel="Learning rate $η$", ylabel="Distance to gradient descent")
    axes.set_title(f"Error at time $t = ηn$ = {time:g}")


def errors_at(time: float, momentum: float, lrs: Array) -> dict[str, Array]:
    """|w(time) - w_n| of each flow, n = time / eta, for each eta of `lrs`.

    Error: rounding, about n times machine epsilon.
    Assumes: time / eta is a whole number, to rounding.
    Example: errors_at(0.05, 0.9, np.array([0.01, 0.005]))["gradient flow"]
    """
    errors: dict[str, list[float]] = {name: [] for name in _LOOKS}
    for lr in lrs.tolist():
        end = descent(lr, momentum, round(time / lr))[:, -1]
        for name, path in flows(lr, momentum, time, points=2).items():
            errors[name].append(float(np.hypot(*path[:, -1] - end)))
    return {name: np.array(values) for name, values in errors.items()}


def flows(lr: float, momentum: float, time: float, points: int) -> dict[str, Array]:
    """The three flows from START, by name, at even times from 0 to `time`: [2, points] each.

    Example: flows(0.01, 0.9, 0.5, points=51)["modified flow"]
    """
    matched = -HESSIAN @ START / (1 + momentum)
    return {
        "gradient flow": gradient_flow(momentum, time, points),
        "modified flow": modified_flow(lr, momentum, matched, time, points),
        "modified flow from rest": modified_flow(lr, momentum, np.zeros(2), time, points),
    }


def descent(lr: float, momentum: float, steps: int) -> Array:
    """w_0 ... w_steps of gradient descent with momentum from START: [2, steps + 1].

    Example: descent(0.01, 0.9, 50)
    """
    w, buffer = START, np.zeros(2)
    path = [w]
    for _ in range(steps):
        buffer = momentum * buffer + HESSIAN @ w
        w = w - lr * buffer
        path.append(w)
    return np.stack(path, axis=1)


def gradient_flow(momentum: float, time: float, points: int) -> Array:
    """w(t) = e^{-H t / (1 - beta)} w_0, at even times from 0 to `time`: [2, points].

    Example: gradient_flow(0.9, 0.5, points=51)
    """
    return _linear_flow(-HESSIAN / (1 - momentum), START, time, points)


def modified_flow(lr: float, momentum: float, velocity: Array, time: float, points: int) -> Array:
    """w(t) of the modified flow, at even times from 0 to `time`: [2, points].

    In steps s = t / eta the equation is (1 + beta) / 2 d^2w/ds^2 + (1 - beta) dw/ds = -eta H w; its
    matrix, M = [[0, I], [-2 eta H, -2 (1 - beta) I] / (1 + beta)], stays small as eta goes to 0.

    velocity: w'(0) [2].
    Example: modified_flow(0.01, 0.9, np.zeros(2), 0.5, points=51)
    """
    unit = np.eye(2)
    inertia = (1 + momentum) / 2
    rates = np.block(
        [[0 * unit, unit], [-lr * HESSIAN / inertia, -(1 - momentum) / inertia * unit]]
    )
    return _linear_flow(rates, np.concatenate([START, lr * velocity]), time / lr, points)[:2]


def _linear_flow(rates: Array, start: Array, time: float, points: int) -> Array:
    """x' = rates x, by its exact propagator over the time between two points: [dimension, points].

    Error: rounding, about points + |rates| time times machine epsilon.
    """
    from scipy.linalg import expm  # scipy takes a quarter of a second to import

    propagator = expm(rates * time / (points - 1))
    path = [start]
    for _ in range(points - 1):
        path.append(propagator @ path[-1])
    return np.stack(path, axis=1)


def critical_lr(momentum: float) -> float:
    """The eta at which the modified flow of the stiffest mode is critically damped.

    (1 - beta)^2 = 2 eta (1 + beta) h, with h the largest eigenvalue of H. Orders show well below
    it, where no mode oscillates.

    Example: critical_lr(0.9)
    """
    stiffest = float(np.linalg.eigvalsh(HESSIAN)[-1])
    return (1 - momentum) ** 2 / (2 * (1 + momentum) * stiffest)
