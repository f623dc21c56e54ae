"""What limits the agreement between measurement and prediction, one effect at a time.

Every run differs from one base run in a single setting, and three laws tell what that does:

    exact      takes the measured defect of the symmetry: what it misses is rounding
    discrete   assumes a perfect symmetry: it misses as well what breaks that
    flow       takes the continuous limit: it misses that as well

    BatchNorm's eps   breaks the scale symmetry, in proportion; BatchNorm's own weights (rescale)
                      and the softmax (translation) do not feel it
    precision         rounding of the weights is the floor, that of `exact`; rounding of the
                      gradients (bf16, tf32) breaks symmetries, which `exact` takes as measured
    weight decay      at 0, and without momentum, a step of SGD is what `flow` says: its limit costs
                      something only where weights decay meanwhile
    learning rate     the size of the step; since all runs have as many, also their length in time

The base is in float64, since the rounding of float32 weights would hide all but the largest of
these; float32 and bf16 are single changes then. VGG16 with BN has all three symmetries.

Residuals are the largest over units and records of |Q - P| / magnitude. Errors of two origins may
cancel there, so the table also has what each law gives away beside the next better one:
|flow - discrete| is the continuous limit, |discrete - exact| the broken symmetry.

Runs that are finished are found in outputs/limits and not trained again: after a signal, which
saves and stops, the same command goes on.
Usage: python scripts/limits.py [--out DIR] [overrides of the base, such as data.root=DIR ...]
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from symrun.analysis import Comparison, comparisons
from symrun.cli import exit_code
from symrun.config import Config, flat
from symrun.errors import Diverged
from symrun.figures.captions import captions, power, settings_and_papers
from symrun.figures.style import frame, save, styled
from symrun.files import write_text
from symrun.launch import compose
from symrun.models.registry import BN_EPS
from symrun.report.document import Table, as_markdown
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry
from symrun.training.device import select_device
from symrun.training.lifecycle import train_member
from symrun.training.plan import Plan
from symrun.training.signals import StopRequest

BASE = ["model=vgg16_bn", "data=tiny_imagenet", "model.width=0.125", "train.steps=200"]
BASE += ["train.batch_size=64", "optim.lr=0.1", "optim.weight_decay=1e-4", "track.every=10"]
BASE += ["device=cpu", "precision=float64", "run.name=limits"]
NEXT_BETTER = {"flow": "discrete", "discrete": "exact"}
LOOKS: dict[str, dict[str, Any]] = {
    "flow": {"linewidth": 0.9, "marker": "o", "markersize": 6.5, "fillstyle": "none"},
    "discrete": {"linewidth": 0.9, "linestyle": "--", "marker": "s", "markersize": 3.5},
    "exact": {"linewidth": 0.9, "linestyle": ":", "marker": "x", "markersize": 4},
}
"""Laws that coincide show as a ring around a square under a cross."""
LAWS = tuple(LOOKS)
CHANGE: dict[str, Any] = {"linewidth": 2.5, "alpha": 0.25, "solid_capstyle": "butt"}
GUIDE: dict[str, Any] = {"color": "0.5", "linewidth": 0.7, "linestyle": (0, (1, 2))}
ROUNDINGS = (2.0**-53, 2.0**-24)
EPS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
PRECISIONS = ("float64", "float32", "tf32", "bf16")  # tf32 on a GPU alone

Value = float | str


@dataclass(frozen=True)
class Effect:
    """A setting and its values, besides that of the base."""

    title: str
    setting: str
    values: tuple[Value, ...]
    logarithmic: bool


EFFECTS = {
    "eps": Effect("BatchNorm's eps", "model.eps", EPS, True),
    "precision": Effect("Precision", "precision", PRECISIONS, False),
    "decay": Effect("Weight decay λ", "optim.weight_decay", (0.0, 1e-4, 1e-3, 1e-2), False),
    "lr": Effect("Learning rate η", "optim.lr", (0.025, 0.05, 0.1, 0.2), True),
}


@dataclass(frozen=True)
class Member:
    """One run of the study, and what makes it another than the base; is_base: nothing does."""

    effect: str
    value: Value
    is_base: bool
    config: Config


@dataclass(frozen=True)
class Row:
    """One law, for all units of one symmetry in one run; all relative to the units' magnitudes.

    residual: the largest over units and records. from_next: the largest distance from the next
    better law; of `exact`, from the measurement. change: the largest since the start, which is what
    there was to predict.
    """

    effect: str
    value: Value
    symmetry: str
    law: str
    residual: float
    from_next: float
    change: float


def base_of(overrides: Sequence[str]) -> Config:
    return Plan.of(compose([*BASE, *overrides])).config


def members(overrides: Sequence[str]) -> Iterator[Member]:
    """The runs, effect by effect; each effect has the base among them."""
    of_base = flat(base_of(overrides).to_dict())
    for name, effect in EFFECTS.items():
        usual = of_base[effect.setting]
        values = list(dict.fromkeys([*effect.values, usual]))
        for value in values if isinstance(usual, str) else sorted(values):
            config = compose([*BASE, *overrides, f"{effect.setting}={value}"])
            if value == "tf32" and select_device(config.device).type == "cpu":
                continue
            yield Member(name, value, value == usual, config)


def trained(study: Sequence[Member]) -> Iterator[tuple[Member, RunDirectory]]:
    """Each member with its run: found finished, resumed, or trained; the base once for all.

    A member that diverges is told and left out. Error: as in `train_member`.
    """
    runs: dict[Config, RunDirectory | None] = {}
    with StopRequest() as stop:
        for member in study:
            if member.config not in runs:
                runs[member.config] = None
                try:
                    path = train_member(member.config, stop)
                    runs[member.config] = RunDirectory.open(path)
                except Diverged as error:
                    which = f"{member.effect} {member.value}"
                    print(f"limits: {which} is left out: {error}", file=sys.stderr)
            if run := runs[member.config]:
                yield member, run


def rows_of(member: Member, run: RunDirectory) -> list[Row]:
    """A row for each law in each symmetry of one run."""
    groups: dict[str, list[Comparison]] = {}
    for group in comparisons(run):
        groups.setdefault(group.symmetry, []).append(group)
    rows = []
    for symmetry, alike in groups.items():
        still = [dataclasses.replace(group, baseline=group.measured[:1]) for group in alike]
        change = max(float(group.motion.max()) for group in still)
        for law in LAWS:
            if law not in alike[0].predicted:
                continue
            residual = max(float(group.residual(law).max()) for group in alike)
            apart = max(float(beside_next(group, law).max()) for group in alike)
            numbers = (residual, apart, change)
            rows.append(Row(member.effect, member.value, symmetry, law, *numbers))
    return rows


def beside_next(group: Comparison, law: str) -> NDArray[np.float64]:
    """How far a law is from the next better one, at each record, as a residual is."""
    reference = group.predicted[NEXT_BETTER[law]] if law in NEXT_BETTER else group.measured
    return dataclasses.replace(group, measured=reference).residual(law)


@styled
def draw(rows: Sequence[Row], base: Config, run: RunDirectory) -> Figure:
    """A panel an effect: residuals, log, by law and symmetry. run: the base's."""
    info = run.info()
    network = settings_and_papers([info], 1e-4)
    (caption,) = captions([(info, info.last_step)])
    if getattr(base.model, "eps", BN_EPS) == BN_EPS:  # which captions pass over
        caption = f"{caption}, BN\N{NO-BREAK SPACE}eps\N{NO-BREAK SPACE}{label(BN_EPS)}"
    lines = [f"Each panel changes one setting of the base: {caption}."]
    lines.append("Residual: the largest over units and records, relative to the unit's magnitude.")
    figure, panels = frame((7, 6.6), f"What limits the agreement: {network}", lines)
    grid = panels.subplots(2, 2, sharey=True, squeeze=False)
    for axes, (name, effect) in zip(grid.flat, EFFECTS.items(), strict=True):
        usual = flat(base.to_dict())[effect.setting]
        draw_effect(axes, effect, [row for row in rows if row.effect == name], usual)
    panels.supylabel("Residual", fontsize="medium")
    shown = dict.fromkeys(row.symmetry for row in rows)
    handles = [Line2D([], [], color=Symmetry(name).colour, label=name) for name in shown]
    handles.append(Line2D([], [], color="0.25", label="change since the start", **CHANGE))
    handles += [Line2D([], [], color="0.25", label=law, **LOOKS[law]) for law in LAWS]
    handles.append(Line2D([], [], label="the base; one rounding of float64, float32", **GUIDE))
    panels.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def draw_effect(axes: Axes, effect: Effect, rows: Sequence[Row], usual: Value) -> None:
    """One panel. usual: the value of the base, marked by a line."""
    values = list(dict.fromkeys(row.value for row in rows))
    positions: Sequence[Any] = values if effect.logarithmic else range(len(values))
    places = dict(zip(values, positions, strict=True))
    axes.set_yscale("log")
    if effect.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(places.values()), [label(value) for value in values])
    axes.set_title(effect.title)
    axes.axvline(places[usual], zorder=0, **GUIDE)
    for rounding in ROUNDINGS:
        axes.axhline(rounding, zorder=0, **GUIDE)
    for symmetry in dict.fromkeys(row.symmetry for row in rows):
        hue = Symmetry(symmetry).colour
        for law in LAWS:
            curve = [row for row in rows if (row.symmetry, row.law) == (symmetry, law)]
            x = [places[row.value] for row in curve]
            y = [row.residual or np.nan for row in curve]  # 0 has no place on a log axis
            axes.plot(x, y, color=hue, **LOOKS[law])
        axes.plot(x, [row.change or np.nan for row in curve], color=hue, zorder=1, **CHANGE)


