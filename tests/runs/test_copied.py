"""Runs that lie in a store: every command reads them, and fetches only what changed."""

import re
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations
from stores import SETTINGS, URL, files_of

import symrun
from symrun.cli import main
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.places import cache, copy_of
from symrun.runs.copied import local
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import train

pytestmark = pytest.mark.usefixtures("memory")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The files of a run in a store, which has figures of its own too."""
    folder = tmp_path_factory.mktemp("stored") / "mine"
    run = RunDirectory(train(compose([*SETTINGS, f"run.dir={folder}"])))
    return files_of(run) | {"figures/fig1.png": b"not fetched"}


@pytest.fixture
def run_in_store(memory, stored):
    for name, content in stored.items():
        memory.pipe_file(f"/bucket/mine/{name}", content)
    return memory


def test_every_command_that_reads_takes_a_url(run_in_store, capsys):
    for command in (
        f"check {URL}",
        f"check {URL} --json",
        f"show {URL}",
        f"compare {URL} {URL}/",
        "runs memory://bucket status=finished",
        f"plot progress {URL} --format png",
        f"watch {URL}",
        f"thin {URL} thinned --every 4",
    ):
        require_url_in_output(command, capsys)
    assert Path("outputs/figures/progress.png").exists()
    assert symrun.open_run(URL).progress()["step"].max() == 8


@pytest.mark.slow
def test_the_commands_that_take_longer_take_one_too(run_in_store, capsys):
    for command in (f"report {URL}", f"check {URL} --constraints --batch 2"):
        require_url_in_output(command, capsys)
    assert Path("outputs/report.html").exists()


def require_url_in_output(command, capsys):
    code = main(command.split())
    printed = capsys.readouterr()
    assert code == (2 if command.startswith("compare") else 0), printed.err
    assert str(cache()) not in printed.out + printed.err, command


@pytest.mark.parametrize("command", ["runs", "collect"])
def test_nothing_in_a_store_is_told_as_a_folder_that_is_not_there(run_in_store, command, capsys):
    said = []
    for place in ("memory://bucket/none", "none"):
        assert main([command, place]) == 2
        said.append(capsys.readouterr().err.replace(place, "PLACE"))
    assert said[0] == said[1] and "PLACE is no folder" in said[0]


def test_a_protocol_may_be_in_capitals(run_in_store, capsys):
    assert main(["show", URL.replace("memory", "MEMORY")]) == 0


@pytest.mark.parametrize("command", ["thin {} {} --every 4", "plot fig1 {} --out {}"])
def test_what_is_made_of_a_run_goes_to_this_machine(memory, command, capsys):
    assert main(command.format(URL, "memory://new").split()) == 2
    assert "memory://new is in a store: name a place of this" in capsys.readouterr().err


def test_what_is_wrong_is_told_with_the_url(run_in_store, memory, capsys):
    place = "/bucket/mine/tables/units/part-000000.parquet"
    memory.pipe_file(place, memory.cat_file(place)[:-9] + b"damaged!!")
    assert main(["check", URL]) == 2
    assert capsys.readouterr().err.startswith(f"symrun: {URL}/tables/units cannot be read: part-")
    with pytest.raises(UsageError, match=f"{URL}/tables/units"):
        symrun.open_run(URL).units()


def test_only_what_changed_is_fetched(run_in_store, memory, stored, monkeypatch):
    fetched, get = [], MemoryFileSystem.get_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "get_file",
        lambda self, path, *args, **kw: (fetched.append(path), get(self, path, *args, **kw)),
    )
    RunDirectory.open(URL)
    assert {path.removeprefix("/bucket/mine/") for path in fetched} == {
        name for name in stored if name == "run.json" or name.startswith("tables")
    }
    fetched.clear()
    RunDirectory.open(URL)
    assert fetched == []
    last = sorted(name for name in stored if "tables/units" in name)[-1]
    memory.rm_file(f"/bucket/mine/{last}")
    memory.pipe_file("/bucket/mine/run.json", stored["run.json"])
    copy = RunDirectory.open(URL)
    assert fetched == ["/bucket/mine/run.json"] and not (copy.path / last).exists()
    assert copy.checkpointed() == [8]  # known, not fetched


def test_a_folder_of_runs_is_copied_run_by_run_and_forgets_those_that_are_gone(
    run_in_store, memory, stored
):
    for name, content in stored.items():
        memory.pipe_file(f"/bucket/more/other/{name}", content)
    folder = local("memory://bucket")
    assert folder == copy_of("memory://bucket")
    assert {path.parent for path in folder.rglob("run.json")} == {
        folder / "mine",
        folder / "more/other",
    }
    memory.rm("/bucket/more", recursive=True)
    assert [path.parent for path in local("memory://bucket").rglob("run.json")] == [folder / "mine"]


def test_objects_that_are_no_files_of_a_run_are_passed_over(run_in_store, memory, stored, tmp_path):
    """S3 takes any name; none leads out of the cache, or makes other runs unreadable."""
    part = "tables/units/part-000000.parquet"
    for name in (
        *("../x/run.json", "/run.json", "./run.json"),
        *(f"mine/tables/../../../../../{part}", f"mine/tables/more/{part[7:]}"),
        *("mine/tables/../part-000000.parquet", "mine/tables/part-000000.parquet"),
    ):
        memory.store[f"/bucket/{name}"] = memory.store[f"/bucket/mine/{part}"]
    folder = local("memory://bucket")
    assert [path.parent.name for path in folder.rglob("run.json")] == ["mine"]
    names = {path.relative_to(folder / "mine").as_posix() for path in folder.rglob("part-*")}
    assert names == {name for name in stored if name.startswith("tables/")}
    assert {path.name for path in tmp_path.iterdir()} == {"here", "cache"}
    assert set(tmp_path.rglob("part-*")) == set(folder.rglob("part-*"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("memory://bucket", "is not a run folder: it holds the runs memory://bucket/mine"),
        ("memory://bucket/none", "is not a run folder: it has no run.json"),
        ("s4://bucket/mine", "fsspec knows no s4://"),
        ("absent://bucket/mine", r"install absent: pip install 'symrun\[remote\]'"),
        ("memory://", "names no folder"),
        ("simplecache::memory://bucket/mine", "type the URL of the store alone"),
        ("memory://a/../b", "names no folder"),
        ("file:///tmp/a", "type it without file://"),
    ],
)
def test_a_wrong_url_is_one_clear_line(run_in_store, url, said, monkeypatch, capsys):
    known = {"class": "no_such_package.System", "err": "install absent"}
    monkeypatch.setitem(known_implementations, "absent", known)
    assert main(["check", url]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and re.search(said, line), line
