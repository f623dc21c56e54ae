"""open_run: the tables of any run in pandas, and one line for what is not there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_small import MADE_SMALL
from run_json import recorded, rewrite

import symrun
from symrun.bench.tables import make_run
from symrun.cli import main
from symrun.launch import compose
from symrun.runs.directory import RunDirectory

PAGE = Path(symrun.__file__).parent.parent / "docs" / "tables.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """In outputs/mine, in three parts."""
    folder = tmp_path_factory.mktemp("made") / "outputs" / "mine"
    config = compose(["model=vgg11_bn", *MADE_SMALL, "train.steps=20", "track.every=4"])
    return make_run(folder, config, records_per_part=3)


def test_tables_are_those_on_the_disk(made):
    run = symrun.open_run(str(made.path))
    assert run.path == made.path and run.info == made.info()
    for name, rows in (("units", run.units()), ("parameters", run.parameters())):
        assert rows.equals(pd.read_parquet(made.table(name)))


def test_units_of_one_symmetry_or_one_group_are_those_rows_of_all(made):
    run = symrun.open_run(made.path)
    every = run.units()
    for symmetry, group in (("scale", None), (None, "features.4"), ("scale", "features.4")):
        wanted = every[(every.symmetry == symmetry) | (symmetry is None)]
        wanted = wanted[(wanted.group == group) | (group is None)].reset_index(drop=True)
        found = run.units(symmetry, group)
        assert len(found) and found.astype(str).equals(wanted.astype(str))


@pytest.mark.parametrize(
    "asked", [("scale", "features.99"), ("translation", "features.0"), ("a\nb", None)]
)
def test_a_group_that_is_not_there_is_one_line(made, asked):
    with pytest.raises(symrun.UsageError, match="has no group .*: it has .*scale features.0, "):
        symrun.open_run(made.path).units(*asked)


def test_what_is_not_there_or_damaged_is_one_line(made, tmp_path):
    with pytest.raises(symrun.UsageError, match="is not a run folder"):
        symrun.open_run(tmp_path)
    run = symrun.open_run(shutil.copytree(made.path, tmp_path / "run"))
    with pytest.raises(symrun.UsageError, match="has no records yet"):
        run.progress()
    part = next((run.path / "tables" / "units").glob("part-*"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(symrun.UsageError, match="units cannot be read: part-0000"):
        run.units()


def test_pandas_and_torch_are_imported_only_when_they_are_needed(made):
    code = f"""
import sys, symrun
run = symrun.open_run({str(made.path)!r})
run.info.model.title, symrun.RunInfo, symrun.UsageError
print([name for name in ("torch", "pandas") if name in sys.modules])
run.units()
print([name for name in ("torch", "pandas") if name in sys.modules])
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["[]", "['pandas']"]


def test_the_example_of_the_page_of_tables_runs(made, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(made.path.parent.parent)
    exec(example, {})
    assert "VGG11 with BN" in capsys.readouterr().out


def test_a_run_of_a_model_and_data_that_this_symrun_does_not_have(
    made, tmp_path, blank_pictures, capfd
):
    """All that reads tables works on it; what would train it says in one line that it cannot."""
    run = RunDirectory(shutil.copytree(made.path, tmp_path / "run"))
    content = recorded(run)
    model = {"name": "resnet18", "title": "ResNet-18", "family": "ResNet-18"}
    config = content["config"] | {"model": {"name": "resnet18"}, "data": {"name": "cifar10"}}
    rewrite(run, model=model, config=config, dataset=content["dataset"] | {"title": "CIFAR-10"})

    opened = symrun.open_run(run.path)
    assert opened.info.model.family == "ResNet-18" and opened.info.model.width is None
    assert opened.units().equals(symrun.open_run(made.path).units())
    folder = str(run.path)
    assert main(["check", folder, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["rows"]
    for figure in ("residual", "fig1"):
        assert main(["plot", figure, folder, "--out", str(tmp_path), "--format", "svg"]) == 0
    assert main(["report", folder, "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "ResNet-18 on CIFAR-10" in page and "VGG11" not in page
    capfd.readouterr()
    assert main(["resume", folder]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"symrun: {run.run_json} has settings that this symrun cannot run: ")
