"""The study of today's networks takes each number from the tables, and trains no run twice."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import symrun
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import unit_curves
from symrun.training.lifecycle import train

SCRIPTS = Path(symrun.__file__).parent.parent / "scripts"
SMALL = ["data.train_images=40", "data.val_images=10", "train.batch_size=8", "train.steps=6"]
SMALL += ["track.every=2", "model.hidden=4", "data.image_size=16"]
ROUNDING = 1e-12
"""6 updates of sums over some thousand numbers: 1e4 roundings of 2^-53, at most."""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The script's names with two precisions, and the folder in which it ran once."""
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        names = runpy.run_path(str(SCRIPTS / "networks_study.py"))["main"].__globals__
        names["PRECISIONS"] = ("float64", "bf16")
        run(names, folder, patch)
    return names, folder


@pytest.fixture
def rows(study):
    return json.loads((study[1] / "out" / "linear.json").read_text())["rows"]


def run(names, folder, patch, network="linear"):
    patch.chdir(folder)
    words = [network, "--out", "out", "--jobs", "1", "--set", *SMALL]
    patch.setattr(sys, "argv", ["networks_study.py", *words])
    names["main"]()


def test_each_family_has_its_number_of_units(rows):
    # Three hidden layers of 4 units, each with a matrix of 4 x 4; 10 classes read from 4 and a bias
    units = {row["symmetry"]: row["units"] for row in rows}
    assert units == {"rescale": 12, "general_linear": 18, "translation": 5}
    assert len(rows) == 3 * 2 * len(units)


def test_the_laws_of_sgd_hold_and_that_nothing_moves_does_not(rows):
    for row in rows:
        if row["optimiser"] != "AdamW" and row["precision"] == "float64":
            assert row["residual"]["exact"] < ROUNDING > row["residual"]["discrete"]
            assert ROUNDING < row["residual"]["flow"] < row["change"]
            assert row["projection"] is row["discretisation"] is None


def test_adamw_has_no_law_and_its_updates_leave_the_symmetry(rows):
    for row in rows:
        if row["optimiser"] == "AdamW":
            assert set(row["residual"]) == {"exact"}
            assert row["projection"] > 0
            assert (row["discretisation"] > 0) == (row["symmetry"] != "translation")


def test_projection_and_discretisation_are_what_an_update_adds(study, tmp_path):
    """Q(n + 1) - Q(n) is minus the one plus the other, where nothing decays."""
    words = [word for word in SMALL if not word.startswith("track.")]
    words += ["model=mlp", "model.activation=identity", "model.depth=1", "data=synthetic"]
    words += ["optim=adamw", "optim.weight_decay=0", "precision=float64", "track.every=1"]
    run = RunDirectory(train(compose([*words, "device=cpu", f"run.dir={tmp_path / 'run'}"])))
    (group,) = run.info().groups_of("rescale")
    columns = ["measured", "magnitude", "discretisation"]
    values = unit_curves(run, "rescale", group.group, columns).values
    change, size = np.diff(values["measured"], axis=0), values["magnitude"][:-1]
    projected = (values["discretisation"][:-1] - change) / size
    projection, discretisation = study[0]["of_updates"](run.info(), run, "rescale")
    np.testing.assert_allclose(projection, np.median(np.abs(projected)), rtol=1e-9)
    lengths = np.abs(values["discretisation"][:-1]) / size
    np.testing.assert_allclose(discretisation, np.median(lengths), rtol=1e-9)


def test_a_second_call_trains_nothing_and_says_the_same(study, monkeypatch):
    names, folder = study
    files = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    assert {path.name for path in files} == {"linear.json", "overview.png", "overview.pdf"}
    trained = sorted(Path(folder, "outputs/networks").glob("2*"))
    run(names, folder, monkeypatch)
    assert {path: path.read_bytes() for path in files} == files
    assert sorted(Path("outputs/networks").glob("2*")) == [
        path.relative_to(folder) for path in trained
    ]
    assert len(trained) == 6


def test_wrong_input_says_what_to_type(study, monkeypatch, tmp_path):
    names, folder = study
    with pytest.raises(UsageError, match="no network resnt: it is one of resnet, gpt, vit, linear"):
        run(names, folder, monkeypatch, "resnt")
    with pytest.raises(UsageError, match="is not Tiny ImageNet: it lacks train/n"):
        names["images"](tmp_path)


def test_no_text_lies_on_another(study, rows, overlaps):
    names, _ = study
    figure = names["figures"].overview([names["Row"](**row) for row in rows], {"linear": "MLP 3×4"})
    assert overlaps(figure) == []
