"""Results come in piece by piece, from several machines: what is missing stays in sight."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from made_small import MADE_SMALL

import symrun
from symrun.bench.tables import make_run
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.runs.directory import RunDirectory

SCRIPT = Path(symrun.__file__).parent.parent / "scripts" / "publish.py"
PUBLISH = runpy.run_path(str(SCRIPT))
PLAN = {"epochs": 100, "runs": {"bn": "with BN", "plain": "without BN", "third": "another"}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """With BN and without, eight epochs each."""
    folder = tmp_path_factory.mktemp("runs")
    small = [*MADE_SMALL, "train.steps=160"]
    configs = {
        "bn": compose(["model=vgg11_bn", *small]),
        "plain": compose(["model=vgg11", *small]),
        "again": compose(["model=vgg11", "seed=1", *small]),
    }
    return {name: make_run(folder / name, config, 5) for name, config in configs.items()}


def publish(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, arguments)])
    PUBLISH["main"]()


def rows(page, name):
    return [line for line in page.read_text().splitlines() if line.startswith(f"| `{name}` |")]


def test_what_is_missing_or_shorter_is_told(runs, tmp_path, monkeypatch):
    folder, page = tmp_path / "full", tmp_path / "README.md"
    folder.mkdir()
    (folder / "expected.json").write_text(json.dumps(PLAN))
    publish(monkeypatch, "--page", tmp_path)
    assert "## full: nothing has been run yet" in page.read_text()
    assert rows(page, "bn") == ["| `bn` | with BN | **missing**, of 100 epochs |"]

    publish(monkeypatch, folder, f"bn={runs['bn'].path}")
    assert rows(page, "bn")[0].endswith("| 80 epochs of 100: **shorter**; float32 on cpu |")
    assert rows(page, "third") == ["| `third` | another | **missing**, of 100 epochs |"]

    (folder / "expected.json").write_text(json.dumps(PLAN | {"epochs": 80}))
    publish(monkeypatch, "--page", tmp_path)
    assert rows(page, "bn")[0].endswith("| 80 epochs; float32 on cpu |")


@pytest.mark.slow
def test_a_run_is_added_beside_those_of_another_machine(runs, tmp_path, monkeypatch):
    folder, page = tmp_path / "full", tmp_path / "README.md"
    publish(monkeypatch, folder, f"bn={runs['bn'].path}")
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="has results of other settings"):
        publish(monkeypatch, folder, f"plain={runs['plain'].path}")
    publish(monkeypatch, "--add", folder, f"plain={runs['plain'].path}")
    after = {path.name for path in folder.glob("*.*")}
    assert {"units_bn.png", "units_plain.png", "residual_plain.pdf"} <= after
    assert (folder / "units_bn.png").read_bytes() == before["units_bn.png"]
    assert rows(page, "bn") and rows(page, "plain")

    # The same run may come again, another of its name may not
    publish(monkeypatch, "--add", folder, f"plain={runs['plain'].path}")
    with pytest.raises(UsageError, match=r"full/plain has results of other settings.*or remove it"):
        publish(monkeypatch, "--add", folder, f"plain={runs['again'].path}")
    assert RunDirectory.open(runs["plain"].path).info().config.seed == 0
