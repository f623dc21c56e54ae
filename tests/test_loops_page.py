"""Every Python block of docs/loops.md runs as it stands, where the packages it needs are there."""

import importlib.util
import re
from pathlib import Path

import pytest

from symrun.cli import main

PAGE = (Path(__file__).parent.parent / "docs" / "loops.md").read_text()
NEEDED = ("accelerate", "lightning", "transformers", "tensorboard")


def blocks():
    for title, text in re.findall(r"^#+ (.+)\n((?:(?!^#).*\n)*)", PAGE, re.M):
        for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            yield pytest.param(code, id=title)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("code", list(blocks()))
def test_a_block_runs_and_leaves_a_run_that_check_reads(code, tmp_path, monkeypatch):
    for name in NEEDED:
        if name in code and importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/loops.md", "exec"), {"__name__": "loop"})
    (run,) = tmp_path.glob("runs/*")
    assert main(["check", str(run)]) == 0
