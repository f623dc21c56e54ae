"""track.matrices: what a run records of conserved matrices, and that it goes on with the same."""

import json
from pathlib import Path

import pandas as pd
import pytest
from run_json import recorded
from stopping import stopping_at

import symrun
from symrun.cli import main
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import resume, train

SMALL = ["data=synthetic", "data.image_size=8", "data.train_images=32", "data.val_images=16"]
SMALL += ["train.batch_size=8", "train.steps=4", "track.every=1", "device=cpu"]
VIT = ["model=vit", "model.layers=1", "model.width=8", "model.heads=2", "model.patch=4", *SMALL]
GROUPS = ["blocks.0.attention.query -> blocks.0.attention.key",
          "blocks.0.attention.value -> blocks.0.attention.project"]  # fmt: skip


def described(folder, *overrides):
    """The groups that run.json describes."""
    run = train(compose([*overrides, f"run.dir={folder}"]))
    return json.loads((Path(run) / "run.json").read_text(encoding="utf-8"))["groups"]


def entries(groups):
    return {row["group"]: row["units"] for row in groups if row["symmetry"] == "general_linear"}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """The folder of a run with track.matrices=sample."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    described(folder, *VIT, "track.matrices=sample")
    return folder


@pytest.mark.parametrize(("setting", "units"), [("full", 2 * 6), ("sample", 2 * 4)])
def test_a_run_records_the_entries_that_are_asked_for_after_all_else(
    setting, units, sampled, tmp_path
):
    if setting == "full":
        groups = described(tmp_path / "run", *VIT, "track.matrices=full")
    else:
        groups = recorded(RunDirectory.open(sampled))["groups"]
    assert entries(groups[-2:]) == dict.fromkeys(GROUPS, units)
    assert entries(groups[:-2]) == {}
    diagonals = [row for row in groups if row["symmetry"] == "rescale" and row["group"] in GROUPS]
    assert [row["blocks"] for row in diagonals] == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2


def test_without_it_no_matrix_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("symrun.training.symmetries.find_matrices", None)
    groups = described(tmp_path / "run", *VIT)
    assert entries(groups) == {}
    assert not any("blocks" in row for row in groups)


def test_the_sample_is_that_of_the_runs_seed(sampled, tmp_path):
    one = recorded(RunDirectory.open(sampled))["groups"]
    other = described(tmp_path / "run", *VIT, "track.matrices=sample", "seed=2")
    assert [row["pairs"] for row in one[-2:]] != [row["pairs"] for row in other[-2:]]


def test_a_run_that_stopped_goes_on_with_the_same_entries(sampled, tmp_path, monkeypatch):
    half = compose([*VIT, "track.matrices=sample", f"run.dir={tmp_path / 'half'}"])
    with stopping_at(2, monkeypatch) as stop:
        train(half, stop)
    resume(RunDirectory.open(tmp_path / "half"), half, False)
    one, other = (RunDirectory.open(folder) for folder in (sampled, tmp_path / "half"))
    assert one.info().groups == other.info().groups
    order = ["step", "group", "unit"]
    tables = [
        symrun.open_run(run.path).units(symmetry="general_linear").sort_values(order)
        for run in (one, other)
    ]
    tables = [table.reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert len(tables[0]) == 5 * 2 * 8


def test_a_network_without_any_says_that_it_has_no_effect(tmp_path, caplog):
    described(tmp_path / "run", "model=mlp", *SMALL, "track.matrices=full")
    assert "track.matrices=full has no effect: model=mlp has no matrix" in caplog.text


def test_another_value_is_refused_in_one_line(capfd):
    assert main(["train", "track.matrices=all"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "track.matrices must be one of diagonal, sample, full, got all" in line
