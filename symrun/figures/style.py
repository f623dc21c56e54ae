"""What the figures share: their look, the words about their runs, and how they are saved."""

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from matplotlib.transforms import Bbox, TransformedBbox
from numpy.typing import NDArray
from PIL import Image

from symrun.errors import UsageError
from symrun.files import complete_or_absent
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import Curves

FORMATS = ("png", "pdf", "svg", "gif")

styled = matplotlib.rc_context(
    {
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
"""Decorates what draws or saves. Sizes are points at the printed size."""

_DPI = 300
_GIF_DPI = 150
_GIF_FRAMES = 40
_GIF_FRAME_MILLISECONDS = 100
_GIF_LAST_MILLISECONDS = 2000
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_MOST_RECORDS = 400
_MODEL = "<model>"


def _planned_steps(info: dict[str, Any]) -> int:
    train = info["config"]["train"]
    return int(train["steps"] or train["epochs"] * info["steps_per_epoch"])


def title(number: int, weight_decay: float, infos: Sequence[dict[str, Any]]) -> str:
    """Figure `number` of the paper, data and model, and whether they are the paper's.

    `weight_decay`: the paper's, for this figure.
    """
    settings = dict.fromkeys(_setting(info) for info in infos)
    text = f"Fig. {number} on {'; '.join(settings)}"
    papers = all(_is_the_papers(info, weight_decay) for info in infos)
    return text if papers else f"{text}: not the paper's setting"


def _setting(info: dict[str, Any]) -> str:
    data, model = info["dataset"], info["model"]
    part = "" if data["synthetic"] or data["classes"] == 200 else f"{data['classes']} classes of "
    width = "" if model["width"] == 1 else f" at width {_fraction(model['width'])}"
    return f"{part}{data['title']}, {model['name'].removesuffix('_bn').upper()}{width}"


def _is_the_papers(info: dict[str, Any], weight_decay: float) -> bool:
    data, model, config = info["dataset"], info["model"], info["config"]
    optim = {"lr": 0.1, "momentum": 0, "dampening": 0, "nesterov": False}
    return (
        not data["synthetic"]
        and data["classes"] == 200
        and model["name"] in ("vgg16", "vgg16_bn")
        and model["width"] == 1
        and config["optim"] == optim | {"weight_decay": weight_decay}
        and config["train"]["batch_size"] == 256
        and _planned_steps(info) >= 100 * info["steps_per_epoch"]
    )


def captions(drawn: Iterable[tuple[dict[str, Any], int]]) -> list[str]:
    """Data, model, optimiser, batch size, length and precision of runs, each up to its last step.

    Runs that differ in nothing but the model's title share one.
    """
    titles: dict[str, list[str]] = {}
    for info, last_step in drawn:
        titles.setdefault(_caption(info, last_step), []).append(info["model"]["title"])
    return [
        text.replace(_MODEL, " and ".join(models).replace(" ", "\N{NO-BREAK SPACE}"))
        for text, models in titles.items()
    ]


def _caption(info: dict[str, Any], last_step: int) -> str:
    data, config = info["dataset"], info["config"]
    optim, planned = config["optim"], _planned_steps(info)
    length = f"{last_step:,}" if last_step == planned else f"{last_step:,} of {planned:,}"
    parts = [
        f"{data['title']} ({data['classes']} classes, {data['image_size']}×{data['image_size']})",
        f"{_MODEL}, width {_fraction(info['model']['width'])}",
        f"SGD η = {optim['lr']:g}, λ = {optim['weight_decay']:g}",
        f"momentum {optim['momentum']:g}" if optim["momentum"] else "",
        f"dampening {optim['dampening']:g}" if optim["dampening"] else "",
        "Nesterov" if optim["nesterov"] else "",
        f"batch {config['train']['batch_size']}",
        f"{length} steps (epoch {round(last_step / info['steps_per_epoch'], 1):,g})",
        info["precision"],
    ]
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)


def _fraction(width: float) -> str:
    fraction = Fraction(width).limit_denominator(100)
    return str(fraction) if abs(fraction - width) < 1e-9 else f"{width:g}"


def frame(
    size: tuple[float, float], heading: str, lines: Iterable[str]
) -> tuple[Figure, SubFigure]:
    """An empty figure of `size` [inches], and the place in it for panels and legend.

    That place lies between the heading, above, and the lines of captions, below.
    """
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(heading, wrap=True)
    figure.supxlabel("\n".join(lines), fontsize=7, color="0.35", wrap=True)
    return figure, figure.add_subfigure(figure.add_gridspec()[0])


def drawable(run: RunDirectory, curves: Curves) -> Curves:
    """`curves` thinned evenly to what print can show.

    Error: UsageError if there is a single record, which makes no curve.
    """
    records = len(curves.steps)
    if records < 2:
        raise UsageError(f"{run.path} has a single record so far: a curve needs two")
    kept = np.linspace(0, records - 1, min(records, _MOST_RECORDS)).round().astype(int)
    return Curves(curves.steps[kept], {name: value[kept] for name, value in curves.values.items()})


def add_lines(
    axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], **look: Any
) -> LineCollection:
    """One line a column. steps [records], values [records, lines]; `look`: LineCollection's own."""
    x = np.broadcast_to(steps[:, None], values.shape)
    lines = LineCollection(list(np.stack([x, values], axis=-1).swapaxes(0, 1)), **look)
    axes.add_collection(lines)
    axes.margins(x=0)
    return lines


def label_steps(axes: Axes, info: dict[str, Any]) -> None:
    """Name the x axis: the step, and how time follows from it."""
    lr = info["config"]["optim"]["lr"]
    axes.set_xlabel(f"Step $n$  (time $t = ηn$, $η$ = {lr:g})")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


@styled
def save(figure: Figure, out: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """Write out/<name>.<format> for each of `formats`, complete or not at all; return the paths.

    A gif shows the curves growing from left to right. Files hold no date: the same tables give
    the same bytes.

    Error: UsageError if `out` cannot be written.
    """
    paths = [out / f"{name}.{kind}" for kind in formats]
    for kind, path in zip(formats, paths, strict=True):
        try:
            with complete_or_absent(path) as draft:
                if kind == "gif":
                    _animate(figure, draft)
                else:
                    figure.savefig(draft, dpi=_DPI, metadata=_UNDATED.get(kind))
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return paths


def _animate(figure: Figure, path: Path) -> None:
    images = []
    for share in np.linspace(1 / _GIF_FRAMES, 1, _GIF_FRAMES):
        _reveal(figure, share)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=_GIF_DPI)
        images.append(Image.open(file).convert("RGB"))
    # One palette for all, with the rare colours: Pillow's own loses those of the legend
    palette = images[-1].quantize(method=Image.Quantize.MAXCOVERAGE)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [_GIF_FRAME_MILLISECONDS] * (_GIF_FRAMES - 1) + [_GIF_LAST_MILLISECONDS]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def _reveal(figure: Figure, share: float) -> None:
    """Show the left `share` of every curve, by clipping: axes and data stay as they are."""
    for axes in figure.axes:
        shown = TransformedBbox(Bbox.from_extents(0, 0, share, 1), axes.transAxes)
        for lines in axes.collections:
            lines.set_clip_box(shown)
