"""Tables: complete or absent, in order, readable by everyone, at any time."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from started import started

from symrun.errors import RunError
from symrun.runs import writer as writer_module
from symrun.runs.directory import RunDirectory
from symrun.runs.tables import units_schema
from symrun.runs.writer import TableWriter, write_part, write_records

UNITS = 4


def record(step):
    """Rows of two groups with two units each; measured = 10 step + position."""
    kinds, groups = (
        pa.DictionaryArray.from_arrays(pa.array([0, 0, 1, 1], pa.int16()), pa.array(names))
        for names in (["scale", "rescale"], ["a", "a -> b"])
    )
    schema = units_schema(pa.float32())
    numbers = pa.array([10 * step + i for i in range(UNITS)], pa.float32())
    arrays = [
        pa.array([step] * UNITS, pa.int32()),
        kinds,
        groups,
        pa.array([0, 1, 0, 1], pa.int32()),
    ]
    arrays += [
        numbers if name == "measured" else pa.nulls(UNITS, pa.float32())
        for name in schema.names[4:]
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "run", "")


def write(run, steps):
    with TableWriter(run) as writer:
        for step in steps:
            writer.put("units", lambda step=step: record(step))


def test_a_slow_disk_makes_training_wait_with_a_warning_and_loses_nothing(run, monkeypatch, caplog):
    monkeypatch.setattr(writer_module, "_MOST_WAITING", 2)
    opened = threading.Event()

    def wait_then_write(*arguments):
        assert opened.wait(60)
        write_records(*arguments)

    monkeypatch.setattr(writer_module, "write_records", wait_then_write)
    threading.Timer(0.5, opened.set).start()
    write(run, range(20))
    assert caplog.text.count("waits for a slow disk") == 1
    assert sorted(pd.read_parquet(run.table("units"))["step"].unique()) == list(range(20))


def test_records_that_wait_take_no_more_memory_than_they_may(run, monkeypatch):
    """Ten of 100 bytes each, of which two fit; one that is larger than all may wait alone."""
    monkeypatch.setattr(writer_module, "_MOST_WAITING_BYTES", 250)
    waiting, most, opened = set(), [], threading.Event()

    def made(step):
        assert opened.wait(60)
        most.append(len(waiting))
        waiting.remove(step)
        return record(step)

    threading.Timer(0.3, opened.set).start()
    with TableWriter(run) as writer:
        for step in range(10):
            waiting.add(step)
            writer.put("units", lambda step=step: made(step), 100)
        writer.put("units", lambda: record(10), 1000)
        writer.put("units", lambda: record(11), 1000)
    assert max(most) == 3  # with the one that waits to wait
    assert sorted(pd.read_parquet(run.table("units"))["step"].unique()) == list(range(12))


def test_a_failure_ends_the_wait_for_room(run, monkeypatch):
    monkeypatch.setattr(writer_module, "_MOST_WAITING_BYTES", 1)
    monkeypatch.setattr(writer_module, "write_records", lambda *_: 1 / 0)
    with pytest.raises(RunError, match="cannot be written"):
        with TableWriter(run) as writer:
            while True:  # ends by the error of put, or never
                writer.put("units", lambda: record(0), 100)


def test_no_record_is_lost_or_doubled_and_a_units_curve_lies_together(run, monkeypatch):
    monkeypatch.setattr(writer_module, "FLUSH_SECONDS", 60.0)
    write(run, range(50))
    table = pd.read_parquet(run.table("units"))
    assert len(table) == 50 * UNITS
    table = table.sort_values("measured")
    assert table["measured"].tolist() == [10.0 * s + i for s in range(50) for i in range(UNITS)]
    largest = max(run.table("units").iterdir(), key=lambda part: part.stat().st_size)
    part = pq.read_table(largest).to_pandas()
    expected = part.sort_values(["symmetry", "group", "unit", "step"])
    assert (
        part.groupby(["group", "unit"], observed=True)["step"]
        .apply(lambda steps: steps.is_monotonic_increasing)
        .all()
    )
    assert expected["measured"].tolist() == part["measured"].tolist()


def test_opens_as_it_is_with_pandas_pyarrow_and_duckdb(run):
    write(run, range(5))
    folder = run.table("units")
    frame = pd.read_parquet(folder)
    assert frame["symmetry"].dtype == "category" and frame["measured"].dtype == "float32"
    assert pq.read_table(folder).num_rows == len(frame) == 5 * UNITS
    for source in (folder / "*.parquet", folder / "part-*.parquet"):
        rows = duckdb.sql(f"select count(*), sum(measured) from '{source}'").fetchall()
        assert rows == [(5 * UNITS, float(frame["measured"].sum()))]


def test_a_part_under_way_is_invisible(run, monkeypatch):
    """What a failed write and what a kill in the middle leave behind does not disturb a reader."""
    write(run, [0])
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.EIO, "died")))
    with pytest.raises(OSError):
        write_part(run.table("units") / "part-000009.parquet", record(1))
    assert len(list(run.table("units").iterdir())) == 1
    killed = run.table("units") / ".part-000009.parquet-abc" / "part-000009.parquet"
    killed.parent.mkdir()
    killed.write_bytes(b"PAR1 and half a part")
    assert len(pd.read_parquet(run.table("units"))) == UNITS
    rows = duckdb.sql(f"select count(*) from '{run.table('units')}/part-*.parquet'").fetchall()
    assert rows == [(UNITS,)]


def test_the_first_record_is_readable_at_once(run):
    with TableWriter(run) as writer:
        writer.put("units", lambda: record(0))
        deadline = time.monotonic() + 20
        while not list(run.table("units").glob("part-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(pd.read_parquet(run.table("units"))) == UNITS


def test_a_full_disk_is_an_error_in_the_training_thread(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module, "write_records", full)
    with pytest.raises(RunError, match="No space left on device"):
        with TableWriter(run) as writer:
            while True:  # ends by the error of put, or never
                writer.put("units", lambda: record(0))


def test_an_error_that_is_under_way_is_not_hidden_by_the_writers(run, monkeypatch):
    monkeypatch.setattr(writer_module, "write_records", lambda *_: 1 / 0)
    with pytest.raises(KeyboardInterrupt):
        with TableWriter(run) as writer:
            writer.put("units", lambda: record(0))
            raise KeyboardInterrupt


KILLED = """
    import sys
    sys.path[:0] = {tests!r}
    from pathlib import Path
    from test_writer import RunDirectory, TableWriter, record, writer_module
    writer_module.FLUSH_SECONDS = 0.0
    run = RunDirectory.create(Path({path!r}), "")
    with TableWriter(run) as writer:
        for step in range(10**6):
            writer.put("units", lambda step=step: record(step))
            if step == 3:
                print("writing", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.3])
def test_readable_after_kill_at_any_instant(tmp_path, delay):
    tests = [str(folder) for folder in Path(__file__).parents[:2]]
    script = KILLED.format(tests=tests, path=str(tmp_path / "run"))
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with started(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    folder = tmp_path / "run" / "tables" / "units"
    steps = pd.read_parquet(folder).groupby("step").size() if list(folder.glob("part-*")) else None
    if steps is not None:  # whole records, one after the other, none missing in between
        assert (steps == UNITS).all()
        assert steps.index.tolist() == list(range(len(steps)))
