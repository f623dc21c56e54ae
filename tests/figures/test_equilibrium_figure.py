"""The figure of the equilibrium against means of a table that is made up, taken without symrun."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from run_json import recorded, rewrite, with_settings

from symrun.errors import UsageError
from symrun.figures import FIGURES, equilibrium
from symrun.runs.tables import DYNAMICS, units_schema
from symrun.runs.writer import write_part

LR, DECAY = 0.1, 0.01
SGD_ONLY = {"momentum", "dampening", "nesterov"}
RELAXATION = 1 / (4 * LR * DECAY)
DEAD = {("features.0", 1), ("features.0", 3), ("features.4", 0)}


@pytest.fixture
def made(write_run):
    """A function that writes a run with the columns of `track.dynamics`, made up: each unit turns
    at about the predicted angle, but for the dead, whose gradient is a thousandth of the others'"""

    def make(name="made", steps=1000, records=101, **optim):
        optim = {"lr": LR, "weight_decay": DECAY} | optim
        run = write_run(True, name, records=records, steps=steps, **optim)
        rows = pd.read_parquet(run.table("units")).astype({"symmetry": str, "group": str})
        random = np.random.default_rng(0)
        shape, scale = len(rows), rows["symmetry"] == "scale"
        dead = [unit in DEAD for unit in zip(rows["group"], rows["unit"], strict=True)]
        last = rows["step"] == steps
        rows["grad_norm_sq"] = random.uniform(0.5, 1.5, shape) * np.where(dead, 1e-3, 1)
        angle = math.sqrt(2 * LR * DECAY) * random.uniform(0.9, 1.1, shape)
        rows["angle"] = np.where(dead, 1e-5, angle)
        rows["effective_lr"] = LR / rows["measured"]
        rows.loc[last, ["grad_norm_sq", *DYNAMICS]] = None
        rows.loc[~scale, list(DYNAMICS)] = None
        schema = units_schema(pa.float32(), DYNAMICS)
        for part in run.table("units").iterdir():
            part.unlink()
        table = pa.Table.from_pandas(rows, schema, preserve_index=False)
        write_part(run.part("units", 0), table)
        groups = [group | {"entries": 28} for group in recorded(run)["groups"]]
        rewrite(run, columns=list(DYNAMICS), groups=groups)
        return run

    return make


def lines(axes):
    return [np.reshape(drawn.get_segments()[0], (-1, 2)) for drawn in axes.collections]


def live_units(run, group):
    """Column -> [records, live units], without the last record."""
    rows = pd.read_parquet(run.table("units"))
    rows = rows[(rows["group"] == group) & (rows["symmetry"] == "scale") & rows["angle"].notna()]
    rows = rows[[(group, unit) not in DEAD for unit in rows["unit"]]]
    names = ("measured", "grad_norm_sq", "angle")
    return {name: rows.pivot(index="step", columns="unit", values=name) for name in names}


def test_lines_are_means_over_live_units_and_the_settings_say_where_they_settle(made):
    run = made(records=41)  # 40 records with a gradient: a point each
    above, below = equilibrium.draw([run]).axes[:2]
    groups = [group for group in recorded(run)["groups"] if group["symmetry"] == "scale"]
    assert len(groups) == 8
    assert len(lines(above)) == len(lines(below)) == 2 * len(groups)
    for number, group in enumerate(groups):
        units = live_units(run, group["group"])
        angle, norm = lines(above)[number], lines(below)[number]
        np.testing.assert_array_equal(angle[:, 0], units["angle"].index)
        rms = np.sqrt((units["angle"] ** 2).mean(axis=1))
        np.testing.assert_allclose(angle[:, 1], rms, rtol=1e-6)
        rms = np.sqrt(units["measured"].mean(axis=1))
        np.testing.assert_allclose(norm[:, 1], rms, rtol=1e-6)
        settled = np.sqrt(LR * units["grad_norm_sq"] * units["measured"] / (2 * DECAY))
        predicted = [lines(axes)[len(groups) + number][:, 1] for axes in (above, below)]
        np.testing.assert_allclose(predicted[0], math.sqrt(2 * LR * DECAY), rtol=1e-6)
        np.testing.assert_allclose(predicted[1], np.sqrt(settled.mean(axis=1)), rtol=1e-6)


