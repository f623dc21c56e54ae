"""`symrun runs`, `show` and `compare` as a person types them."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from run_json import rewrite

from symrun.cli import main
from symrun.runs.directory import RunDirectory


@pytest.fixture(autouse=True)
def outputs(own_loops, tmp_path, monkeypatch):
    """Three runs in outputs/: sgd and adamw have finished, mixed diverged and is the newest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for place, (kind, run) in enumerate(own_loops.items()):
        shutil.copytree(run.path, tmp_path / "outputs" / kind)
        rewrite(RunDirectory(tmp_path / "outputs" / kind), created=f"2026-0{place + 1}-01")
    rewrite(RunDirectory(tmp_path / "outputs" / "mixed"), status="diverged")
    return tmp_path / "outputs"


def printed(capfd, *arguments):
    assert main([*arguments]) == 0
    return capfd.readouterr()


def names(out):
    return [line.split()[0].removeprefix("outputs/") for line in out.splitlines()[1:]]


def refused(capfd, *arguments):
    assert main([*arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("symrun: ")
    return err


def test_runs_newest_first(capfd):
    out, err = printed(capfd, "runs")
    assert names(out) == ["mixed", "adamw", "sgd"] and err == ""
    assert out.splitlines()[1].split()[1] == "diverged"
    assert "80.0%" in out and "0.400" in out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["outputs"], ["mixed", "adamw", "sgd"]),
        (["outputs", "status=finished"], ["adamw", "sgd"]),
        (["status!=finished"], ["mixed"]),
        (["lr>=0.1", "loss!=none"], ["mixed", "sgd"]),
        (["top1>=80%", "--sort=-lr"], ["mixed"]),
        (["top1=0.8"], ["mixed"]),
        (["optim.title~adam"], ["adamw"]),
        (["created<2026-03"], ["adamw", "sgd"]),
        (["unexplained<1e-3", "--sort", "optim.momentum"], ["sgd", "mixed"]),
        (["--sort=-created", "model=my_network", "step=400"], ["mixed", "adamw", "sgd"]),
        (["--sort", "name", "outputs", "name!=sgd"], ["adamw", "mixed"]),
    ],
)
def test_filters_and_order(capfd, words, found):
    assert names(printed(capfd, "runs", *words).out) == found


def test_nothing_found_says_so(capfd, tmp_path):
    out, err = printed(capfd, "runs", "loss<0")
    assert (out, err) == ("", "symrun: none of the 3 runs in outputs fits loss<0\n")
    out, err = printed(capfd, "runs", "outputs/sgd", "loss=nan")
    assert (out, err) == ("", "symrun: the one run in outputs/sgd does not fit loss=nan\n")
    (tmp_path / "empty").mkdir()
    assert (
        "there is no run in empty: `symrun train` makes one" in printed(capfd, "runs", "empty").err
    )
    assert json.loads(printed(capfd, "runs", "empty", "--json").out) == {"rows": []}
    shutil.rmtree("outputs")
    assert "there is no run in outputs" in printed(capfd, "runs").err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.rl=1"], "no run has optim.rl; did you mean optim.lr?"),
        (["nowhere"], "nowhere is no folder and no filter: type symrun runs FOLDER"),
        (["outputs", "finished"], "finished is no filter: a filter is KEY=VALUE"),
        (["--sort", "top-1"], "no run has top-1; did you mean top1?"),
        (["step<0", "--sort=-top-1"], "no run has top-1; did you mean top1?"),
        (["status=done"], "status must be one of running, finished"),
        (["--json", "--csv"], "not allowed with"),
        (["--jsn"], "symrun runs has no option --jsn; did you mean --json?"),
    ],
)
def test_mistakes_are_one_line(capfd, words, message):
    assert message in refused(capfd, "runs", *words)


def test_an_unreadable_run_is_passed_over(capfd, outputs):
    (outputs / "sgd" / "run.json").write_text("{")
    out, err = printed(capfd, "runs")
    assert names(out) == ["mixed", "adamw"]
    assert err.startswith("symrun: passed over: outputs/sgd/run.json cannot be read")


