"""The residual figure against numbers computed from the table without symrun."""

import math

import numpy as np
import pandas as pd
import pytest
from run_json import recorded

from symrun.errors import UsageError
from symrun.figures import residual
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import train

SMALL = ["data=synthetic", "data.train_images=40", "data.val_images=20", "model.width=0.0625"]
SMALL += ["train.batch_size=16", "train.steps=9", "track.every=3", "device=cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = [*SMALL, "model=vgg11_bn", "optim.weight_decay=1e-2", "precision=float64"]
    folder = tmp_path_factory.mktemp("residual") / "run"
    return RunDirectory.open(train(compose([*settings, f"run.dir={folder}"])))


def lines(axes):
    """Each group's values at the records where they are not 0."""
    values = [np.reshape(drawn.get_segments()[0], (-1, 2))[:, 1] for drawn in axes.collections]
    return [line[np.isfinite(line)] for line in values]


def test_the_lines_are_residual_and_what_is_not_explained(run):
    figure = residual.draw([run])
    panels = np.array(figure.axes).reshape(2, 3)
    units = pd.read_parquet(run.table("units")).astype({"symmetry": str, "group": str})
    for column, law in enumerate(("flow", "discrete", "exact")):
        assert panels[0, column].get_title() == law
        above, below = lines(panels[0, column]), lines(panels[1, column])
        explained = 0
        for number, group in enumerate(recorded(run)["groups"]):
            rows = units[(units["symmetry"] == group["symmetry"])]
            rows = rows[rows["group"] == group["group"]]
            measured, predicted, size = (
                rows.pivot(index="step", columns="unit", values=name).to_numpy()
                for name in ("measured", law, "magnitude")
            )
            steps = np.sort(rows["step"].unique())
            degree = 1 if group["symmetry"] == "translation" else 2
            baseline = np.exp(-degree * 1e-2 * 0.1 * steps)[:, None] * measured[0]
            safe = np.where(size > 0, size, 1)
            largest = (np.abs(measured - predicted) / safe).max(axis=1)
            positive = largest > 0
            np.testing.assert_allclose(above[number], largest[positive], rtol=1e-9)
            moved = (np.abs(measured - baseline) / safe).max(axis=0) > 100 * 2.0**-24
            if not moved.any():
                continue
            left = [
                np.median(
                    [
                        math.fsum((measured[: last + 1, unit] - predicted[: last + 1, unit]) ** 2)
                        / math.fsum((measured[: last + 1, unit] - baseline[: last + 1, unit]) ** 2)
                        for unit in np.flatnonzero(moved)
                    ]
                )
                for last in range(1, len(steps))
            ]
            # the baseline is recomputed to rounding, beside which the motion is 1e-5 at least
            np.testing.assert_allclose(below[explained], [x for x in left if x > 0], rtol=1e-9)
            explained += 1
        assert explained == len(below) > 0


def test_the_guide_is_the_rounding_of_the_weights(run):
    (guide,) = residual.draw([run]).axes[0].lines
    assert set(guide.get_ydata()) == {2.0**-53}


def test_no_text_lies_on_another(run, overlaps):
    for dpi in (150, 300):
        figure = residual.draw([run])
        figure.set_dpi(dpi)
        assert overlaps(figure) == []


def test_silent_laws_have_no_column(tmp_path):
    nesterov = ["model=vgg11", "optim.momentum=0.9", "optim.nesterov=true"]
    path = train(compose([*SMALL, *nesterov, f"run.dir={tmp_path}/n"]))
    figure = residual.draw([RunDirectory.open(path)])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["discrete", "exact"]
    path = train(compose([*SMALL, "optim=adam", f"run.dir={tmp_path}/a"]))
    with pytest.raises(UsageError, match="exact is never off"):
        residual.draw([RunDirectory.open(path)])


def test_a_layers_depth_shows_in_its_dashes_and_the_legend_says_so(run):
    figure = residual.draw([run])
    (legend,) = figure.subfigs[0].legends
    named = {
        text.get_text(): line
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }
    styles = [named[f"near the {end}"].get_linestyle() for end in ("input", "output")]
    assert styles == ["-", "-."] and named["in the middle"].get_linestyle() == "--"
    scale = [group["symmetry"] == "scale" for group in recorded(run)["groups"]]
    lines = [line for line, of in zip(figure.axes[0].collections, scale, strict=True) if of]
    dashes = [len(line.get_linestyle()[0][1] or ()) for line in lines]  # 2 dashed, 4 dash-dotted
    assert dashes == [0, 0, 0, 2, 2, 4, 4, 4]
