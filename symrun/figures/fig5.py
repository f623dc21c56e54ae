"""Fig. 5: how conservation breaks, measured and as the paper's theory predicts it."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from symrun.figures.captions import captions, title
from symrun.figures.measured import draw_legend, draw_units, evenly_by_rank, grid_of, notes
from symrun.figures.selection import Roles
from symrun.figures.style import drawable, frame, styled
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.network import GroupInfo
from symrun.runs.tables import Curves, unit_curves

_PLAIN, _WITH_BN = "of a VGG without BN", "of a VGG with BN"


@dataclass(frozen=True)
class Panel:
    """It shows a group of `symmetry` in the run of `role`; `units`: what its units are called."""

    symmetry: str
    role: str
    quantity: str
    units: str


PANELS = (
    Panel("translation", _PLAIN, "Column sum,\nlast linear layer", "columns"),
    Panel("scale", _WITH_BN, "Squared channel norm,\n2nd convolution", "channels"),
    Panel("rescale", _PLAIN, "Squared channel norms,\n5th − 4th convolution", "channels"),
)

_MOST_UNITS = 16


def _fits(info: RunInfo, role: str) -> bool:
    return all(_group(info, panel.symmetry) for panel in PANELS if panel.role == role)


RUNS = Roles({_PLAIN: "fig5_plain", _WITH_BN: "fig5_bn"}, _fits)


def _group(info: RunInfo, symmetry: str) -> GroupInfo | None:
    """The group of that symmetry which the paper shows; None if this run has none."""
    convolutions = tuple(row.layer for row in info.convolutions)
    for group in info.groups_of(symmetry):
        shown = {
            "translation": group.units > 1,
            "scale": group.layers[:1] == convolutions[1:2],
            "rescale": group.layers == convolutions[3:5],
        }
        if shown[symmetry]:
            return group
    return None


@styled
def draw(runs: Sequence[RunDirectory]) -> Figure:
    """A panel for each symmetry: measured lines under dashed predicted lines, below it their
    difference.

    The laws of scale and rescale take measured norms of gradients as input: they explain a run, and
    do not forecast it. That of translation has no input: without momentum the sums follow
    e^{-lambda t}, from which their motion is measured. Without weight decay and momentum, modified
    gradient flow is the recursion of SGD itself; such a figure tests the symmetries, and not the
    limit of continuous time.

    runs: one without BN, one with BN.

    Error: UsageError if a run has fewer than two records.
    """
    run_of = dict(zip(RUNS.presets, runs, strict=True))
    info_of = {role: run.info() for role, run in run_of.items()}
    curves = [_curves(run_of[panel.role], panel) for panel in PANELS]
    last_steps = {
        panel.role: int(shown.steps[-1]) for panel, shown in zip(PANELS, curves, strict=True)
    }
    lines = captions((info, last_steps[role]) for role, info in info_of.items())
    infos = list(info_of.values())
    figure, panels = frame((7, 4.6), title(5, 0.0, infos), lines + notes(infos))
    grid = grid_of(panels, 1, len(PANELS))
    for column, (panel, shown) in enumerate(zip(PANELS, curves, strict=True)):
        info = info_of[panel.role]
        group = _group(info, panel.symmetry)
        assert group is not None
        axes = draw_units(panels, (grid, 0, column), info, group, shown)
        count = f"{shown.values['measured'].shape[1]} of {group.units:,} {panel.units}"
        axes.set_title(f"{panel.symmetry.capitalize()}\n{count}")
        axes.set_ylabel(panel.quantity)
    draw_legend(panels, infos)
    return figure


def _curves(run: RunDirectory, panel: Panel) -> Curves:
    """Those of at most _MOST_UNITS units, by rank of the final value."""
    group = _group(run.info(), panel.symmetry)
    assert group is not None, f"{run.path} was not chosen by role"
    columns = ["measured", "flow"]
    curves = drawable(run, unit_curves(run, panel.symmetry, group.group, columns))
    return curves.of_units(evenly_by_rank(curves.values["measured"][-1], _MOST_UNITS))
