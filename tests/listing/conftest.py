import shutil
import time

import pytest
from run_json import rewrite

from symrun.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def two_hours_east(monkeypatch):
    """The clock here is two hours ahead of UTC."""
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def copied(own_loops, tmp_path):
    """A function that copies a run of `own_loops` to a name, with other fields in run.json."""

    def copy(name, kind="sgd", **fields):
        folder = tmp_path / "outputs" / name
        shutil.copytree(own_loops[kind].path, folder)
        run = RunDirectory(folder)
        rewrite(run, **fields)
        return run

    return copy
