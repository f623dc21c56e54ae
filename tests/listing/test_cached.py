"""The tables of runs that have ended are read once; the cache never tells what is not so."""

import os
import shutil
import time

import pytest

from symrun.analysis import judge
from symrun.errors import UsageError
from symrun.listing import cached, summary
from symrun.listing.cached import Listed
from symrun.listing.summary import described, with_tables
from symrun.runs.info import Status


@pytest.fixture
def reads(monkeypatch):
    """The runs whose tables were read, in order."""
    names = []

    def counted(run, one):
        names.append(run.path.name)
        return with_tables(run, one)

    monkeypatch.setattr(cached, "with_tables", counted)
    return names


def test_a_run_that_ended_is_read_once(copied, reads):
    run = copied("one")
    first = Listed(run).summary
    assert reads == ["one"] and first == with_tables(run, described(run))
    again = Listed(run)
    assert again.described == again.summary == first and reads == ["one"]
    worst = [row for row in judge(run)[1] if row.law == "flow" and row.unexplained is not None]
    assert again.summary.unexplained == max(row.unexplained for row in worst)


@pytest.mark.parametrize("place", ["run.json", "tables/units/part-000000.parquet"])
def test_what_changed_is_read_again(copied, reads, place):
    run = copied("one")
    Listed(run).summary  # noqa: B018  it fills the cache
    os.utime(run.path / place, ns=(1, 1))
    Listed(run).summary  # noqa: B018
    assert reads == ["one", "one"]


def test_a_run_under_way_is_read_each_time(copied, reads):
    run = copied("one", status="running", last_step=0)
    with run.locked():
        assert Listed(run).summary.status == Listed(run).summary.status == "running"
    assert reads == ["one", "one"]
    assert Listed(run).summary.status == Status.killed
    assert Listed(run).summary.step == 400  # of the tables: run.json says 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": 1}', b"\xff"])
def test_a_damaged_cache_is_none(copied, reads, content):
    run = copied("one")
    first = Listed(run).summary
    cached._file(run).write_bytes(content)
    assert Listed(run).summary == first and reads == ["one", "one"]


def test_a_cache_that_cannot_be_written_is_none(copied, reads, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    run = copied("one")
    assert Listed(run).summary == Listed(run).summary and reads == ["one", "one"]


def test_a_damaged_table_says_why_there_are_no_numbers(copied):
    run = copied("one")
    part = run.part("units", 0)
    part.write_bytes(part.read_bytes()[:-20])
    one = Listed(run).summary
    assert one.laws == () and one.unexplained is None
    assert "cannot be read: part-000000.parquet" in one.unjudged
    assert one.loss is not None


def test_a_table_that_could_not_be_read_once_is_read_again(copied, monkeypatch):
    run = copied("one")

    def refuse(run):
        raise UsageError("the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(summary, "judge", refuse)
        assert Listed(run).summary.unjudged == "the disk is away"
    assert Listed(run).summary.unjudged is None and Listed(run).summary.laws


def test_what_is_old_or_of_runs_that_are_gone_leaves_the_cache(copied):
    runs = {name: copied(name) for name in ("kept", "old", "gone", "new")}
    for name in ("kept", "old", "gone"):
        Listed(runs[name]).summary  # noqa: B018  it fills the cache
    old = time.time() - 91 * 24 * 3600
    os.utime(cached._file(runs["old"]), (old, old))
    shutil.rmtree(runs["gone"].path)
    cached._sweep.cache_clear()
    Listed(runs["new"]).summary  # noqa: B018
    left = {name for name, run in runs.items() if cached._file(run).exists()}
    assert left == {"kept", "new"}