def test_json_and_csv_rows(capfd):
    rows = json.loads(printed(capfd, "runs", "--json").out)["rows"]
    assert [row["path"] for row in rows] == ["outputs/mixed", "outputs/adamw", "outputs/sgd"]
    read = [*csv.DictReader(io.StringIO(printed(capfd, "runs", "--csv").out))]
    assert [row["optim.momentum"] for row in read] == ["0.9", "0.0", "0.0"]
    assert rows[2]["unexplained"] == float(read[2]["unexplained"])
    assert rows[2]["settings"]["optim.lr"] == 0.1 and "optim.title" in rows[2]["settings"]


def test_csv_has_the_keys_that_were_asked_for_even_without_rows(capfd):
    arguments = ("runs", "outputs", "step<0", "optim.weight_decay>=0", "--sort=-lr", "--csv")
    (head,) = printed(capfd, *arguments).out.splitlines()
    assert {"path", "unjudged", "optim.weight_decay", "optim.lr"} <= set(head.split(","))


def test_what_is_missing_is_said_once(capfd, outputs):
    for kind in ("sgd", "mixed"):
        part = RunDirectory(outputs / kind).part("progress", 0)
        part.write_bytes(part.read_bytes()[:-20])
    out, err = printed(capfd, "runs", "--json")
    assert err.startswith("symrun: numbers are missing of outputs/mixed, outputs/sgd: ")
    assert err.count("\n") == 1 and "cannot be read: part-000000.parquet" in err
    rows = {row["path"]: row for row in json.loads(out)["rows"]}
    assert rows["outputs/adamw"]["unjudged"] is None
    assert "progress cannot be read" in rows["outputs/sgd"]["unjudged"]
    assert rows["outputs/sgd"]["unexplained"] is not None and rows["outputs/sgd"]["loss"] is None
    out, err = printed(capfd, "compare", "outputs/sgd", "outputs/adamw", "--csv")
    assert err.startswith("symrun: numbers are missing of outputs/sgd: ")
    *_, last = csv.DictReader(io.StringIO(out))
    assert last["name"] == "unjudged" and "cannot be read" in last["outputs/sgd"]
    assert "numbers are missing: " in printed(capfd, "show", "outputs/sgd").out


def test_show(capfd):
    out = printed(capfd, "show", "outputs/sgd").out
    assert out.startswith("outputs/sgd\n") and "MyNetwork" in out
    assert "symrun check outputs/sgd" in out
    values = json.loads(printed(capfd, "show", "outputs/sgd", "--json").out)
    assert values["path"] == "outputs/sgd" and values["changed"] is None
    assert "outputs is not a run folder" in refused(capfd, "show", "outputs")


def test_compare(capfd):
    out = printed(capfd, "compare", "outputs/sgd", "outputs/mixed").out
    assert "exact, an identity, residual" in out and "unjudged" not in out
    assert "optim.momentum" in out and "optim.lr" not in out
    text = printed(capfd, "compare", "outputs/sgd", "outputs/mixed", "--csv").out
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["train top1"]["outputs/mixed"] == "0.8" and rows["train top1"]["outputs/sgd"] == ""
    alone = refused(capfd, "compare", "outputs/sgd", "outputs/sgd")
    assert "compare needs two runs, got outputs/sgd alone" in alone


@pytest.mark.parametrize(
    "arguments", [["runs"], ["show", "outputs/sgd"], ["compare", "outputs/sgd", "outputs/mixed"],
                  ["watch", "outputs/sgd"]]
)  # fmt: skip
def test_a_closed_pipe_is_no_traceback(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "symrun", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("symrun w", {"watch"}),
        ("symrun sho", {"show"}),
        ("symrun runs sta", {"status=", "status=killed"}),
        ("symrun runs optim.l", {"optim.lr="}),
        ("symrun runs out", {"outputs/"}),
        ("symrun compare outputs/s", {"outputs/sgd/"}),
    ],
)
def test_a_shell_completes_them(typed, offered):
    environment = os.environ | {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": "offered",
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
        "COMP_WORDBREAKS": " ",
    }
    subprocess.run([sys.executable, "-m", "symrun"], env=environment, check=False)
    with open("offered") as file:
        assert offered <= {word.rstrip() for word in file.read().split("\n")}
