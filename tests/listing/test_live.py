"""A run of another process, watched: what is read, what is shown, and how it ends."""

import errno
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from run_json import rewrite
from started import started

from symrun.analysis.comparison import comparisons
from symrun.analysis.report import scientific
from symrun.cli import main
from symrun.errors import UsageError
from symrun.listing import live_state
from symrun.listing.live_state import LiveState
from symrun.listing.live_view import line, view
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.reading import read_table
from symrun.runs.writer import write_records

LEFT = "\x1b[?1049l"
"""What leaves the terminal's other screen."""


@pytest.fixture(scope="module")
def parted(any_network, tmp_path_factory):
    """A trained run of eleven records, each in a part of its own."""
    run, new = any_network("mlp"), RunDirectory(tmp_path_factory.mktemp("parted") / "run")
    shutil.copytree(run.path, new.path)
    shutil.rmtree(new.table("units"))
    rows = read_table(run, "units")
    steps = rows["step"].to_numpy()
    for number, step in enumerate(np.unique(steps)):
        write_records(new, "units", number, [rows.filter(steps == step)])
    return new


@pytest.fixture
def under_way(parted, tmp_path):
    """A run without parts that this process writes to, and a function that adds a record to it;
    the last with the scores."""
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(parted.path, run.path)
    for table in TABLES:
        for part in run.table(table).iterdir():
            part.unlink()
    rewrite(run, status="running", last_step=0)
    left = sorted(parted.table("units").iterdir())

    def grow():
        shutil.copy(left[0], run.path / "draft")
        os.rename(run.path / "draft", run.table("units") / left.pop(0).name)
        if not left:
            shutil.copytree(parted.table("progress"), run.table("progress"), dirs_exist_ok=True)
        return bool(left)

    with run.locked():
        yield run, grow


def shown(state, width=80, colour=None):
    console = Console(width=width, color_system=colour, force_terminal=True)
    with console.capture() as captured:
        console.print(view(state, console, time.time()))
    return captured.get()


def test_residuals_are_those_of_the_analysis_and_each_part_is_read_once(
    under_way, parted, monkeypatch
):
    run, grow = under_way
    read = []
    whole = live_state.read_part
    monkeypatch.setattr(
        live_state, "read_part", lambda part, *rest, **equal: read.append((part, equal)) or
        whole(part, *rest, **equal)
    )  # fmt: skip
    state = LiveState(run)
    state.look()
    assert state.step == 0 and "no records yet" in shown(state)
    while grow():
        assert state.look() and not state.look()
    assert state.look() and state.step == 50 and state.whole
    assert len(read) == len({(part, *equal.items()) for part, equal in read})
    expected = {}
    for one in comparisons(parted):
        for law in one.predicted:
            curve = expected.setdefault((one.symmetry, law), np.zeros(len(one.steps)))
            np.maximum(curve, one.residual(law), out=curve)
    assert state.residuals.keys() == expected.keys()
    for key, curve in state.residuals.items():
        assert [value for _, value in curve] == expected[key].tolist()


def test_a_run_that_went_back_to_a_checkpoint_is_read_anew(under_way):
    run, grow = under_way
    state = LiveState(run)
    for _ in range(4):
        grow()
    state.look()
    before = state.step
    for part in sorted(run.table("units").iterdir())[2:]:
        part.unlink()
    state.look()
    assert 0 < state.step < before
    assert {step for curve in state.residuals.values() for step, _ in curve} == {0, 5}


def test_a_long_run_is_read_in_several_looks(under_way, monkeypatch):
    run, grow = under_way
    while grow():
        pass
    monkeypatch.setattr(live_state, "_LOOK_SECONDS", -1.0)
    state, looks = LiveState(run), 1
    state.look()
    assert not state.whole and "being read" in shown(state)
    while not state.whole:
        state.look()
        looks += 1
    assert looks == len(list(run.table("units").iterdir())) and state.step == 50


