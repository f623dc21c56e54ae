"""Every Python block of docs/loops.md runs as it stands, where the packages it needs are there, and
so does the loop in the README."""

import re
from pathlib import Path

import pytest
import torch

import symrun
from symrun.cli import main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "loops.md").read_text()
NEEDED = ("accelerate", "lightning", "transformers", "tensorboard")


def blocks():
    for title, text in re.findall(r"^#+ (.+)\n((?:(?!^#).*\n)*)", PAGE, re.M):
        for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            yield pytest.param(code, id=title)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("code", list(blocks()))
def test_a_block_runs_and_leaves_a_run_that_check_reads(code, tmp_path, monkeypatch):
    for name in NEEDED:
        if name in code:
            pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/loops.md", "exec"), {"__name__": "loop"})
    (run,) = tmp_path.glob("runs/*")
    assert main(["check", str(run)]) == 0


def test_the_loop_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = re.findall(
        r"^## Your own loop\n\n```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )
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
