"""How well each law predicts every single unit: the share that it leaves unexplained."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from symrun.analysis import is_identity, silences
from symrun.analysis.comparison import Comparison, comparisons, predicting_laws
from symrun.errors import UsageError
from symrun.figures.captions import captions, left_out, settings
from symrun.figures.selection import Roles
from symrun.figures.style import PREDICTED, frame, styled
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry

Array = NDArray[np.float64]


# Where a symmetry is nearly perfect, discrete lies on exact: a broad pale line below a narrow one
_LOOKS: dict[str, dict[str, Any]] = {
    "exact": {"color": "#DDAA33", "linewidth": 2.4},
    "discrete": {"color": "#AA3377", "linewidth": 1.1},
    "flow": PREDICTED | {"linewidth": 1.0},
}
_LOOK: dict[str, Any] = {"color": "#4477AA", "linewidth": 1.1}
"""The look of any other law."""
_GUIDE: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": ":", "zorder": 0}
_LEAST, _MOST = -6.0, 0.0
"""The axis spans at least these powers of ten, so that the names of the guides have room."""


RUNS = Roles({"with a symmetry": "fig1"}, lambda info, _: bool(info.groups))


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A panel for each symmetry, a curve for each law: the distribution of the unexplained share.

    It counts all units that moved and that the law predicts, whatever their group. The further left
    a curve rises, the better its law; a curve below 100 % has units for which the law is not
    finite. A unit without any error, which a logarithmic axis cannot show, counts from the left
    edge on.

    Error: UsageError if the run has fewer than two records, no law but an identity predicts it, or
    no unit moved.
    """
    (run,) = runs
    info = run.info()
    laws = predicting_laws(run)
    if all(map(is_identity, laws)):
        raise UsageError(f"{run.path}: {silences(info)[0]}; residual draws {laws[0]} alone")
    last_step, counts, found = 0, dict[str, int](), dict[str, list[dict[str, Array]]]()
    for group in comparisons(run):
        last_step = max(last_step, int(group.steps[-1]))
        counts[group.symmetry] = counts.get(group.symmetry, 0) + group.moved.size
        if group.moved.any() and group.predicted:
            found.setdefault(group.symmetry, []).append(_unexplained(group))
    if not found:
        nothing = "no unit moved: nothing was broken that a law could explain"
        raise UsageError(f"{run.path}: {nothing}")
    unexplained = {
        symmetry: {law: shares for law in laws if (shares := _pooled(found[symmetry], law)).size}
        for symmetry in counts
        if symmetry in found
    }
    heading = f"How well each law predicts each unit, on {settings([info])}"
    size = (max(2.5 * len(unexplained) + 0.6, 5.2), 3.2)
    figure, panels = frame(size, heading, [*captions([(info, last_step)]), *left_out(info)])
    places = panels.subplots(1, len(unexplained), squeeze=False, sharex=True, sharey=True)[0]
    limits = _limits([shares for by_law in unexplained.values() for shares in by_law.values()])
    for axes, (symmetry, by_law) in zip(places, unexplained.items(), strict=True):
        _draw_panel(axes, by_law, limits)
        moved = max(shares.size for shares in by_law.values())
        title = f"{Symmetry(symmetry).title}: {moved:,} of {counts[symmetry]:,} units moved"
        axes.set_title(title, pad=15)
        axes.set_xlabel("1 − explained (1 − R²), at most")
    places[0].set_ylabel("Share of the units that moved, %")
    handles = [Line2D([], [], label=law, **_LOOKS.get(law, _LOOK)) for law in laws]
    panels.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _unexplained(group: Comparison) -> dict[str, Array]:
    """Law -> share of each unit. A function of its own lets `draw` hold one group's curves only."""
    return {law: group.unexplained_by_unit(curve) for law, curve in group.predicted.items()}


def _pooled(groups: Sequence[dict[str, Array]], law: str) -> Array:
    """The shares of all groups that the law predicts, rising; NaN last."""
    none = np.empty(0)
    return np.sort(np.concatenate([none, *(by_law.get(law, none) for by_law in groups)]))


def _limits(shares: Sequence[Array]) -> tuple[float, float]:
    """Whole powers of ten that enclose every share which is finite and not 0."""
    drawn = np.concatenate(shares)
    powers = np.log10(drawn[np.isfinite(drawn) & (drawn > 0)])
    least = np.floor(powers.min(initial=_LEAST))
    most = np.ceil(powers.max(initial=_MOST))
    return float(10.0**least), float(10.0**most)


def _draw_panel(axes: Axes, by_law: dict[str, Array], limits: tuple[float, float]) -> None:
    for law in reversed(by_law):
        x, percent = _distribution(by_law[law], limits)
        look = _LOOKS.get(law, _LOOK)
        axes.plot(x, percent, drawstyle="steps-post", clip_on=False, **look)
    axes.set_xscale("log")
    axes.set_xlim(limits)
    axes.set_ylim(0, 100)
    for share, text, side in ((1e-3, "R² = 0.999", "right"), (1e-2, "0.99", "left")):
        axes.axvline(share, **_GUIDE)
        place: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False}
        place["xycoords"] = axes.get_xaxis_transform()
        axes.annotate(text, (share, 1), (0, 4), ha=side, fontsize=7, color="0.35", **place)


def _distribution(shares: Array, limits: tuple[float, float]) -> tuple[Array, Array]:
    """x, and the percentage of units with at most that share. shares: rising."""
    finite = shares[np.isfinite(shares)].clip(min=limits[0])
    percent = 100 * np.arange(finite.size + 1) / shares.size
    x = np.concatenate([finite[:1], finite, limits[1:]]) if finite.size else finite
    return x, np.concatenate([percent, percent[-1:]])[: x.size]
