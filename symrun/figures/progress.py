"""Loss and accuracy over epochs or updates, beside the values of a network that only guesses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from symrun.errors import UsageError
from symrun.figures.captions import captions, labels, settings
from symrun.figures.selection import AnyRuns
from symrun.figures.style import HUES, Colour, evenly, frame, shaded, styled, unit_colours
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import parts_of
from symrun.runs.tables import Curves, progress_curves

_TRAINING: dict[str, Any] = {"linewidth": 0.6, "zorder": 1}
_VALIDATION: dict[str, Any] = {"linewidth": 1.1, "marker": "o", "markersize": 2.2, "zorder": 2}
_TOP5: dict[str, Any] = {"linestyle": "--"}
_GUIDE: dict[str, Any] = {"color": "0.4", "linewidth": 0.8, "linestyle": ":"}
_PALER = 0.45
_MOST_POINTS = 400
_LEAST_LOSS, _MOST_LOSS = 1.1, 2.0
"""The axis of the loss ends between these multiples of the chance loss: it shows a plateau there,
but not all of a run that blows up, which would flatten what came before."""
_LONG = 45  # characters: two longer labels do not fit side by side

RUNS = AnyRuns("quickstart_bn")


@dataclass(frozen=True)
class _History:
    """A run's rows on the training batches and on the validation images."""

    training: Curves
    validation: Curves

    @property
    def last_step(self) -> int:
        return int(max(curves.steps.max(initial=0) for curves in (self.training, self.validation)))

    @property
    def is_scored(self) -> bool:
        """Whether any row has an accuracy."""
        return any(
            np.isfinite(curves.values[name]).any()
            for curves in (self.training, self.validation)
            for name in ("top1", "top5")
        )


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """Loss (left) and accuracies (right), if any, a hue for each run; over epochs, or over updates
    where nobody knows how many make an epoch.

    Training losses are means over the batches since the last row, each taken before its update;
    validation uses all images. A row whose loss is not finite is a gap. The dotted line is the loss
    of a uniform guess, where that is known; the panel ends at twice that.

    Error: UsageError if a run has no row yet, or none that is finite.
    """
    infos = [run.info() for run in runs]
    histories = [_history(run) for run in runs]
    names = labels([(info, run.path) for info, run in zip(infos, runs, strict=True)])
    columns = 1 if max(map(len, names)) > _LONG else 2
    scored = any(history.is_scored for history in histories)
    heading = f"Loss{' and accuracy' if scored else ''} on {settings(infos)}"
    lines = captions(
        (info, history.last_step) for info, history in zip(infos, histories, strict=True)
    )
    height = 3.3 + 0.15 * math.ceil(len(names) / columns) + 0.22 * len(lines)
    figure, panels = frame((6.5, height), heading, lines)
    places = panels.subplots(1, 1 + scored, squeeze=False)[0]
    over_epochs = all(info.steps_per_epoch for info in infos)
    for info, history, colour in zip(infos, histories, _colours(len(runs)), strict=True):
        per_unit = (info.steps_per_epoch if over_epochs else None) or 1
        _draw(places[0], history, "loss", per_unit, 1, colour)
        for right in places[1:]:
            _draw(right, history, "top5", per_unit, 100, colour, **_TOP5)
            _draw(right, history, "top1", per_unit, 100, colour)
    chances = {info.loss.chance_label: info.loss.chance for info in infos if info.loss}
    _show_chance(places[0], list(chances.values()))
    for right in places[1:]:
        right.set_ylim(0, min(right.get_ylim()[1], 100))
    for axes, label in zip(places, ("Loss", "Accuracy, %"), strict=False):
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.set_xlabel("Epoch" if over_epochs else "Step")
        axes.set_ylabel(label)
    handles = [
        Line2D([], [], color=colour, linewidth=2, label=name)
        for name, colour in zip(names, _colours(len(runs)), strict=True)
    ]
    panels.legend(handles=handles, loc="outside upper center", ncols=columns)
    kinds = _kinds(scored, chances)
    panels.legend(handles=kinds, loc="outside lower center", ncols=len(kinds))
    return figure


def _kinds(scored: bool, chances: Mapping[str, float]) -> list[Line2D]:
    """For a legend: what each kind of line is. chances: the loss of a guess, by its label."""
    kinds = [
        Line2D([], [], color="0.3", label="validation", **_VALIDATION),
        Line2D([], [], color=shaded((0.3, 0.3, 0.3), _PALER), label="training", **_TRAINING),
    ]
    if scored:
        kinds.append(Line2D([], [], color="0.3", linewidth=1.1, label="top-1"))
        kinds.append(Line2D([], [], color="0.3", linewidth=1.1, label="top-5", **_TOP5))
    if chances:
        at_chance = "chance, " + " and ".join(sorted(chances, key=chances.__getitem__))
        kinds.append(Line2D([], [], label=at_chance, **_GUIDE))
    return kinds


def _history(run: RunDirectory) -> _History:
    """Error: UsageError as in `draw`."""
    if run.info().loop is not None and not parts_of(run, "progress"):
        raise UsageError(f"{run.path} has no loss: the loop that made it told none")
    training, validation = (_gaps(progress_curves(run, split)) for split in ("train", "val"))
    if all(np.isnan(curves.values["loss"]).all() for curves in (training, validation)):
        raise UsageError(f"{run.path} has no finite loss: there is no curve of it to draw")
    return _History(training.at_records(evenly(len(training.steps), _MOST_POINTS)), validation)


def _gaps(curves: Curves) -> Curves:
    """What is not finite becomes NaN, and with the loss the whole row, whose accuracies mislead."""
    known = np.isfinite(curves.values["loss"])
    values = {
        name: np.where(known & np.isfinite(here), here, np.nan)
        for name, here in curves.values.items()
    }
    return Curves(curves.steps, values)


def _show_chance(axes: Axes, chances: Sequence[float]) -> None:
    """The loss of a guess, in the panel of losses, which ends near it."""
    for chance in chances:
        axes.axhline(chance, zorder=0, **_GUIDE)
    if chances:
        highest = min(axes.get_ylim()[1], _MOST_LOSS * max(chances))
        axes.set_ylim(0, max(highest, _LEAST_LOSS * max(chances)))


def _draw(
    axes: Axes,
    history: _History,
    name: str,
    per_unit: int,
    factor: float,
    colour: Colour,
    **style: Any,
) -> None:
    """per_unit: updates in a unit of the x axis, an epoch or an update."""
    lone = {"marker": "."} if len(history.training.steps) == 1 else {}
    for curves, look in (
        (history.training, {"color": shaded(colour, _PALER)} | _TRAINING | lone),
        (history.validation, {"color": colour} | _VALIDATION),
    ):
        axes.plot(curves.steps / per_unit, factor * curves.values[name][:, 0], **look, **style)


def _colours(count: int) -> list[Colour]:
    """A hue for each run, taken from a colour map if there are more runs than hues."""
    if count <= len(HUES):
        return [to_rgb(hue) for hue in HUES[:count]]
    return [to_rgb(colour) for colour in unit_colours(count)]
