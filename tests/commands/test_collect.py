"""`symrun collect`: the rows are those of `symrun check`, and what did not change is not read."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from many_runs import GROUPS, make_runs
from run_json import rewrite

import symrun
from symrun.analysis import Agreement
from symrun.cli import main
from symrun.listing import reading
from symrun.runs.directory import RunDirectory

NUMBERS = tuple(Agreement.__dataclass_fields__)
RUNS = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Thirty runs, which tests must not change."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    make_runs(folder, RUNS)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def copied(made, tmp_path):
    """A function that copies the first `count` runs, and gives their folder."""

    def copy(count):
        for run in sorted(made.iterdir())[:count]:
            shutil.copytree(run, tmp_path / "runs" / run.name)
        return tmp_path / "runs"

    return copy


@pytest.fixture
def collected(capsys):
    """A function that collects folders: the rows, and what it says on standard error."""

    def collect(*folders, out=None):
        options = [] if out is None else [f"--out={out}"]
        assert main(["collect", *map(str, folders), *options]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{out or folders[0] / 'collected.parquet'}\n"
        (line,) = printed.err.splitlines()
        return pq.read_table(printed.out.strip()).to_pylist(), line

    return collect


def checked(run, capsys):
    """What `symrun check --json` prints of a run."""
    assert main(["check", str(run), "--json"]) == 0
    lists = json.loads(capsys.readouterr().out)
    return [{"scope": "group", **row} for row in lists["rows"]] + [
        {"scope": "symmetry", **row} for row in lists["symmetries"]
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_rows_are_those_of_check(processes, made, tmp_path, collected, capsys, monkeypatch):
    monkeypatch.setattr(reading, "usable_cores", lambda: processes)
    monkeypatch.setattr(reading, "_FEWEST", RUNS // 2)
    rows, line = collected(made, out=tmp_path / "all.parquet")
    assert line.startswith(f"symrun: 30 runs in {len(rows)} rows: 30 read, 0 known from before")
    for path in sorted(made.iterdir()):
        info = RunDirectory(path).info()
        own = [row for row in rows if row["path"] == str(path)]
        assert [{name: row[name] for name in ("scope", *NUMBERS)} for row in own] == checked(
            path, capsys
        )
        assert {row["group"] for row in own} == {"all", *(group.group for group in GROUPS)}
        for name, value in info.config.by_name.items():
            if isinstance(value, int | float | bool):
                assert {(type(row[name]), row[name]) for row in own} == {(type(value), value)}
        facts = (info.status, info.created, info.last_step, info.seconds, info.model.name)
        told = [row[name] for row in own[:1] for name in ("status", "created", "step", "seconds")]
        assert (*told, own[0]["model"]) == facts and own[0]["val_top1"] == 0.5
        assert own[0]["train_loss"] is own[0]["unjudged"] is None


def test_only_what_changed_is_read_and_what_is_gone_goes(copied, collected):
    folder = copied(6)
    before, _ = collected(folder)
    rewrite(RunDirectory(folder / "0002"), status="interrupted")
    shutil.rmtree(folder / "0004")
    after, line = collected(folder)
    assert "5 runs" in line and "1 read, 4 known from before" in line
    assert {row["status"] for row in after if row["path"].endswith("2")} == {"interrupted"}
    for row in before:
        row["status"] = "interrupted" if row["path"].endswith("2") else row["status"]
    assert after == [row for row in before if not row["path"].endswith("4")]


def test_a_run_without_numbers_has_a_row_that_says_why(copied, collected):
    folder = copied(4)
    for part in RunDirectory(folder / "0000").table("units").iterdir():
        part.unlink()
    RunDirectory(folder / "0001").part("units", 1).write_bytes(b"PAR1 and nothing")
    (folder / "0002" / "run.json").write_text("{")
    rows, line = collected(folder)
    assert "3 read, 0 known from before, 1 unreadable" in line
    said = f"the column unjudged says why, of {folder / '0002'}: run.json cannot be read"
    assert f"; 2 ended without all numbers; {said}" in line and line.count(str(folder)) == 1
    reasons = ("has no records yet", "cannot be read: part-000001", "run.json cannot be read")
    for number, reason in enumerate(reasons):
        (row,) = (row for row in rows if row["path"] == str(folder / f"000{number}"))
        assert reason in row["unjudged"]
        assert all(row[name] is None for name in ("scope", *NUMBERS))
    assert [row["val_top1"] for row in rows[:3]] == [0.5, 0.5, None]
    assert len(rows) == 3 + 26 and rows[-1]["unjudged"] is None


def test_a_run_that_has_just_begun_is_not_called_damaged(copied, collected):
    run = RunDirectory(copied(2) / "0000")
    for part in run.table("units").iterdir():
        part.unlink()
    rewrite(run, status="running")
    with run.locked():
        _, line = collected(run.path.parent)
    assert line.endswith("0 known from before; 1 under way without all numbers so far")


def test_a_run_is_a_folder_too_and_is_there_once(copied, collected):
    folder = copied(3)
    rows, line = collected(folder / "0001", folder)
    assert "3 runs" in line and len(rows) == 3 * 26
    rows, line = collected(folder / "0001")
    assert "1 run in 26 rows" in line
    assert {row["path"] for row in rows} == {str(folder / "0001")}


def test_a_setting_has_one_type_and_is_null_where_a_run_lacks_it(copied, collected):
    folder = copied(4)
    for number, settings in enumerate(
        ({"a": 1, "b": True, "c": [1, 2]}, {"a": 0.5, "b": 2}, {"b": "x", "law": "taken"})
    ):
        run = RunDirectory(folder / f"000{number}")
        config = json.loads(run.run_json.read_text())["config"]
        rewrite(run, config=config | {"mine": settings, "law": 1})
    rows, _ = collected(folder)
    first = {row["path"]: row for row in rows}.values()
    assert [row["mine.a"] for row in first] == [1.0, 0.5, None, None]
    assert [row["mine.b"] for row in first] == ["true", "2", "x", None]
    assert [row["mine.c"] for row in first] == ["[1,2]", None, None, None]
    assert {row["law"] for row in rows if row["scope"] == "group"} == {"flow", "discrete", "exact"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing"], "missing is no folder: type symrun collect FOLDER"),
        (["."], "there is no run in .: `symrun train` makes one"),
        ([".", "--out=no/x.parquet"], "--out=no/x.parquet: the folder no does not exist"),
        ([".", "--out=x.csv"], "--out=x.csv must end in .parquet"),
        ([".", "--ou"], "needs a value"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["collect", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.glob("*"))


def test_it_imports_no_torch(made, tmp_path):
    code = "import sys; from symrun.cli import main;"
    code += f"main(['collect', {str(made)!r}, '--out={tmp_path}/x.parquet']);"
    code += "print([name for name in ('torch', 'hydra', 'matplotlib') if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == "[]"


def test_the_queries_of_the_page_run_and_say_what_check_says(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").symlink_to(made)
    assert main(["collect", "outputs", "--out=collected.parquet"]) == 0
    capsys.readouterr()
    text = (Path(symrun.__file__).parent.parent / "docs/howto/many_runs.md").read_text()
    text = text.replace("outputs/collected.parquet", "collected.parquet")
    (query,) = re.findall(r"^```sql\n(.*?)^```", text, re.M | re.S)
    found = duckdb.sql(query).fetchall()
    assert len(found) == RUNS * len(GROUPS) and {row[2] for row in found} == {1}
    lists = [checked(path, capsys) for path in sorted(made.iterdir())]
    flow = [row for rows in lists for row in rows if row["law"] == "flow"]
    of_symmetry = [row["unexplained"] for row in flow if row["scope"] == "symmetry"]
    assert sorted(row[3] for row in found) == sorted(of_symmetry)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) == 2
    for code in blocks:
        if "polars" in code:
            pytest.importorskip("polars")
        names = {}
        exec(compile(code, "many_runs.md", "exec"), names)
        if "polars" in code:
            worst = names["worst"].collect()
            of_group = [row["unexplained"] for row in flow if row["scope"] == "group"]
            assert worst.height == RUNS and worst["unexplained"][0] == max(of_group)
        else:
            assert sorted(names["flow"].unexplained) == sorted(of_symmetry)


@pytest.mark.slow
def test_a_thousand_runs(tmp_path):
    """Whole commands in new processes. The memory is that of the largest, as often as there may be
    processes; a small one starts them, since its own memory counts as theirs."""
    make_runs(tmp_path / "runs", 1000)
    launcher = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
    launcher += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    memory = []

    def seconds(command):
        began = time.monotonic()
        words = [sys.executable, "-c", launcher, sys.executable, "-m", "symrun", command]
        printed = subprocess.run([*words, str(tmp_path / "runs")], check=True, capture_output=True)
        memory.append(int(printed.stdout.splitlines()[-1]))
        return time.monotonic() - began

    assert seconds("collect") < 60
    os.utime(tmp_path / "runs" / "0500" / "run.json")
    assert seconds("collect") < 3
    assert seconds("runs") < 3
    rows = pq.read_metadata(tmp_path / "runs" / "collected.parquet").num_rows
    assert rows == 26 * 1000
    assert (1 + min(reading.usable_cores(), 3)) * max(memory) < 2**30


def test_a_file_that_cannot_be_written_is_named_as_the_user_did(copied, tmp_path, capsys):
    out = tmp_path / f"{'x' * 240}.parquet"  # its draft's name is longer
    assert main(["collect", str(copied(1)), f"--out={out}"]) == 2
    assert f"{out} cannot be written: File name too long" in capsys.readouterr().err
