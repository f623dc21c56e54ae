"""What the figures share: their look, and how they are saved."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import Bbox, TransformedBbox
from numpy.typing import NDArray
from PIL import Image

from symrun.errors import UsageError, refusal
from symrun.files import complete_or_absent
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import Curves

FORMATS = ("png", "pdf", "svg", "gif")

_SETTINGS: dict[Any, Any] = (
    # Not the user's settings: the same tables give the same figure everywhere. Not the backend,
    # which stays the caller's: rc_context does not put it back, and figures need none.
    {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    | {
        "font.size": 7.5,
        "axes.titlesize": 8,
        "axes.labelsize": 7.5,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "figure.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "axes.formatter.use_mathtext": True,
        "axes.formatter.limits": (-2, 4),
        "legend.frameon": False,
        "pdf.fonttype": 42,  # whole fonts: journals refuse type 3
        "svg.fonttype": "none",
        "svg.hashsalt": "symrun",
    }
)

styled = matplotlib.rc_context(_SETTINGS)
"""Decorator for functions that draw or save, which leaves matplotlib's settings as they were.

Sizes are points in print.
"""

PREDICTED: dict[str, Any] = {"color": "black", "linewidth": 0.7, "linestyle": "--"}
"""How predictions look, over coloured measured lines."""

_DPI = 300
_GIF_DPI = 150
_GIF_FRAMES = 40
_GIF_FRAME_MILLISECONDS = 100
_GIF_LAST_MILLISECONDS = 2000
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MOST_RECORDS = 400
_CHARACTERS_AN_INCH = 18
"""Of the text in captions, a few less than fit."""


def unit_colours(count: int) -> NDArray[np.float64]:
    """A colour for each of `count` units, [count, 4]: neither too dark nor too pale."""
    colours: NDArray[np.float64] = matplotlib.colormaps["viridis"](np.linspace(0.25, 0.9, count))
    return colours


Colour = tuple[float, float, float]

HUES = ("#332288", "#DDAA33", "#009E73", "#56B4E9", "#882211", "#AA4499", "#555555")
"""From Okabe and Ito's and Tol's palettes. The first five, the blocks of a VGG, stay as far apart
as colours of these palettes can for eyes without red or green cones; so do their shades."""


def shaded(colour: Colour, shade: float) -> Colour:
    """`colour` mixed with white (shade > 0) or black (shade < 0)."""
    target = 1.0 if shade > 0 else 0.0
    red, green, blue = ((1 - abs(shade)) * part + abs(shade) * target for part in colour)
    return red, green, blue


def frame(
    size: tuple[float, float], heading: str, lines: Iterable[str]
) -> tuple[Figure, SubFigure]:
    """An empty figure of `size` [inches], and the place in it for panels and legend.

    That place lies between the heading, above, and the lines of captions, below.
    """
    figure = Figure(figsize=size, layout="constrained")
    describe(figure, heading, lines)
    return figure, figure.add_subfigure(figure.add_gridspec()[0])


def describe(figure: Figure, heading: str, lines: Iterable[str]) -> None:
    """Give `figure` a heading, above, and lines of captions, below, in place of those it has."""
    caption = "\n".join(_balanced(line, figure.get_figwidth()) for line in lines)
    figure.suptitle(heading, wrap=True)
    figure.supxlabel(caption, fontsize=7, color="0.35", wrap=True)


def _balanced(line: str, width: float) -> str:
    """`line` in as few lines as `width` [inches] allows, all of about the same length."""
    widest = int(_CHARACTERS_AN_INCH * width)
    fewest = len(textwrap.wrap(line, widest))
    splits = (textwrap.wrap(line, most) for most in range(len(line) // fewest, widest + 1))
    return "\n".join(next(split for split in splits if len(split) == fewest))


def drawable(run: RunDirectory, curves: Curves) -> Curves:
    """`curves` thinned evenly to what print can show.

    Error: UsageError if there is a single record, which makes no curve.
    """
    records = len(curves.steps)
    if records < 2:
        raise UsageError(f"{run.path} has a single record so far: a curve needs two")
    return curves.at_records(evenly(records, _MOST_RECORDS))


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Which of `count` things to take where `most` are enough: evenly spaced, with both ends.

    Example: evenly(5, 3).tolist() == [0, 2, 4]
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.intp)


class StepLines(LineCollection):
    """Lines over steps; an animation shows them from left to right."""

    def reveal(self, share: float) -> None:
        """Show the left `share`, by clipping: axes and data stay as they are."""
        assert self.axes is not None, "lines without axes"
        self.set_clip_box(TransformedBbox(Bbox.from_extents(0, 0, share, 1), self.axes.transAxes))


class Trajectory(Line2D):
    """A path whose points are evenly apart in time; an animation lets it grow point by point.

    points [2, points]; `look`: Line2D's own. `head`: whether a triangle at its end shows where it
    goes, which it does on axes of equal scales.

    Example: plt.gca().add_line(Trajectory(np.array([[0, 1, 2], [0, 1, 4]]), head=True))
    """

    def __init__(self, points: NDArray[np.float64], head: bool = False, **look: Any) -> None:
        super().__init__(*points, **look)
        self._points, self._head = points, head
        self.reveal(1.0)

    def reveal(self, share: float) -> None:
        """Show the first `share` of the time."""
        last = int(share * (self._points.shape[1] - 1))
        self.set_data(self._points[:, : last + 1])
        if self._head:
            run, rise = self._points[:, last] - self._points[:, max(last - 1, 0)]
            self.set_marker((3, 0, np.degrees(np.arctan2(rise, run)) - 90))
            self.set_markevery([last])


def add_lines(
    axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], **look: Any
) -> StepLines:
    """One line a column. steps [records], values [records, lines]; `look`: LineCollection's own."""
    x = np.broadcast_to(steps[:, None], values.shape)
    lines = StepLines(list(np.stack([x, values], axis=-1).swapaxes(0, 1)), **look)
    axes.add_collection(lines)
    axes.margins(x=0)
    return lines