def test_time_left_is_told_from_the_last_parts(under_way):
    run, grow = under_way
    state, now = LiveState(run), time.time()
    for place in range(5):
        grow()
        (newest,) = sorted(run.table("units").iterdir())[-1:]
        os.utime(newest, (now + 10 * place, now + 10 * place))
    state.look()
    assert state.step == 20 and state.steps_per_second() == pytest.approx(0.5)
    assert state.seconds_left(now + 45) == pytest.approx(30 / 0.5 - 5)
    assert "about 55 s left" in line(state, now + 45)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "finished: symrun show"),
        ({"status": "running", "last_step": 0}, "killed at step 400: nobody writes it any more"),
        ({"status": "interrupted"}, "interrupted at step 400"),
        ({"status": "failed"}, "failed at step 400"),
        ({"status": "diverged", "diverged": {"step": 7, "loss": True, "layers": []}},
         "diverged: the loss not finite (nan or inf) at step 7"),
    ],
)  # fmt: skip
def test_how_a_run_ended(copied, fields, words):
    state = LiveState(copied("one", **fields))
    state.look()
    assert not state.under_way and words in " ".join(shown(state).split())
    assert "symrun resume" not in shown(state)  # nobody can, of a loop of one's own


def test_weights_that_are_not_finite_are_said(own_loops, monkeypatch):
    whole = live_state.read_part

    def diverged(part, columns, **equal):
        rows = whole(part, columns, **equal)
        if "measured" in rows:
            late = rows["step"] > 200
            rows["measured"] = np.where(late, np.nan, rows["measured"])
        return rows

    monkeypatch.setattr(live_state, "read_part", diverged)
    state = LiveState(own_loops["sgd"])
    state.look()
    assert "!!!" in shown(state) and "inf" in shown(state)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "mixed"])
@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_view_fits_the_terminal(own_loops, kind, width, monkeypatch):
    monkeypatch.chdir(own_loops[kind].path)
    state = LiveState(RunDirectory.open(Path(".")))
    state.look()
    lines = shown(state, width).splitlines()
    assert all(len(one) <= width for one in lines)
    if width >= 80:
        assert len(lines) <= 20
        laws = {"exact", "flow", "discrete"} if kind != "adamw" else {"exact"}
        assert {law for law in ("exact", "flow", "discrete") if law in " ".join(lines)} == laws


def test_in_a_narrow_terminal_curves_go_first_and_numbers_are_whole(parted):
    state = LiveState(parted)
    state.look()
    _, laws = zip(*state.residuals, strict=True)
    last = [scientific(curve[-1][1]) for curve in state.residuals.values()]
    for width, heads in [(38, ["now"]), (45, ["now"]), (50, ["now", "largest"]),
                         (80, ["residual", "now", "largest"])]:  # fmt: skip
        lines = shown(state, width).splitlines()
        (head,) = [line.split() for line in lines if line.split()[:2] == ["symmetry", "law"]]
        assert head[2:] == heads and "…" not in "".join(lines[1:])
        assert all(len(line) <= width for line in lines)
        assert all(any(number in line for line in lines) for number in last)
    assert "exact, an identity" in shown(state) and "exact" in laws


def test_a_part_that_is_removed_while_it_is_read_is_passed_over(under_way, monkeypatch):
    run, grow = under_way
    state, whole = LiveState(run), live_state.read_part
    grow(), grow()

    def gone(part, *rest, **equal):
        part.unlink(missing_ok=True)
        return whole(part, *rest, **equal)

    monkeypatch.setattr(live_state, "read_part", gone)
    assert state.look() and state.step == 0
    monkeypatch.setattr(live_state, "read_part", whole)
    grow()
    state.look()
    assert state.step == 10


def test_a_run_that_disappears_is_one_line(under_way):
    run, grow = under_way
    state = LiveState(run)
    grow(), state.look()
    shutil.rmtree(run.path)
    with pytest.raises(UsageError, match="is not a run folder"):
        state.look()


