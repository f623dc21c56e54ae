"""Fig. 3: gradient flow stays on the level sets of what its symmetry conserves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from symrun.figures.selection import NoRuns
from symrun.figures.style import Trajectory, frame, styled
from symrun.figures.toys import TOYS, Array, Toy, networks
from symrun.runs.directory import RunDirectory

RUNS = NoRuns()

_HEADING = "Fig. 3, drawn from equations (toy losses): gradient flow stays on a surface"
_SURFACES = {
    "translation": "hyperplane (fixed intercept)",
    "scale": "sphere (fixed radius)",
    "rescale": "hyperbola (fixed axes)",
}
_STARTS = {
    "translation": [(-1.9, -0.3), (-1.8, 0.3), (-1.8, 1.3), (-1.1, 1.6), (-0.4, 1.9), (0.3, 1.9)],
    "scale": [(-0.2, -0.6), (-1.1, -0.6), (-0.9, -1.6), (1.1, -1.0), (-1.9, 0.3)],
    "rescale": [(-1.9, 1.5), (-1.0, 1.8), (1.6, -1.8), (1.9, -1.0), (1.9, 1.6)],
}
_DURATIONS = {"translation": 3.5, "scale": 6.0, "rescale": 3.0}

_REACH = 2.0
_PIXELS = 100
_LEVELS = np.arange(-8.0, 8.5)
# Bands, not a gradient: a gif has 256 colours, and would show the palest blue as the palest red
_BANDS = np.linspace(-5, 5, 21)
_COLOURS = "RdBu"  # red negative, blue positive
_FLOW = "#1B7F3B"
_POINTS = 401
_TOLERANCE = 1e-10


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """One panel a symmetry: the conserved quantity as colour, its level sets, and gradient flow.

    runs: none.
    Source: Kunin et al. (2021), Fig. 3; the losses are those of toys.py.
    Example: draw([]).savefig("fig3.png")
    """
    figure, panels = frame((7, 3.25), _HEADING, networks())
    axes_of = panels.subplots(1, len(TOYS))
    for axes, toy in zip(axes_of, TOYS, strict=True):
        bands = _draw_panel(axes, toy)
    panels.colorbar(
        bands, ax=axes_of, label="Conserved quantity", pad=0.02, ticks=[-4, -2, 0, 2, 4]
    )
    handles = [
        Line2D([], [], color="black", linewidth=0.5, label="level sets"),
        Line2D([], [], color=_FLOW, linewidth=1.6, label="gradient flow, integrated"),
        Line2D([], [], color=_FLOW, marker="o", linestyle="", label="start"),
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _draw_panel(axes: Axes, toy: Toy) -> QuadContourSet:
    """The bands of the conserved quantity in it."""
    side = np.linspace(-_REACH, _REACH, _PIXELS + 1)
    conserved = toy.conserved(np.stack(np.meshgrid(side, side)))
    bands = axes.contourf(side, side, conserved, levels=_BANDS, cmap=_COLOURS, extend="both")
    bands.set_edgecolor("face")  # or a viewer of the pdf shows the paper between them
    axes.contour(
        side, side, conserved, levels=_LEVELS, colors="black", linewidths=0.5, linestyles="solid"
    )
    for start in _STARTS[toy.symmetry]:
        path = gradient_flow(toy, np.array(start), _DURATIONS[toy.symmetry])
        axes.add_line(Trajectory(path, head=True, color=_FLOW, linewidth=1.6, markersize=5))
        axes.plot(*start, "o", color=_FLOW, markersize=4)
    name = toy.symmetry.capitalize()
    axes.set_title(f"{name}: {toy.conserved_formula}\n{_SURFACES[toy.symmetry]}")
    axes.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal")
    axes.set(xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH))
    return bands


def gradient_flow(toy: Toy, start: Array, duration: float) -> Array:
    """theta' = -grad L from `start`, at times evenly apart up to `duration`: [2, _POINTS].

    Integrated step by step: nothing in it knows what is conserved.

    Error: _TOLERANCE a step, relative and absolute, by an estimate of order 8.
    Example: gradient_flow(TOYS[2], np.array([2.0, 1.0]), duration=3.0)
    """
    from scipy.integrate import solve_ivp  # scipy takes a quarter of a second to import

    solution = solve_ivp(
        lambda _, theta: -toy.gradient(theta),
        (0.0, duration),
        start,
        method="DOP853",
        t_eval=np.linspace(0.0, duration, _POINTS),
        max_step=duration / 100,  # what lies between the steps is interpolated, without a bound
        rtol=_TOLERANCE,
        atol=_TOLERANCE,
    )
    path: Array = solution.y
    return path
