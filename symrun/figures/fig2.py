"""Fig. 2: a symmetry holds the gradient perpendicular to its generator, everywhere."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from symrun.figures.selection import NoRuns
from symrun.figures.style import frame, styled
from symrun.figures.toys import TOYS, Array, Toy, networks
from symrun.runs.directory import RunDirectory

RUNS = NoRuns()

_HEADING = "Fig. 2, drawn from equations (toy losses): gradients are perpendicular to generators"
_REACH = 2.0
_SLOPES = LinearSegmentedColormap.from_list("yellow to red", ["#F6D32D", "#F08A1D", "#B5121B"])
_MAGNITUDES = LogNorm(0.1, 10.0)
_GENERATOR = "#8A9DB8"
_WIDTH, _GENERATOR_WIDTH = 1.0, 0.6

_LENGTH = 4.5
_STEP = 0.05
_HEADS_APART = 1.5
_FAINT = 0.02
_TOLERANCE = 1e-8


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """One panel a symmetry: streamlines of -grad L, coloured by |grad L|, over the generator's.

    runs: none.
    Source: Kunin et al. (2021), Fig. 2; the losses are those of toys.py.
    Example: draw([]).savefig("fig2.png")
    """
    figure, panels = frame((7, 3.25), _HEADING, networks())
    axes_of = panels.subplots(1, len(TOYS))
    for axes, toy in zip(axes_of, TOYS, strict=True):
        slopes = _draw_panel(axes, toy)
    panels.colorbar(
        slopes, ax=axes_of, label=r"$|∇L|$", extend="both", pad=0.02, ticks=[0.1, 1, 10]
    )
    handles = [
        _example(r"$-∇L$, the way of gradient flow", _SLOPES(0.5), _WIDTH),
        _example("generator, along which $L$ does not change", _GENERATOR, _GENERATOR_WIDTH),
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _example(label: str, colour: Any, width: float) -> Line2D:
    return Line2D([], [], color=colour, linewidth=width, label=label)


def _draw_panel(axes: Axes, toy: Toy) -> LineCollection:
    """The streamlines of -grad L in it."""
    across, along = _seeds(toy.symmetry)
    _add_streamlines(axes, toy.generator, along, _GENERATOR_WIDTH, color=_GENERATOR)
    slopes = _add_streamlines(
        axes, lambda theta: -toy.gradient(theta), across, _WIDTH, cmap=_SLOPES, norm=_MAGNITUDES
    )
    axes.set_title(f"{toy.symmetry.capitalize()}\n{toy.formula}")
    axes.set(xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal")
    axes.set(xlim=(-_REACH, _REACH), ylim=(-_REACH, _REACH))
    return slopes


def _seeds(symmetry: str) -> tuple[Array, Array]:
    """Points of the streamlines of the gradient, and of the generator: [2, lines] each.

    Those of the gradient lie on orbits of the generator: it leads from one level set to the next.
    """
    offsets = np.linspace(-_REACH, _REACH, 17)
    if symmetry == "translation":
        return np.stack([offsets, offsets]), np.stack([offsets, -offsets])
    if symmetry == "scale":
        radii = 0.3 * np.arange(1, 10)
        radii = np.concatenate([-radii, radii])
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        return np.stack([radii, -radii]) / np.sqrt(2), np.stack([np.cos(angles), np.sin(angles)])
    levels = 0.6 * np.arange(-13, 14)
    apart = levels[levels != 0]
    gradients = [
        _on_hyperbolas(apart, 0),
        _on_hyperbolas(0, [-0.1, 0.1]),
        _on_hyperbolas(levels, 2),
    ]
    generators = [_on_hyperbolas(0, apart), _on_hyperbolas([-1, 1], 0)]
    return np.concatenate(gradients, axis=1), np.concatenate(generators, axis=1)


def _on_hyperbolas(difference: ArrayLike, product: ArrayLike) -> Array:
    """The points where theta_2^2 - theta_1^2 = difference and theta_1 theta_2 = product: [2, ...].

    Both are parts of a square: (theta_1 + i theta_2)^2 = -difference + 2 i product.
    """
    roots = np.sqrt(-np.asarray(difference) + 2j * np.asarray(product))
    roots = np.concatenate([roots, -roots])
    return np.stack([roots.real, roots.imag])


def _add_streamlines(
    axes: Axes, field: Callable[[Array], Array], seeds: Array, width: float, **look: Any
) -> LineCollection:
    """Streamlines of `field` through `seeds` [2, lines], with heads of arrows along them.

    look: of lines and heads alike; with a `cmap` it is the magnitude of `field` that colours them.
    """
    lines = _streamlines(field, seeds)
    pieces = np.stack([lines[..., :-1], lines[..., 1:]]).reshape(2, 2, -1).transpose(2, 0, 1)
    middles = pieces.mean(axis=1)
    moving = np.hypot(*(pieces[:, 1] - pieces[:, 0]).T) > 0.02 * _STEP
    kept = moving & (np.abs(middles).max(axis=1) < _REACH + _STEP)
    pieces, middles = pieces[kept], middles[kept]
    drawn = LineCollection(list(pieces), linewidths=width, **look)
    axes.add_collection(drawn)

    apart = round(_HEADS_APART / _STEP)
    heads = lines[..., lines.shape[-1] // 2 % apart :: apart].reshape(2, -1)
    heads = heads[:, np.abs(heads).max(axis=0) < 0.95 * _REACH]
    heads = heads[:, np.hypot(*field(heads)) > 10 * _FAINT]
    slopes = field(heads)
    sizes = np.hypot(*slopes)
    by_size = []
    if "cmap" in look:
        drawn.set_array(np.hypot(*field(middles.T)))
        by_size = [sizes]
    axes.quiver(*heads, *slopes / sizes, *by_size, **_all_head(4.5 * width / 72), **look)
    return drawn


def _all_head(inches: float) -> dict[str, Any]:
    """What makes arrows of length 1 nothing but heads, `inches` long."""
    return {
        "pivot": "mid",
        "units": "inches",
        "width": inches / 6,
        "headwidth": 5,
        "headlength": 6,
        "headaxislength": 6,
        "scale": 1 / inches,
        "scale_units": "inches",
    }


def _streamlines(field: Callable[[Array], Array], seeds: Array) -> Array:
    """The paths along `field` through `seeds` [2, lines], both ways: [2, lines, points].

    d theta / ds = f / sqrt(|f|^2 + _FAINT^2): at unit speed, but where the field vanishes a path
    comes to rest, for at unit speed it would tremble there. Points are _STEP apart in s.

    Error: _TOLERANCE (1 + |theta|) a step of the integrator, as a root mean square over the lines.
    """
    from scipy.integrate import solve_ivp  # scipy takes a quarter of a second to import

    def velocity(_: float, flat: Array) -> Array:
        slopes = field(flat.reshape(seeds.shape))
        velocities: Array = slopes / np.hypot(np.hypot(*slopes), _FAINT)
        return velocities.ravel()

    distances = np.linspace(0, _LENGTH, round(_LENGTH / _STEP) + 1)
    back, forth = (
        solve_ivp(
            velocity,
            (0, way * _LENGTH),
            seeds.ravel(),
            method="DOP853",
            t_eval=way * distances,
            max_step=_STEP,  # what lies between the steps is interpolated, without a bound
            rtol=_TOLERANCE,
            atol=_TOLERANCE,
        ).y.reshape(*seeds.shape, -1)
        for way in (-1, 1)
    )
    return np.concatenate([back[..., :0:-1], forth], axis=-1)
