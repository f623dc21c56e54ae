"""A figure depends on the tables alone: not on how the user, or a caller, set matplotlib up."""

import os
import subprocess
import sys

import matplotlib
import pytest

from symrun.figures import plot

HOSTILE = """
backend: nonsense
text.usetex: True
font.family: Comic Neue
font.size: 30
savefig.bbox: tight
savefig.facecolor: red
figure.dpi: 37
axes.prop_cycle: cycler('color', ['k'])
axes.grid: True
lines.linewidth: 9
lines.scale_dashes: False
path.simplify_threshold: 0.9
no.such.setting: 1
"""
FIGURES = ("fig1", "fig4", "fig5", "grid")


@pytest.fixture
def runs(write_run):
    """For each figure, the runs that it draws."""
    bn, plain = write_run(True, name="bn").path, write_run(False, name="plain").path
    return {"fig1": [bn], "fig4": [], "fig5": [bn, plain], "grid": [bn]}


@pytest.fixture
def plot_in(runs, tmp_path):
    """A function that plots all in a process with these variables, as bytes; it must be silent."""

    def run(name, **variables):
        out = tmp_path / name
        script = "import sys; from symrun.cli import main\n"
        for figure in FIGURES:
            words = ["plot", figure, *map(str, runs[figure]), "--out", str(out), "--format", "png"]
            script += f"assert main({words}) == 0\n"
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
        return [(out / f"{figure}.png").read_bytes() for figure in FIGURES]

    return run


@pytest.mark.slow
def test_the_users_matplotlib_changes_no_byte_and_is_not_heard_of(plot_in, tmp_path, monkeypatch):
    config = tmp_path / "config"
    config.mkdir()
    (config / "matplotlibrc").write_text(HOSTILE)
    (tmp_path / "file").write_text("")
    expected = plot_in("expected")
    notebook = "module://matplotlib_inline.backend_inline"
    rc = str(config / "matplotlibrc")
    assert plot_in("variable", MPLBACKEND="nonsense", MATPLOTLIBRC=rc) == expected
    assert plot_in("folder", MPLBACKEND=notebook, MPLCONFIGDIR=str(config)) == expected
    # A file where the folder should be cannot be written to, not even by root
    assert plot_in("no folder", MPLCONFIGDIR=str(tmp_path / "file"), HOME="/nowhere") == expected
    monkeypatch.chdir(config)  # where matplotlib looks first
    assert plot_in("working") == expected


def test_a_callers_settings_and_backend_stay_as_they_were(runs, tmp_path):
    plain = plot("fig1", runs["fig1"], tmp_path / "plain", ["png"])[0].read_bytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "savefig.bbox": "tight", "font.size": 30}):
        before, backend = matplotlib.rcParams.copy(), matplotlib.get_backend(auto_select=False)
        styled = plot("fig1", runs["fig1"], tmp_path / "styled", ["png"])[0].read_bytes()
        assert matplotlib.get_backend(auto_select=False) == backend
        # One by one, since to read the backend is to choose it
        assert all(matplotlib.rcParams[key] == before[key] for key in before if key != "backend")
    assert styled == plain
