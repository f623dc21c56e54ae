"""Figures of runs made in a loop of the user's own: nothing is claimed that nobody knows."""

import shutil

import numpy as np
import pytest
from own_loop import ADAMW, KINDS, RATES, STEPS
from run_json import recorded, rewrite

from symrun.errors import UsageError
from symrun.figures import FIGURES, plot, select_runs
from symrun.figures.style import PREDICTED
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_whole_part
from symrun.runs.writer import write_part

FAMILIES = [name for name in FIGURES if name.startswith("grid") or name == "seeds"]
SILENT = {("adamw", "units"): ADAMW, ("adamw", "progress"): "the loop that made it told none"}


def texts(axes):
    return " ".join(" ".join(text.get_text() for text in axes.texts).split())


SLOW = pytest.mark.slow


def dashed(axes):
    """Whether it has lines that look as predictions do."""
    return any(lines.get_linewidth() == PREDICTED["linewidth"] for lines in axes.collections)


SHOWN = ("fig1", "symmetries", "phase", "residual", "units", "progress")
WITH_LAWS = ("phase", "residual", "units")
"""Figures in which it matters what was predicted of a run; of others one kind is enough."""


@pytest.mark.parametrize(
    ("figure", "kind"),
    [
        pytest.param(figure, kind, marks=[] if kind == "sgd" or figure in WITH_LAWS else SLOW)
        for figure in SHOWN
        for kind in KINDS
    ],
)
def test_each_figure_of_one_run_is_drawn_or_refused_in_one_line(
    own_loops, overlaps, tmp_path, kind, figure
):
    run = own_loops[kind]
    if (kind, figure) in SILENT:
        with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
            plot(figure, [run.path], tmp_path, ["svg"])
        assert SILENT[kind, figure] in str(caught.value)
        return
    (path,) = plot(figure, [run.path], tmp_path, ["svg"])
    page = path.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "own loop, 400 steps" in page and "epoch" not in page.lower()
    drawn = FIGURES[figure].draw(select_runs(figure, [run]))
    assert overlaps(drawn) == []
    some_dashes = kind == "mixed" and figure in ("phase", "residual", "units")
    assert ("No law but an identity predicts conv2" in drawn.get_supxlabel()) == some_dashes


@pytest.mark.parametrize("figure", FAMILIES)
def test_families_need_settings_that_somebody_recorded(own_loops, select_from, figure):
    run = own_loops["sgd"]
    with pytest.raises(UsageError, match=r"cannot draw \S+: it was made in a loop of one's own,"):
        select_runs(figure, [run])
    with pytest.raises(UsageError, match="needs [12] run"):
        select_from(figure, [run])


def test_panels_of_groups_that_nothing_predicts_say_why(own_loops):
    figure = FIGURES["symmetries"].draw([own_loops["mixed"]])
    panels = {axes.get_title().split("\n")[-1]: axes for axes in figure.axes if axes.get_title()}
    for group, silent in {"conv2": True, "conv3 -> fc": True, "fc": False}.items():
        assert (RATES in texts(panels[group])) == silent
        assert dashed(panels[group]) != silent
    (legend,) = figure.subfigs[0].legends
    assert legend.get_texts()[1].get_text() == "predicted (law 2: driven damped oscillator)"


def test_fig5_takes_networks_of_the_user(write_run):
    runs = [write_run(batch_norm, name=str(batch_norm)) for batch_norm in (False, True)]
    optim = {"name": "own", "title": "SGD", "lr": 0.1, "weight_decay": 0.0, "momentum": 0.0}
    for run in runs:
        config = {"optim": optim, "track": {"every": 10, "parameters": 5}}
        known = dict.fromkeys(("dataset", "steps_per_epoch"))
        rewrite(run, loop="a loop", columns=["baseline", "steady"], config=config, **known)
    groups = recorded(runs[0])["groups"]
    groups[-1]["unpredicted"] = RATES
    rewrite(runs[0], groups=groups)
    figure = FIGURES["fig5"].draw(select_runs("fig5", runs))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [RATES in texts(axes) for axes in panels] == [True, False, False]
    caption = figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")
    assert "own loop, 600 steps" in caption and "the same: the figure tests" not in caption
    assert figure.get_suptitle() == "Fig. 5 on VGG11 at width 1/8: not the paper's setting"


def test_a_residual_of_nothing_but_zeros_is_no_figure(own_loops, tmp_path):
    """Such as that of an update which was itself observed."""
    run = RunDirectory(shutil.copytree(own_loops["adamw"].path, tmp_path / "run"))
    for part in run.table("units").glob("part-*"):
        table = read_whole_part(part)
        place = table.schema.get_field_index("exact")
        write_part(part, table.set_column(place, table.schema.field(place), table["measured"]))
    with pytest.raises(UsageError, match="exact is never off, which a logarithmic axis cannot sho"):
        FIGURES["residual"].draw([run])


def test_a_velocity_without_known_times_is_that_per_update(own_loops):
    run = own_loops["sgd"]
    left, right = FIGURES["phase"].draw([run]).axes
    assert left.get_ylabel() == right.get_ylabel() == "Velocity $dQ/dn$"
    assert ":" not in [line.get_linestyle() for line in (*left.lines, *right.lines)]


def test_progress_is_over_updates_and_without_a_loss_of_chance(own_loops):
    (alone,) = FIGURES["progress"].draw([own_loops["sgd"]]).axes
    assert (alone.get_xlabel(), alone.get_ylabel()) == ("Step", "Loss")
    assert len(alone.lines) == 2 and alone.lines[0].get_xdata()[-1] == STEPS
    left, right = FIGURES["progress"].draw([own_loops["sgd"], own_loops["mixed"]]).axes
    assert right.get_ylabel() == "Accuracy, %"
    drawn = [np.isfinite(line.get_ydata()).any() for line in right.lines if len(line.get_ydata())]
    assert drawn == [False, False, False, True]  # only the mixed run's top-1 is known


def test_lengths_of_epochs_are_used_where_every_run_has_one(own_loops, tmp_path):
    run = RunDirectory(shutil.copytree(own_loops["sgd"].path, tmp_path / "run"))
    rewrite(run, steps_per_epoch=100)
    (axes,) = FIGURES["progress"].draw([run]).axes
    assert axes.get_xlabel() == "Epoch" and axes.lines[0].get_xdata()[-1] == STEPS / 100
    both = FIGURES["progress"].draw([run, own_loops["sgd"]])
    assert {axes.get_xlabel() for axes in both.axes} == {"Step"}