def label(value: Value) -> str:
    """0.0001 as "1e-4", 0.025 as it is."""
    if isinstance(value, str):
        return value
    return power(value) if 0 < value <= 0.01 else f"{value:g}"


def table(rows: Sequence[Row]) -> Table:
    """A line for each symmetry of each run."""
    head = ["effect", "value", "symmetry", *LAWS, "flow − discrete", "discrete − exact", "change"]
    found: dict[tuple[str, Value, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.effect, row.value, row.symmetry), {})[row.law] = row
    lines = []
    for (effect, value, symmetry), laws in found.items():
        numbers = [laws[law].residual if law in laws else None for law in LAWS]
        numbers += [laws[law].from_next if law in laws else None for law in NEXT_BETTER]
        numbers.append(next(iter(laws.values())).change)
        shown = ["-" if number is None else f"{number:.1e}" for number in numbers]
        lines.append([EFFECTS[effect].title, label(value), symmetry, *shown])
    return Table(head, lines)


def write(rows: Sequence[Row], run: RunDirectory, out: Path) -> Path:
    """limits.json: what the base was, all numbers, and the table. run: the base's."""
    content = {
        "base": run.info().published().to_json(),
        "rows": [dataclasses.asdict(row) for row in rows],
        "table": dataclasses.asdict(table(rows)),
    }
    path = out / "limits.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("docs/results/limits"))
    parser.add_argument("overrides", nargs="*", help="settings of `symrun train`, for the base")
    options = parser.parse_args()
    base = base_of(options.overrides)
    rows, of_base = [], None
    for member, run in trained(list(members(options.overrides))):
        rows += rows_of(member, run)
        of_base = run if member.is_base else of_base
    if of_base is None:
        raise Diverged("the base diverged, so there is nothing to hold the others against")
    print(as_markdown([table(rows)]))
    figures = save(draw(rows, base, of_base), options.out, "limits", ["png", "pdf"])
    for path in (*figures, write(rows, of_base, options.out)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("limits", main))
