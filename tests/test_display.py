"""A computation goes on when nobody can see it any more."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from symrun import display
from symrun.cli import main

SETTINGS = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model=vgg11_bn"),
    *("model.width=0.0625", "train.batch_size=16", "train.checkpoint_every=10", "device=cpu"),
]


def command(steps, *overrides):
    """`symrun train` with so many steps, into the folder `run`."""
    settings = [*SETTINGS, f"train.steps={steps}", "run.dir=run", *overrides]
    return [sys.executable, "-m", "symrun", "train", *settings]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def status():
    return json.loads(Path("run/run.json").read_text())["status"]


def require_finished(steps):
    assert status() == "finished"
    saved = torch.load(f"run/checkpoints/step-{steps}.pt", weights_only=True)
    assert saved["done"]
    assert max(pd.read_parquet("run/tables/units")["step"]) == steps


CLOSED = [
    "2>&1 | head -c 20 >/dev/null; exit ${PIPESTATUS[0]}",
    "2>&-",
    "<&- >&- 2>&-",
    ">/dev/full 2>/dev/full",
]


@pytest.mark.parametrize(
    "redirection",
    [pytest.param(one, marks=[] if one in CLOSED[:2] else pytest.mark.slow) for one in CLOSED],
)
def test_training_goes_on_when_its_output_is_lost(redirection):
    line = f'"$@" {redirection}'
    code = subprocess.run(["bash", "-c", line, "bash", *command(12)]).returncode
    assert code == 0
    require_finished(12)


def test_a_sweep_goes_on_when_its_output_is_lost():
    sweep = [*command(2)[:4], "-m", *command(2)[4:-1], "optim.lr=0.1,0.01"]
    code = subprocess.run(["bash", "-c", '"$@" >/dev/full 2>&-', "bash", *sweep]).returncode
    found = [json.loads(path.read_text())["status"] for path in Path().rglob("run.json")]
    assert code == 0 and found == ["finished", "finished"]


def test_what_is_printed_for_its_own_sake_must_arrive(capfd):
    assert main([*command(2)[3:]]) == 0
    check = [
        "bash",
        "-c",
        '"$@" >/dev/full',
        "bash",
        sys.executable,
        "-m",
        "symrun",
        "check",
        "run",
    ]
    failed = subprocess.run(check, stderr=subprocess.PIPE, text=True)
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert line.startswith("symrun: standard output: No space left on device: make room")


def in_terminal(arguments, hang_up):
    """The exit status of a command whose terminal closes once it trains.

    hang_up: whether the kernel sends it SIGHUP then, as it does to what a terminal runs.
    """
    child, terminal = pty.fork()
    if child == 0:
        if not hang_up:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        os.execv(arguments[0], arguments)
    deadline = time.monotonic() + 60
    while not list(Path("run").glob("tables/units/part-*")) and time.monotonic() < deadline:
        os.read(terminal, 4096)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_run_that_ignores_its_terminals_end_goes_on():
    assert in_terminal(command(60), hang_up=False) == 0
    require_finished(60)


def test_a_run_whose_terminal_closes_is_saved_and_goes_on_later():
    assert in_terminal(command(100000, "track.every=1"), hang_up=True) == 75
    info = json.loads(Path("run/run.json").read_text())
    assert info["status"] == "interrupted"
    saved = torch.load(f"run/checkpoints/step-{info['last_step']}.pt", weights_only=True)
    assert saved["step"] == info["last_step"]
    recorded = pd.read_parquet("run/tables/units")["step"]
    assert sorted(set(recorded)) == list(range(max(recorded) + 1))
    assert max(recorded) >= info["last_step"] - 1


def test_a_log_file_gets_a_few_lines():
    with open("log", "wb") as log:
        done = subprocess.run(
            command(300, "data.train_images=400"), stdout=subprocess.DEVNULL, stderr=log
        )
    text = Path("log").read_bytes()
    assert done.returncode == 0
    assert len(text) < 5_000 and b"\r" not in text and b"val loss" in text


def test_a_bar_in_a_log_file_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(display, "LINE_SECONDS", 0.05)
    with display.bar("decoding", 200, "image") as bar:
        for _ in range(20):
            bar.update(10)
            time.sleep(0.01)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 5
    assert all(line.startswith("decoding: ") and "/200 [" in line for line in lines)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_of_both_streams_keep_their_order(unbuffered):
    """In one log file, also if Python was told not to buffer: an error is not held back."""
    script = "import sys; from symrun.display import guarded\nwith guarded():\n"
    script += "    print('first', file=sys.stderr); print('second'); sys.stdout.flush()\n"
    script += "    print('third', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.stdout.split() == ["first", "second", "third"]
