"""Tables made without training: those of a real run in all but the values."""

import warnings
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from made_small import MADE_SMALL
from run_json import recorded

from symrun.analysis import agreement
from symrun.bench.tables import make_run, time_commands
from symrun.errors import RunError, UsageError
from symrun.figures import plot
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import parameter_curves, unit_curves
from symrun.training.lifecycle import train

SMALL = [*MADE_SMALL, "train.steps=25", "track.every=2"]
RECORDS = 14  # 0, 2, ... 24, and the last weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run without and one with BN."""
    folder = tmp_path_factory.mktemp("made")
    return [
        make_run(folder / model, compose([f"model={model}", *SMALL]), records_per_part=4)
        for model in ("vgg11", "vgg11_bn")
    ]


def rows(run, table, part):
    return pq.read_table(run.table(table) / f"part-{part:06d}.parquet")


@pytest.mark.parametrize("table", ["units", "parameters"])
def test_the_keys_are_those_of_a_trained_run(runs, table, tmp_path):
    settings = ["model=vgg11_bn", *SMALL, "train.steps=2", f"run.dir={tmp_path / 'run'}"]
    trained = RunDirectory.open(train(compose(settings)))
    real, made = (
        part.filter(pc.equal(part["step"], 0))
        for part in (rows(trained, table, 0), rows(runs[1], table, 0))
    )
    assert real.schema == made.schema
    for name in ("step", "symmetry", "group", "unit", "layer", "index"):
        if name in real.column_names:
            assert real[name].to_pylist() == made[name].to_pylist()
    own = dict.fromkeys(("config", "created", "last_step", "revision", "seconds"))
    assert recorded(trained) | own == recorded(runs[1]) | own


def test_parts_hold_as_many_records_as_they_are_told_to(runs):
    for run in runs:
        for table in ("units", "parameters"):
            parts = sorted(run.table(table).iterdir())
            records = [len(set(pq.read_table(part)["step"].to_pylist())) for part in parts]
            assert records == [1, 4, 4, 4, 1]


def test_a_made_run_is_read_checked_and_drawn_without_a_warning(runs, tmp_path):
    plain, bn = runs
    curves = unit_curves(bn, "scale", "features.0", ["measured", "flow", "defect"])
    assert len(curves.steps) == RECORDS and curves.steps[-1] == 25
    assert len(parameter_curves(bn, "features.0").steps) == RECORDS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in runs:
            found = list(agreement(run))
            assert any(row.moved for row in found)
            assert all(row.explained > 0.99 for row in found if row.explained is not None)
        assert plot("fig1", [bn.path], tmp_path, ["png"])[0].exists()
        assert plot("fig5", [plain.path, bn.path], tmp_path, ["png"])[0].exists()


def test_the_same_seed_makes_the_same_tables(runs, tmp_path):
    again = make_run(tmp_path / "again", compose(["model=vgg11", *SMALL]), records_per_part=4)
    assert rows(again, "units", 2) == rows(runs[0], "units", 2)
    other = make_run(
        tmp_path / "other", compose(["model=vgg11", *SMALL, "seed=1"]), records_per_part=4
    )
    assert rows(other, "units", 2) != rows(runs[0], "units", 2)


def test_laws_that_predict_nothing_are_null(tmp_path):
    run = make_run(tmp_path / "adam", compose(["model=vgg11", *SMALL, "optim=adam"]), 20)
    assert rows(run, "units", 1)["flow"].null_count == rows(run, "units", 1).num_rows
    silent = ("flow", "discrete")
    assert all((row.residual is None) == (row.law in silent) for row in agreement(run))


def test_a_folder_that_exists_is_left_alone(tmp_path):
    with pytest.raises(UsageError, match="exists already"):
        make_run(tmp_path, compose(["model=vgg11", *SMALL]), records_per_part=4)


def test_each_command_is_timed_with_its_own_memory(runs):
    timings = list(time_commands(*runs))
    assert [timing.name for timing in timings] == ["plot fig1", "plot fig5", "check"]
    for timing in timings:
        assert timing.seconds > 0 and 2**25 < timing.peak_bytes < 2**34
    assert len(list(runs[1].figures.iterdir())) == 3


def test_a_command_that_fails_says_why(runs):
    nowhere = RunDirectory(Path("nowhere"))
    with pytest.raises(RunError, match="plot fig1 failed: symrun: nowhere is not a run folder"):
        next(time_commands(runs[0], nowhere))
