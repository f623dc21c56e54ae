"""The phase portrait and the band of seeds show what the tables hold."""

import numpy as np
import pandas as pd
import pytest
from run_json import recorded, rewrite

from symrun.errors import UsageError
from symrun.figures import phase, plot, seeds, select_runs
from symrun.figures.style import Trajectory


def means(run, symmetry, column):
    """[records, groups], over units; read without symrun, groups as in run.json."""
    rows = pd.read_parquet(run.table("units"))
    rows = rows[rows["symmetry"] == symmetry].astype({"group": str})
    of_groups = rows.groupby(["step", "group"])[column].mean().unstack()
    order = [group.group for group in run.info().groups_of(symmetry)]
    return of_groups[order].to_numpy()


def paths(axes):
    return [line.get_xydata().T for line in axes.lines if isinstance(line, Trajectory)]


def test_phase_is_position_against_velocity(write_run):
    run = write_run(True, weight_decay=1e-3)
    left, right = phase.draw([run]).axes
    steps = np.linspace(0, 600, 12).astype(int)
    drawn = paths(left)
    for half, column in enumerate(("measured", "flow")):
        values = means(run, "scale", column)
        velocity = np.diff(values, axis=0) / (0.1 * np.diff(steps))[:, None]
        position = (values[1:] + values[:-1]) / 2
        for layer in range(values.shape[1]):
            found = drawn[half * values.shape[1] + layer]
            np.testing.assert_allclose(found[0], position[:, layer], rtol=1e-6)
            np.testing.assert_allclose(found[1], velocity[:, layer], rtol=1e-4, atol=1e-5)
    assert len(paths(right)) == 2 * 6 and "6 of 64 units" in right.get_title()


def test_phase_under_a_schedule_takes_its_time_and_points_from_it(write_run):
    run = write_run(True, records=200, schedule="cosine", weight_decay=1e-3)
    values = means(run, "scale", "measured")
    steps = np.linspace(0, 600, 200).astype(int)
    elapsed = np.cumsum(0.05 * (1 + np.cos(np.pi * np.arange(600) / 600)))
    elapsed = np.concatenate([[0], elapsed])[steps]
    position, velocity = paths(phase.draw([run]).axes[0])[0]
    assert 50 < len(position) <= 60  # from 200 records, in 60 parts of the time
    layer = values[:, 0]
    kept = [0]
    for middle in position:  # each point lies between two records: the next is found by its mean
        following = np.argmin(np.abs((layer[kept[-1]] + layer[kept[-1] + 1 :]) / 2 - middle))
        kept.append(kept[-1] + 1 + following)
    expected = np.diff(layer[kept]) / np.diff(elapsed[kept])
    np.testing.assert_allclose(velocity, expected, rtol=1e-4, atol=1e-4)
    assert np.diff(elapsed[kept]).min() > 0.3 * np.diff(elapsed[kept]).max()


@pytest.mark.parametrize(
    ("settings", "pace"),
    [({}, 1), ({"momentum": 0.9}, 10), ({"momentum": 0.9, "dampening": 0.5}, 5)],
)
def test_the_fixed_line_and_the_velocity_of_decay_alone(write_run, settings, pace):
    run = write_run(True, weight_decay=1e-3, **settings)
    axes = phase.draw([run]).axes[0]
    straight = [line for line in axes.lines if len(line.get_xdata()) == 2]
    fixed, decay = (np.array(line.get_xydata(), dtype=float) for line in straight)
    assert (fixed[:, 1] == 0).all()
    np.testing.assert_allclose(decay[:, 1], -2 * 1e-3 * pace * decay[:, 0], rtol=1e-12)


def test_phase_without_bn_shows_rescale_and_without_decay_no_line_of_it(write_run):
    figure = phase.draw([write_run(False)])
    assert figure.axes[0].get_xlabel() == "Squared norms, out − in $Q$"
    (legend,) = figure.subfigs[0].legends
    assert "weight decay alone" not in [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def repeated(write_run):
    """Three runs that differ in their seed, and in their level."""
    return [
        write_run(True, name=f"seed{seed}", scale=1 + 0.1 * seed, seed=seed) for seed in range(3)
    ]


def test_a_band_from_the_lowest_to_the_highest_seed(repeated):
    (axes,) = seeds.draw(repeated).axes
    *bands, mean, predicted = axes.collections
    curves = np.stack([means(run, "scale", "measured") for run in repeated])
    curves = curves - curves[:, :1]
    drawn = np.array(mean.get_segments())[:, :, 1].T
    np.testing.assert_allclose(drawn, curves.mean(axis=0), rtol=1e-5, atol=1e-4)
    flow = np.stack([means(run, "scale", "flow") for run in repeated])
    flow = (flow - flow[:, :1]).mean(axis=0)
    found = np.array(predicted.get_segments())[:, :, 1].T
    np.testing.assert_allclose(found, flow, rtol=1e-5, atol=1e-4)
    assert len(bands) == curves.shape[2]
    steps = np.linspace(0, 600, 12).astype(int)
    for layer, band in enumerate(bands):
        (outline,) = [path.vertices for path in band.get_paths()]
        for record, step in enumerate(steps):
            at_step = outline[outline[:, 0] == step, 1]
            seen = curves[:, record, layer]
            ends = (at_step.min(), at_step.max())
            np.testing.assert_allclose(ends, (seen.min(), seen.max()), rtol=1e-5, atol=1e-4)


def test_seeds_takes_runs_that_differ_in_their_seed_alone(repeated, write_run, select_from):
    assert select_runs("seeds", repeated) == repeated
    with pytest.raises(UsageError, match=r"2 runs or more that differ in seed alone; 1 among"):
        select_runs("seeds", repeated[:1])
    other = write_run(True, name="other", lr=0.01, seed=9)
    with pytest.raises(UsageError, match=r"other differs in optim.lr"):
        select_runs("seeds", [*repeated, other])
    assert select_from("seeds", [other, *repeated]) == repeated


def test_seeds_of_before_and_after_eps_became_a_setting_belong_together(write_run):
    runs = [write_run(True, name=f"seed{seed}", seed=seed) for seed in (0, 1)]
    config = recorded(runs[0])["config"]
    del config["model"]["eps"]
    rewrite(runs[0], config=config)
    assert select_runs("seeds", runs) == runs
    rewrite(runs[1], config=config | {"model": config["model"] | {"eps": 1e-3}, "seed": 1})
    with pytest.raises(UsageError, match=r"seed1 differs in model.eps"):
        select_runs("seeds", runs)


def test_seeds_with_other_records_are_refused(repeated, write_run):
    shorter = write_run(True, name="shorter", records=7, seed=7)
    with pytest.raises(UsageError, match="records at the same steps"):
        seeds.draw([*repeated, shorter])


@pytest.mark.parametrize("dpi", [150, 300])
@pytest.mark.parametrize("norm", [True, False])
def test_no_text_lies_on_another(write_run, overlaps, norm, dpi):
    run = write_run(norm, weight_decay=1e-3, depth=16)
    other = write_run(norm, name="other", weight_decay=1e-3, depth=16, seed=1)
    for figure in (phase.draw([run]), seeds.draw([run, other])):
        figure.set_dpi(dpi)
        assert overlaps(figure) == []


@pytest.mark.slow
def test_both_can_be_animated(repeated, tmp_path):
    for name, runs in (("phase", repeated[:1]), ("seeds", repeated)):
        (path,) = plot(name, [run.path for run in runs], tmp_path, ["gif"])
        assert path.stat().st_size > 0
