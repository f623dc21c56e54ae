"""Help and checks of settings have one source, and the page of the documentation is made of it."""

import dataclasses
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symrun.cli import main
from symrun.config import Config, RunConfig, TrackConfig, TrainConfig
from symrun.overrides import REGISTRIES, names
from symrun.typed import Setting, settings_of

KINDS = [entry.settings for registry in REGISTRIES.values() for entry in registry.values()]
KINDS += [TrainConfig, TrackConfig, RunConfig, Config]
INTERVALS = {setting for kind in KINDS for _, setting in settings_of(kind).values()}
INTERVALS = sorted({setting.values for setting in INTERVALS if setting.values})


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS))
def test_every_setting_says_what_it_means(kind):
    fields = {field.name for field in dataclasses.fields(kind)}
    groups = {*REGISTRIES, "train", "track", "run"} if kind is Config else {"name"} - {kind}
    unsaid = fields - set(settings_of(kind)) - groups
    assert not unsaid
    for _, setting in settings_of(kind).values():
        assert 0 < len(setting.meaning) <= 80 and not setting.meaning.endswith(".")


@pytest.mark.parametrize("values", INTERVALS)
def test_an_interval_holds_what_it_says(values):
    """Against Python's own reading of the same text."""
    setting = Setting("", values)
    condition = values.replace("^", "**")
    if condition.startswith("in "):
        least, most = condition[4:-1].split(", ")
        below, above = ("<=" if end in "[]" else "<" for end in (condition[3], condition[-1]))
        condition = f"{least} {below} x {above} {most}"
    else:
        condition = f"x {condition}"
    ends = [float(end) for end in (0, 1, 1 / 64, 8, 2, 10**7, 2.0**63)]
    near = [math.nextafter(end, end + side) for end in ends for side in (-math.inf, math.inf)]
    for x in [*ends, *near, -1.0, math.nan, math.inf]:
        assert setting.takes(x) == eval(condition, {"x": x}), (values, x)


@given(st.floats())
def test_what_help_says_of_a_number_is_what_is_checked(x):
    inside = 0 <= x < 1
    for name in ("momentum", "dampening"):
        kind, setting = settings_of(REGISTRIES["optim"]["sgd"].settings)[name]
        assert (kind, setting.takes(x)) == (float, inside)


def test_the_page_in_the_documentation_has_every_setting_and_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    from settings_page import PAGE, page

    assert PAGE.read_text() == page(), "type python scripts/settings_page.py"
    assert [name for name in names() if f"| `{name}` |" not in page()] == []


def test_help_shows_the_settings_given_and_no_colours_in_a_pipe(capfd):
    assert main(["train", "--help", "optim=adamw", "seed=3"]) == 0
    shown = capfd.readouterr().out
    assert "optim=adamw" in shown and "optim.beta1=0.9" in shown and "seed=3" in shown
    assert "--multirun" in shown and "\x1b" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("words", [["data=text"], ["data=image_folder"], ["optim.lr=-1"]])
def test_help_is_there_for_what_cannot_run_yet(capfd, words):
    assert main(["train", "--help", *words]) == 0
    assert words[0] in capfd.readouterr().out


@pytest.mark.parametrize("width", [30, 40, 69, 70, 200])
def test_help_fits_the_terminal_and_loses_nothing(capfd, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["train", "--help"]) == 0
    lines = capfd.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    for kind in (TrainConfig, TrackConfig, RunConfig, Config):
        assert all(setting.meaning in text for _, setting in settings_of(kind).values())
    assert all(line == line.rstrip() for line in lines)
    long = [line for line in lines if len(line) > max(width, 40)]
    assert all(line.strip().count(" ") <= 4 for line in long)  # a name or a command alone


def test_a_preset_of_ones_own_is_shown(capfd, tmp_path):
    (tmp_path / "experiment").mkdir()
    preset = "# @package _global_\ndefaults:\n  - override /model: mlp\nseed: 5\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(preset)
    words = ["train", "--config-dir", str(tmp_path), "--cfg", "job", "experiment=mine"]
    assert main(words) == 0 and "seed: 5" in capfd.readouterr().out


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_help_is_coloured_on_a_terminal_unless_told_otherwise(no_color, coloured):
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    environment |= {"NO_COLOR": no_color} if no_color else {}
    command = [sys.executable, "-m", "symrun", "train", "--help"]
    process = subprocess.Popen(command, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.wait() == 0 and (b"\x1b[36m" in shown) == coloured
