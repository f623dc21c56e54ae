"""Saving: each format shows the same layout, and drawing loads no more than it needs."""

import subprocess
import sys

import pytest

from symrun.figures import plot

HEAVY = {"torch", "scipy", "pandas", "hydra"}
"""Each takes a tenth of a second or more to import."""


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_a_format_is_the_same_alone_and_after_others(write_run, tmp_path, kind):
    run = write_run(batch_norm=True).path
    (alone,) = plot("fig1", [run], tmp_path / "alone", [kind])
    *_, last = plot("fig1", [run], tmp_path / "all", ["svg", "pdf", "png", kind])
    after = next((tmp_path / "all").glob(f"*.{kind}"))
    assert alone.read_bytes() == after.read_bytes(), last


@pytest.mark.parametrize("figure", ["fig1", "fig5"])
def test_a_figure_of_runs_imports_neither_torch_nor_scipy_nor_pandas(write_run, figure):
    runs = [write_run(batch_norm=True, name="bn").path]
    if figure == "fig5":
        runs.append(write_run(batch_norm=False, name="plain").path)
    script = (
        "import sys; from symrun.cli import main; "
        "assert main(sys.argv[1:]) == 0; print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "plot", figure, *map(str, runs)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not HEAVY & set(done.stderr.split())