class Terminal:
    """`symrun watch RUN` on a terminal of 80 x 24 characters."""

    def __init__(self, run, **environment):
        self.text = ""
        # Not execv, which passes the COLUMNS on that readline sets in pytest
        environment = {**os.environ, "TERM": "xterm", **environment}
        for name in ("COLUMNS", "LINES"):  # of the process that started this one
            environment.pop(name, None)
        command = [sys.executable, "-m", "symrun", "watch", str(run.path)]
        process, self.descriptor = pty.fork()
        if process == 0:
            os.execve(sys.executable, command, environment)
        self.process = process
        self.resize(80, 24)

    def resize(self, columns, lines):
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, size)

    def until(self, pattern, seconds=60):
        """What came until `pattern`."""
        deadline, start = time.monotonic() + seconds, len(self.text)
        while not re.search(pattern, self.text[start:]):
            assert time.monotonic() < deadline, f"no {pattern} in {self.text[start:]!r}"
            if not self._read(0.1):
                break
        return self.text[start:]

    def _read(self, wait):
        if not select.select([self.descriptor], [], [], wait)[0]:
            return True
        try:
            new = os.read(self.descriptor, 65536)
        except OSError as error:  # the other end is closed
            assert error.errno == errno.EIO
            new = b""
        self.text += new.decode(errors="replace")
        return bool(new)

    def ended(self):
        """The exit code, and all that came after the other screen."""
        while self._read(10):
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self.descriptor)
        return code, self.text.rpartition(LEFT)[2]


def test_on_a_terminal_until_the_run_ends(under_way):
    run, grow = under_way
    grow()
    terminal = Terminal(run)
    terminal.until("running")
    grow()
    terminal.until("5 of 50 steps  10%")
    terminal.resize(120, 40)
    wide = terminal.until("━{70}")
    assert "\x1b[?1049" not in wide  # it is drawn anew on the same screen
    while grow():
        pass
    rewrite(run, status="finished", last_step=50, seconds=3.0)
    code, after = terminal.ended()
    assert code == 0 and "50 steps" in after and "finished: symrun show" in after
    assert terminal.text.count(LEFT) == 1 and terminal.text.rindex("\x1b[?25h") > 0
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_leaving_gives_the_terminal_back(under_way, number, code):
    run, grow = under_way
    grow()
    terminal = Terminal(run, NO_COLOR="1")
    terminal.until("Ctrl-C leaves")
    if number == signal.SIGINT:
        os.write(terminal.descriptor, b"\x03")
    else:
        os.kill(terminal.process, number)
    found, after = terminal.ended()
    assert found == code and terminal.text.count(LEFT) == 1 and "\x1b[?25h" in terminal.text
    assert re.search(r"\x1b\[(?:\d+;)*3\d", terminal.text) is None  # NO_COLOR
    told = after.replace("\x1b[?25h", "").strip()
    assert told == ("symrun: left " + str(run.path) + ", which goes on" if code == 130 else "")


def test_in_a_pipe_each_change_is_a_line(under_way):
    run, grow = under_way
    grow(), grow()
    command = [sys.executable, "-m", "symrun", "watch", str(run.path)]
    pipe = subprocess.PIPE
    with started(command, stdout=pipe, stderr=pipe, text=True) as process:
        first = process.stdout.readline()
        time.sleep(2.5)  # two looks at what has not changed
        rewrite(run, status="failed", last_step=7)
        rest, errors = process.communicate(timeout=60)
    assert first.startswith("running: 5 of 50 steps, ") and "flow" in first
    assert process.returncode == 0 and errors == "" and "steps, " not in rest
    assert "failed at step 7" in " ".join(rest.split()) and "\x1b" not in first + rest


def test_watching_imports_no_torch(own_loops):
    code = "import sys; from symrun.cli import main; main(['watch', sys.argv[1]]);"
    code += "print([m for m in ('torch', 'pandas', 'scipy', 'hydra', 'matplotlib')"
    code += " if m in sys.modules])"
    command = [sys.executable, "-c", code, str(own_loops["sgd"].path)]
    assert subprocess.check_output(command, text=True).splitlines()[-1] == "[]"


def test_after_the_end_the_view_is_printed_once(own_loops, capfd):
    assert main(["watch", str(own_loops["sgd"].path)]) == 0
    out, err = capfd.readouterr()
    assert out.count("finished: symrun show") == 1 and "400 steps" in out and err == ""
