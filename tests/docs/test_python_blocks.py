"""Every Python block of README and docs runs as it stands, if the packages it needs are there."""

import re
import sys
from pathlib import Path

import pytest
import torch
from pages import DOCS, PAGES, ROOT, fences, name_of, text_of

import symrun
from symrun.cli import main

NEEDED = ("accelerate", "lightning", "transformers", "tensorboard")


def blocks():
    for title, text in re.findall(r"^#+ (.+)\n((?:(?!^#).*\n)*)", text_of("docs/loops.md"), re.M):
        for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            yield pytest.param(code, id=title)


@pytest.fixture
def my_networks(tmp_path, monkeypatch):
    """The file that the tutorial asks for, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    network, loop = fences("docs/tutorial.md", "python")
    Path("my_networks.py").write_text(network)
    yield loop
    sys.modules.pop("my_networks", None)


def test_every_page_with_python_is_tested():
    """models.md by tests/training/test_families.py, tables.md by tests/runs/test_opened.py,
    many_runs.md by tests/commands/test_collect.py."""
    pages = {name for name in map(name_of, PAGES) if fences(name, "python")}
    tested = ("tutorial", "loops", "models", "tables", "howto/many_runs")
    assert pages == {"README.md", *(f"docs/{name}.md" for name in tested)}


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("code", list(blocks()))
def test_a_block_runs_and_leaves_a_run_that_check_reads(code, tmp_path, monkeypatch):
    for name in NEEDED:
        if name in code:
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    if "torch.distributed" in code:  # as torchrun sets them, for one process
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "0"}
        for name, value in {**alone, "MASTER_ADDR": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
    exec(compile(code, "docs/loops.md", "exec"), {"__name__": "loop"})
    (run,) = tmp_path.glob("runs/*")
    assert main(["check", str(run)]) == 0


def test_the_loop_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = fences("README.md", "python")
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    yours = {
        "torch": torch,
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": [(torch.randn(16, 8), torch.randint(4, (16,))) for _ in range(30)],
    }
    exec(compile(code, "README.md", "exec"), yours)
    assert main(["check", "runs/mine"]) == 0
    units = symrun.open_run("runs/mine").units()
    assert ((units.measured - units.exact).abs() <= 1e-5 * units.magnitude).all()


def test_the_network_of_the_tutorial_has_the_symmetries_that_it_shows(my_networks, capfd):
    (shown,) = (text for text in fences("docs/tutorial.md", "text") if "proven" in text)
    assert main(["symmetries", "my_networks:network", "--verify"]) == 0
    printed = capfd.readouterr().out
    facts = [row[:43] for row in shown.splitlines()]  # without the two columns of rounding
    assert facts == [row[:43] for row in printed.rstrip().splitlines()]


def test_the_network_of_the_tutorial_is_trained_as_it_says(my_networks):
    small = ["train.steps=4", "data.train_images=128", "data.val_images=64"]
    (line,) = (
        line
        for block in fences("docs/tutorial.md", "sh")
        for line in block.splitlines()
        if "train model=my_networks:network" in line
    )
    words = [word for word in line.split()[1:] if not word.startswith("train.steps=")]
    assert main([*words, *small]) == 0
    assert main(["check", "outputs/mine"]) == 0


def test_the_loop_of_the_tutorial_prints_what_it_shows(my_networks, capsys):
    """Its numbers to two digits, since another processor rounds otherwise."""
    (shown,) = (text for text in fences("docs/tutorial.md", "text") if "projection" in text)
    exec(compile(my_networks, "docs/tutorial.md", "exec"), {"__name__": "loop"})
    printed = capsys.readouterr().out
    numbers = [[float(word) for word in re.findall(r"\d\S*", text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-2, abs=1e-6)
    assert re.findall("[a-z]+", printed) == re.findall("[a-z]+", shown)


def test_no_page_hides_its_code_in_another_fence():
    languages = {"math", "python", "sh", "sql", "text", "yaml"}
    for page in (ROOT / "README.md", *DOCS.rglob("*.md")):
        assert {*re.findall(r"^```(\S+)", page.read_text(encoding="utf-8"), re.M)} <= languages
