"""A folder of runs stands for those in it that a figure can draw."""

import logging

import pytest
from run_json import rewrite

from symrun.cli import main
from symrun.errors import UsageError
from symrun.figures import plot as draw
from symrun.figures import select_runs, selection
from symrun.runs.directory import RunDirectory
from symrun.runs.thinning import thin

DECAYS = (0.0, 1e-3, 1e-2)


@pytest.fixture
def sweep(write_run, tmp_path):
    """A folder with three runs that differ in weight decay, and a thinned copy, an unfinished run
    with a single record, and another network; newest last."""
    for number, decay in enumerate(DECAYS):
        run = write_run(True, f"sweep/{number}", weight_decay=decay)
        rewrite(run, created=f"2026-01-0{number + 1}T00:00:00+00:00")
    thin(RunDirectory(tmp_path / "sweep" / "2"), tmp_path / "sweep" / "copy", 100)
    rewrite(write_run(True, "sweep/short", records=1, weight_decay=0.1), status="interrupted")
    rewrite(write_run(True, "sweep/empty", records=0, weight_decay=0.2), status="running")
    rewrite(write_run(False, "sweep/other"), created="2026-02-01T00:00:00+00:00")
    return tmp_path / "sweep"


def names(runs):
    return sorted(run.path.name for run in runs)


def test_a_grid_is_of_the_largest_family_without_copies_and_runs_without_motion(sweep):
    assert names(select_runs("grid_scale", [], [sweep])) == ["0", "1", "2"]
    assert names(select_runs("grid_rescale", [], [sweep])) == ["other"]


def test_a_run_with_equal_settings_gives_way_to_the_finished_one(sweep, write_run):
    again = write_run(True, "sweep/again", weight_decay=DECAYS[0])
    rewrite(again, created="2026-03-01T00:00:00+00:00", status="interrupted")
    assert names(select_runs("grid_scale", [], [sweep])) == ["0", "1", "2"]
    rewrite(again, status="finished")
    assert names(select_runs("grid_scale", [], [sweep])) == ["1", "2", "again"]


def test_seeds_says_how_many_the_folder_holds(sweep):
    needed = "2 runs or more that differ in seed alone; 1 in "
    with pytest.raises(UsageError, match=needed):
        select_runs("seeds", [], [sweep])


def test_one_of_several_is_named(sweep, caplog):
    with caplog.at_level(logging.WARNING):
        (path,) = draw("phase", [sweep], None, ["svg"])
    assert path == sweep / "figures" / "phase.svg" and path.exists()
    assert f"phase draws 1 of the 7 runs in {sweep}: {sweep}/other" in caplog.text


def test_folders_and_runs_fill_the_roles_of_a_figure(sweep):
    chosen = select_runs("fig5", [], [sweep / "1", sweep])
    assert [run.path.name for run in chosen] == ["other", "1"]


def test_every_run_of_a_folder_has_its_place_where_a_figure_takes_any(sweep):
    assert names(select_runs("progress", [], [sweep])) == ["0", "1", "2", "other"]


def test_the_same_run_in_two_folders_is_one(sweep):
    again = sweep / ".." / "sweep"
    assert names(select_runs("progress", [], [sweep, again])) == ["0", "1", "2", "other"]
    assert names(selection.runs_in([sweep / "1", sweep])) == ["0", "1", "2", "other"]


def test_damaged_runs_are_left_out_with_a_warning_each_and_refused_if_named(sweep, caplog):
    damaged = RunDirectory(sweep / "0").part("parameters", 0)
    damaged.write_bytes(damaged.read_bytes()[:-9] + b"damaged!!")
    (sweep / "1" / "run.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert names(selection.runs_in([sweep])) == ["2", "other"]
    first, second = sorted(record.getMessage() for record in caplog.records)
    assert f"left out: {sweep}/0/tables/parameters cannot be read: part-000000" in first
    assert f"left out: {sweep}/1/run.json cannot be read" in second
    with pytest.raises(UsageError, match="1/run.json cannot be read"):
        selection.runs_in([sweep / "1", sweep])


def test_a_run_stays_that_run(sweep):
    run = RunDirectory(sweep / "1")
    (sweep / "1" / "inner").mkdir()
    (sweep / "1" / "inner" / "run.json").write_text(run.run_json.read_text())
    assert not selection.holds_runs(sweep / "1")
    assert names(selection.runs_in([sweep / "1"])) == ["1"]


@pytest.mark.parametrize("words", [["plot", "grid"], ["report"]])
def test_a_path_beside_a_folder_must_be_there(words, sweep, capsys):
    assert main([*words, str(sweep), str(sweep / "missing")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{sweep}/missing is not a run folder: there is nothing of that name" in line


@pytest.mark.parametrize("words", [["plot", "seeds"], ["plot", "phase"], ["report"]])
def test_a_folder_without_runs_is_refused_in_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    assert main([*words, "none"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none is not a run folder: it has no run.json" in line


@pytest.mark.parametrize("words", [["plot", "grid"], ["plot", "phase"], ["report"]])
def test_runs_without_records_are_refused_in_one_line(words, write_run, tmp_path, capsys):
    write_run(True, "young/one", records=1)
    write_run(True, "young/two", records=0)
    assert main([*words, str(tmp_path / "young")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"in {tmp_path / 'young'}" in line


def test_equations_take_no_folder(sweep):
    with pytest.raises(UsageError, match="fig2 is drawn from equations and takes no runs"):
        select_runs("fig2", [], [sweep])


def test_a_report_has_the_runs_of_a_folder(sweep, capsys, monkeypatch):
    def report(runs, out):
        assert names(runs) == ["0", "1", "2", "other"]
        return out

    monkeypatch.setattr("symrun.report.report", report)
    assert main(["report", str(sweep)]) == 0
    assert capsys.readouterr().out.strip() == str(sweep / "report.html")
