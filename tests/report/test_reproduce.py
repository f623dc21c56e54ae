"""The reproduction from end to end at a tiny size, twice; and the page of what was published."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import symrun
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.report import Evidence

ROOT = Path(symrun.__file__).parent.parent
SCRIPTS = ROOT / "scripts"
PAGE = runpy.run_path(str(SCRIPTS / "publish.py"))
ESTIMATE = runpy.run_path(str(SCRIPTS / "estimate.py"))
TINY = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model.width=0.0625"),
    *("train.batch_size=8", "track.every=2"),
]


def reproduce(folder, *settings, **variables):
    environment = os.environ | {"SYMRUN_PYTHON": sys.executable, **variables}
    command = [str(SCRIPTS / "reproduce.sh"), *settings]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


BLANK = """#!{python}
import runpy, sys
from PIL import Image
program, *arguments = sys.argv[1:]
if "report" in arguments or program.endswith("publish.py"):
    from symrun.report import page
    def save(figure, out, name, formats):
        paths = [out / f"{{name}}.{{kind}}" for kind in formats]
        for path in paths:
            Image.new("RGB", (1, 1)).save(path)
        return paths
    page.save = save
if program == "-m":
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")
"""
"""A Python whose reports have the right pictures without their content: to lay out and write those
of three runs of VGG16 takes longer than all else. make stress takes them whole."""


@pytest.mark.parametrize("twice", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_from_end_to_end_and_again(tmp_path, twice):
    variables = {"PRECISION": "float64", "EPOCHS": "1", "OVER": "reproduce_cpu"}
    if not twice:
        python = tmp_path / "python"
        python.write_text(BLANK.format(python=sys.executable))
        python.chmod(0o755)
        variables["SYMRUN_PYTHON"] = str(python)
    first = reproduce(tmp_path, *TINY, **variables)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("12,500 updates of") == 3 and "in all about" in first.stdout
    name = "reproduce_cpu_float64_1_epochs"
    folder = tmp_path / "outputs" / "results" / name
    told = {name: Evidence.load(folder / name) for name in ("fig1", "fig5_bn", "fig5_plain")}
    settings = {
        name: (one.setup.model.name, one.setup.config.optim.weight_decay)
        for name, one in told.items()
    }
    assert settings == {
        "fig1": ("vgg16_bn", 1e-4),
        "fig5_bn": ("vgg16_bn", 0.0),
        "fig5_plain": ("vgg16", 0.0),
    }
    assert {one.setup.precision.value for one in told.values()} == {"float64"}
    assert {one.setup.last_step for one in told.values()} == {5}
    for kind in ("fig1", "fig5", "progress", "units_fig1", "residual_fig5_plain"):
        assert (folder / f"{kind}.png").stat().st_size > 0, kind
        assert (folder / f"{kind}.pdf").stat().st_size > 0, kind
    assert (tmp_path / f"outputs/results/{name}.html").stat().st_size > 0
    page = (tmp_path / "outputs/results/README.md").read_text()
    assert f"{name}: synthetic textures, VGG16 at width 1/16: not the paper's setting" in page
    published = [path for path in folder.rglob("*") if path.suffix in (".json", ".csv")]
    assert str(tmp_path) not in page + "".join(path.read_text() for path in published)

    if twice:
        again = reproduce(tmp_path, *TINY, **variables)
        assert again.returncode == 0, again.stderr
        assert again.stdout.count("finished already") == 3 and "nothing is left" in again.stdout
        assert len(list((tmp_path / "outputs").glob("*/*/run.json"))) == 3
        assert (tmp_path / "outputs/results/README.md").read_text() == page

    # Other runs do not take the place of these unasked
    other = [f"{folder}", f"more={next((tmp_path / 'outputs').glob('reproduce_cpu/*'))}"]
    refused = subprocess.run(
        [sys.executable, str(SCRIPTS / "publish.py"), *other],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2 and "has results of other settings" in refused.stderr
    assert (tmp_path / "outputs/results/README.md").read_text() == page


@pytest.mark.parametrize(
    ("settings", "variables", "message"),
    [
        (["train.steps=4"], {"EPOCHS": "2"}, "train.epochs=2 has no effect where train.steps=4"),
        ([], {"PRECISION": "float16"}, "precision"),
    ],
)
def test_a_mistake_ends_it_before_anything_is_trained(tmp_path, settings, variables, message):
    wrong = reproduce(tmp_path, *settings, **variables)
    assert wrong.returncode == 2 and message in wrong.stderr
    assert "Traceback" not in wrong.stderr and not (tmp_path / "outputs").exists()


def test_an_estimate_counts_what_is_left(tmp_path, monkeypatch, capsys):
    small = ["data=tiny_imagenet", "model.width=0.25", "train.batch_size=1000", "train.epochs=3"]
    config = compose(small)
    monkeypatch.setitem(ESTIMATE["estimate"].__globals__, "timed", lambda *_: (2.0, 0.5))
    whole, rest = (ESTIMATE["estimate"](config, done) for done in (0, 200))
    assert (whole.updates, rest.updates) == (300, 100)
    assert (whole.seconds, rest.seconds) == (600 + 3 * 5 * 0.5, 200 + 5 * 0.5)
    assert whole.bytes == rest.bytes > 3 * 1.1e6 * 4  # checkpoints of a million weights
    assert list(ESTIMATE["shortages"]({tmp_path / "not" / "there": 1.0})) == []
    (line,) = ESTIMATE["shortages"]({tmp_path: 1e18, tmp_path / "deeper": 1.0})
    assert line.startswith(f"{tmp_path} may lack the room")
    assert "MB are free" in capsys.readouterr().out


def test_what_is_published_is_what_its_files_say():
    """The page in docs/results was written by the script, from the files beside it."""
    results = ROOT / "docs" / "results"
    assert (results / "README.md").read_text(encoding="utf-8") == PAGE["page"](results)


def test_nothing_published_is_large_or_names_a_machine():
    paths = [path for path in (ROOT / "docs" / "results").rglob("*") if path.is_file()]
    assert len(paths) > 20
    for path in paths:
        assert path.stat().st_size <= PAGE["LARGEST_BYTES"], path
        if path.suffix not in (".png", ".pdf"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"[\s\"=](/\w+/|~/|[A-Z]:\\)", text), path


def test_a_page_of_somebody_elses_stays(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# Mine\n")
    monkeypatch.setattr(sys, "argv", ["publish.py", "--page", str(tmp_path)])
    with pytest.raises(UsageError, match="is another page"):
        PAGE["main"]()
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_a_file_too_large_for_git_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(PAGE["publish"].__globals__, "LARGEST_BYTES", 10)
    (tmp_path / "large.csv").write_text("x" * 11)
    with pytest.raises(UsageError, match="more than git should hold"):
        PAGE["publish"](tmp_path, {})
