"""The notebook runs as a program, which needs marimo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import symrun

ROOT = Path(symrun.__file__).parent.parent


def test_the_notebook_runs_and_shows_the_laws(tmp_path):
    pytest.importorskip("marimo")
    command = [sys.executable, ROOT / "docs" / "notebook" / "any_network.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 - R^2" in done.stdout and "rescale" in done.stdout
    assert list(tmp_path.glob("runs/resnet18/figures/symmetries.png"))
