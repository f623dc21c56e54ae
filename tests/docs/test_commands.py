"""Every command line of README and docs is one that symrun, make or a script of the project takes.

None of them trains, draws or downloads: symrun's own parser reads them, and the settings are
composed.
"""

import os
import re
import shlex

import pytest
from pages import PAGES, ROOT, fences, name_of, text_of

from symrun.cli import _parser, main
from symrun.errors import UsageError
from symrun.figures import FIGURES
from symrun.figures.style import FORMATS
from symrun.launch import compose, compose_data
from symrun.overrides import combinations, names

MAKEFILE = (ROOT / "Makefile").read_text()
OTHERS = {
    "pip install .",
    "pip install symrun[remote]",
    "source .venv/bin/activate",
}
"""Command lines of other programs."""


def commands():
    """The words of each command line in a fence `sh`, with its page."""
    for page in map(name_of, PAGES):
        for block in fences(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield pytest.param(page, words, id=f"{page}: {' '.join(words)}")


def parsed(words):
    return _parser().parse_args(words[1:])


def check_symrun(words):
    options = parsed(words)
    settings = list(getattr(options, "overrides", []))
    match words[1]:
        case "train":
            assert main(words[1:]) == 0
        case "plot":
            assert options.figure in FIGURES and {*options.format.split(",")} <= {*FORMATS}
        case "data":
            compose_data(settings)
        case "bench":
            for combination in combinations(settings):
                compose(["data=synthetic", *combination])
        case "symmetries" | "check" if settings:
            compose([f"model={options.target}", *settings])
        case "resume":
            assert {word.partition("=")[0] for word in settings} <= {*names()}


def check_make(words):
    targets = [word for word in words[1:] if "=" not in word]
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
    for word in set(words[1:]) - {*targets}:
        variable = word.partition("=")[0]
        scripts = "".join(path.read_text() for path in (ROOT / "scripts").glob("*.sh"))
        assert re.search(rf"\b{variable}\b", MAKEFILE + scripts), variable


def check_script(words):
    script = ROOT / words[0]
    options = {word for word in words[1:] if word.startswith("--")}
    assert script.is_file() and all(f'"{option}"' in script.read_text() for option in options)


@pytest.fixture
def training_is_left_out(monkeypatch):
    """`symrun train` composes and checks its settings, and then does nothing."""
    for name in ("train", "train_member"):
        monkeypatch.setattr(f"symrun.training.lifecycle.{name}", lambda config, stop: None)
    monkeypatch.setattr("symrun.members.print_run", lambda path: None)
    monkeypatch.setattr("symrun.launch.print_run", lambda path: None)
    monkeypatch.setattr("symrun.members._by_engine", lambda *_: None)


@pytest.mark.usefixtures("training_is_left_out")
@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_a_command_is_understood(page, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    for preset in fences(page, "yaml"):
        path = tmp_path / preset.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True)
        path.write_text(preset.partition("\n")[2])
    words = [os.path.expandvars(word) for word in words]
    match words[0]:
        case "symrun":
            check_symrun(words)
        case "torchrun":
            check_symrun(["symrun", *words[words.index("-m") + 2 :]])
        case "make":
            check_make(words)
        case "python":
            check_script(words[1:])
        case _:
            assert " ".join(words) in OTHERS


@pytest.mark.parametrize("page", [*map(name_of, PAGES)])
def test_the_commands_within_sentences_are_understood_too(page):
    """Some leave out what they are about: `symrun check --json`."""
    for command in re.findall(r"`(symrun [a-z]+ [^`]+)`", text_of(page)):
        try:
            parsed(shlex.split(command))
        except UsageError as error:
            assert re.match(r"symrun \w+ needs ", str(error)), command