def test_many_records_are_meaned_over_stretches(made):
    run = made(records=81)
    above = equilibrium.draw([run]).axes[0]
    squares = live_units(run, "features.0")["angle"].to_numpy() ** 2
    expected = np.sqrt(squares.reshape(40, 2, -1).mean(axis=(1, 2)))
    np.testing.assert_allclose(lines(above)[0][:, 1], expected, rtol=1e-6)


def caption(figure):
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_caption_counts_the_dead_and_the_relaxation_times(made):
    run = made()
    figure = equilibrium.draw([run])
    units = sum(group["units"] for group in recorded(run)["groups"] if group["symmetry"] == "scale")
    text = caption(figure)
    assert f"3 of {units} units are dead" in text
    assert "4 relaxation times; angle over the last half 1.00 to 1.00 of the predicted" in text
    (mark,) = [line.get_xdata()[0] for line in figure.axes[0].lines]
    assert mark == pytest.approx(RELAXATION, rel=1e-6)
    brief = equilibrium.draw([made("brief", steps=200)])
    assert "0.8 relaxation times" in caption(brief) and not brief.axes[0].lines


def test_adams_norm_follows_from_its_entries_and_coupled_decay_has_no_prediction(made):
    run = made()
    adam = {"name": "adamw", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    sgd = recorded(run)["config"]["optim"]
    common = {key: value for key, value in sgd.items() if key not in SGD_ONLY}
    rewrite(run, config=recorded(run)["config"] | {"optim": common | adam})
    above, below = equilibrium.draw([run]).axes[:2]
    angle, norm = (lines(axes)[8][:, 1] for axes in (above, below))
    np.testing.assert_allclose(angle, math.sqrt(2 * LR * DECAY * 0.1 / 1.9), rtol=1e-6)
    np.testing.assert_allclose(norm, math.sqrt(LR * 28 / (2 * DECAY)), rtol=1e-6)
    with_settings(run, optim={"name": "adam"})
    figure = equilibrium.draw([run])
    assert len(lines(figure.axes[0])) == 8
    assert "no equilibrium is known" in caption(figure)
    (legend,) = figure.subfigs[0].legends
    assert "predicted" not in " ".join(text.get_text() for text in legend.get_texts())


def test_a_run_from_before_track_dynamics_belongs_to_a_family_with_one_of_now(
    write_run, select_from
):
    before, now = (write_run(True, name, seed=seed) for seed, name in enumerate(("old", "new")))
    settings = {
        name: before.info().config.settings["track"][name] for name in ("every", "parameters")
    }
    rewrite(before, config=recorded(before)["config"] | {"track": settings})
    assert select_from("seeds", [now, before]) == [now, before]


def test_what_cannot_be_drawn_is_said(made, write_run):
    run = write_run(True, "plain")
    with pytest.raises(UsageError, match=r"plain has no angles .* with track\.dynamics=true$"):
        equilibrium.draw([run])
    with pytest.raises(UsageError, match="has 2 records so far"):
        equilibrium.draw([made("short", records=2)])
    other = made("other")
    with_group = [group for group in recorded(other)["groups"] if group["group"] != "features.4"]
    rewrite(other, groups=with_group)
    with pytest.raises(UsageError, match="other has other layers"):
        equilibrium.draw([made(), other])


def test_without_runs_the_newest_that_has_the_columns_is_drawn(made, write_run, select_from):
    run = made()
    assert select_from("equilibrium", [write_run(True, "plain"), run]) == [run]
    with pytest.raises(UsageError, match="experiment=equilibrium"):
        select_from("equilibrium", [])


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_texts_do_not_overlap(made, overlaps, runs):
    drawn = [made(f"run {number}", lr=0.1 / (1 + number)) for number in range(runs)]
    assert overlaps(FIGURES["equilibrium"].draw(drawn)) == []
