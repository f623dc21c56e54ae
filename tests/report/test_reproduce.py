"""The reproduction from end to end at a tiny size, twice; and the page of what was published."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import symrun
from symrun.errors import UsageError
from symrun.report import Evidence

ROOT = Path(symrun.__file__).parent.parent
SCRIPTS = ROOT / "scripts"
PAGE = runpy.run_path(str(SCRIPTS / "publish.py"))
TINY = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model.width=0.0625"),
    *("train.batch_size=8", "train.steps=4", "track.every=2", "device=cpu"),
]


def reproduce(folder, *settings, **variables):
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", **variables}
    command = [str(SCRIPTS / "reproduce.sh"), *settings]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_from_end_to_end_and_again(tmp_path):
    first = reproduce(tmp_path, *TINY, PRECISION="float64")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("4 updates of") == 3 and "in all about" in first.stdout
    folder = tmp_path / "outputs" / "results" / "reproduce_float64"
    told = {name: Evidence.load(folder / name) for name in ("fig1", "fig5_bn", "fig5_plain")}
    settings = {
        name: (one.setup["model"]["name"], one.setup["config"]["optim"]["weight_decay"])
        for name, one in told.items()
    }
    assert settings == {
        "fig1": ("vgg16_bn", 1e-4),
        "fig5_bn": ("vgg16_bn", 0.0),
        "fig5_plain": ("vgg16", 0.0),
    }
    assert {one.setup["precision"] for one in told.values()} == {"float64"}
    for name in ("fig1", "fig5", "progress", "units_fig1", "residual_fig5_plain"):
        assert (folder / f"{name}.png").stat().st_size > 0, name
        assert (folder / f"{name}.pdf").stat().st_size > 0, name
    assert (tmp_path / "outputs/results/reproduce_float64.html").stat().st_size > 0
    page = (tmp_path / "outputs/results/README.md").read_text()
    assert "reproduce_float64: synthetic textures, VGG16 at width 1/16: not the paper's" in page
    assert str(tmp_path) not in page + "".join(
        path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".csv")
    )

    again = reproduce(tmp_path, *TINY, PRECISION="float64")
    assert again.returncode == 0 and again.stdout.count("finished already") == 3
    assert len(list((tmp_path / "outputs").glob("*/*/run.json"))) == 3
    assert (tmp_path / "outputs/results/README.md").read_text() == page


def test_a_mistake_ends_it_before_anything_is_trained(tmp_path):
    wrong = reproduce(tmp_path, "optim.lr=-1")
    assert wrong.returncode != 0 and "optim.lr must be > 0" in wrong.stderr
    assert "Traceback" not in wrong.stderr and not (tmp_path / "outputs").exists()


def test_what_is_published_is_what_its_files_say():
    """The page in docs/results was written by the script, from the files beside it."""
    results = ROOT / "docs" / "results"
    assert (results / "README.md").read_text(encoding="utf-8") == PAGE["page"](results)


def test_nothing_published_is_large_or_names_a_machine():
    for path in (ROOT / "docs" / "results").rglob("*"):
        if path.is_file():
            assert path.stat().st_size <= PAGE["LARGEST_BYTES"], path
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
            assert "/tmp" not in text and "/home" not in text, path
            json.loads(text)


def test_a_file_too_large_for_git_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(PAGE["publish"].__globals__, "LARGEST_BYTES", 10)
    (tmp_path / "large.csv").write_text("x" * 11)
    with pytest.raises(UsageError, match="more than git should hold"):
        PAGE["publish"](tmp_path, {})
