"""Run folders: claimed once, never mixed, described by run.json."""

import os
from datetime import datetime

import pytest
from run_json import described

from symrun.errors import UsageError
from symrun.runs import directory
from symrun.runs.directory import RunDirectory, newest_first


def test_an_existing_folder_is_never_used(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        RunDirectory.create(tmp_path / "mine", "")


def test_runs_started_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(directory, "datetime", Frozen)
    folders = {RunDirectory.create(None, "fig1").path.name for _ in range(3)}
    assert folders == {"2026-01-02_03-04-05", "2026-01-02_03-04-05-2", "2026-01-02_03-04-05-3"}


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        RunDirectory.create(tmp_path / "file" / "run", "")


def test_discard_leaves_nothing_and_spares_what_is_not_its_own(tmp_path):
    RunDirectory.create(tmp_path / "a", "").discard()
    assert not (tmp_path / "a").exists()
    run = RunDirectory.create(tmp_path / "b", "")
    (run.path / "notes.txt").write_text("mine")
    run.discard()
    assert (run.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", "{}", '{"schema": 1}', '{"schema": 99}', b"\xff\xfe"]
)
def test_a_missing_or_broken_run_json_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(UsageError) as caught:
        RunDirectory.open(tmp_path)
    assert "\n" not in str(caught.value)


def test_run_json_is_replaced_at_once(tmp_path, monkeypatch):
    run = RunDirectory.create(tmp_path / "run", "")
    run.write_info(described(status="running"))

    def die(file):
        raise OSError("killed in the middle")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(OSError):
        run.write_info(described(status="finished"))
    assert run.info().status == "running"


def test_newest_first_without_what_cannot_be_drawn(tmp_path):
    started = {"a": "2026-01-01", "b": "2026-03-01", "c": "2026-02-01", "empty": "2026-04-01"}
    for name, created in started.items():
        run = RunDirectory.create(tmp_path / "x" / name, "")
        run.write_info(described(created=created))
        if name != "empty":
            (run.table("units") / "part-000000.parquet").touch()
    foreign = RunDirectory.create(tmp_path / "foreign", "")
    foreign.run_json.write_text('{"schema": 1, "groups": null}')
    assert [run.path.name for run in newest_first(tmp_path)] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("finished", ""),
        ("interrupted", " is interrupted at step 7 of 800"),
        ("diverged", " is diverged at step 7 of 800"),
        ("running", " was killed: this is what it has so far"),
    ],
)
def test_who_reads_an_unfinished_run_is_told(tmp_path, caplog, status, line):
    run = RunDirectory.create(tmp_path / "run", "")
    run.write_info(described(status=status))
    run.warn_unless_finished()
    assert caplog.messages == ([f"{run.path}{line}"] if line else [])