def label_steps(axes: Axes, label: str) -> None:
    """An x axis of steps, under `label`."""
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


@styled
def save(figure: Figure, out: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Write out/<name>.<format> for each of `formats`, complete or not at all; return the paths.

    A gif shows curves that grow: from left to right over steps, trajectories in time. Files hold no
    date: the same tables give the same bytes.

    Error: UsageError if `out` cannot be written, or for a gif of a figure in which nothing moves.
    """
    if "gif" in formats and not _growing(figure):
        still = ", ".join(kind for kind in FORMATS if kind != "gif")
        raise UsageError(f"{name} shows nothing that moves: --format must be some of {still}")
    paths = [out / f"{name}.{kind}" for kind in formats]
    # Once: else it would draw all once more for each format, and the formats would differ a little
    figure.set_dpi(_DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for kind, path in zip(formats, paths, strict=True):
        try:
            with complete_or_absent(path) as draft:
                if kind == "gif":
                    _animate(figure, draft)
                else:
                    figure.savefig(draft, dpi=_DPI, metadata=_UNDATED.get(kind))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {refusal(error)}") from None
    return paths


def _animate(figure: Figure, path: Path) -> None:
    images = []
    for share in np.linspace(1 / _GIF_FRAMES, 1, _GIF_FRAMES):
        for artist in _growing(figure):
            artist.reveal(share)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_GIF_DPI)
        images.append(Image.open(file).convert("RGB"))
    # One palette for all, with the rare colours: Pillow's own loses those of the legend
    palette = images[-1].quantize(method=Image.Quantize.MAXCOVERAGE)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [_GIF_FRAME_MILLISECONDS] * (_GIF_FRAMES - 1) + [_GIF_LAST_MILLISECONDS]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def _growing(figure: Figure) -> list[StepLines | Trajectory]:
    return [artist for artist in figure.findobj() if isinstance(artist, StepLines | Trajectory)]
