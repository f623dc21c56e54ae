"""docs/comparison.md shows what scripts/comparison.py measured of other tools."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import symrun
from symrun.errors import UsageError

ROOT = Path(symrun.__file__).parent.parent
PLAIN = {"start_seconds": 0.0, "step_seconds": [0.1, 0.2, 0.4], "end_seconds": 0.0}


@pytest.fixture(scope="module")
def script():
    """The module, which imports the scripts beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("comparison")


@pytest.fixture
def docs(script, tmp_path):
    text = f"# Before\n\n{script.BEGIN}\n{script.END}\n\nAfter.\n"
    (tmp_path / "comparison.md").write_text(text)
    return tmp_path


def run(script, monkeypatch, docs, *arguments):
    monkeypatch.setattr(sys, "argv", ["comparison.py", "--docs", str(docs), *arguments])
    script.main()


def test_the_page_shows_what_was_measured_and_lacks_no_tool(script):
    stored = json.loads((ROOT / "docs" / "comparison.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert f"{script.BEGIN}\n\n{script.section(stored)}\n{script.END}\n" in page
    assert [float(momentum) for momentum in stored["runs"]] == list(script.MOMENTA)
    for tools in stored["runs"].values():
        assert list(tools) == list(script.TITLES)
        for name in ("plain", "symrun", "original", "tensorboard", "cockpit"):
            assert len(tools[name]["step_seconds"]) == stored["rounds"]


def test_page_writes_between_its_lines_alone(script, docs, monkeypatch):
    stored = json.loads((ROOT / "docs" / "comparison.json").read_text(encoding="utf-8"))
    slow = PLAIN | {"step_seconds": [0.15, 0.3, 0.6], "records": 4, "bytes": 6e6}
    stored["runs"] = {"0.9": {"plain": PLAIN, "symrun": slow | {"once_bytes": 5000}}}
    (docs / "comparison.json").write_text(json.dumps(stored))
    run(script, monkeypatch, docs, "--page")
    page = (docs / "comparison.md").read_text()
    assert page.startswith("# Before\n") and page.endswith("\nAfter.\n")
    assert "\nMomentum 0.9:\n" in page
    cells = "300 ms | 1.500 (1.500 to 1.500) | 0.0 s | 4 | 1.5 MB, and 5.0 kB once |\n"
    assert cells in page
    run(script, monkeypatch, docs, "--page")
    assert (docs / "comparison.md").read_text() == page


def test_quartiles_of_few_rounds_lie_within_what_was_measured(script):
    assert script.ratios([1.0, 2.0], [1.0, 1.0]) == [1.25, 1.5, 1.75]


def test_ways_are_measured_on_the_same_work(script, tmp_path):
    """`symrun` writes what its own reader counts; both end with the same weights, bit for bit."""
    torch.manual_seed(0)
    batches = [(torch.randn(4, 8), torch.randint(3, (4,))) for _ in range(2)]

    def network():
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    loop = script.Loop(network, partial(script.sgd, 0.9), batches, tmp_path)
    ways = {"plain": loop.plain, "symrun": partial(loop.symrun, "diagonal")}
    found = script.measured(ways, tmp_path, rounds=2)
    assert all(len(one["step_seconds"]) == 2 for one in found.values())
    records = 2 + script.WARM_UP + 1  # the last one is of the final weights
    assert found["symrun"]["records"] == records
    tables = (tmp_path / "diagonal" / "tables").rglob("*.parquet")
    assert found["symrun"]["bytes"] == sum(path.stat().st_size for path in tables)
    assert len(loop.models) == 2 and script.same_weights(loop.models)
    assert not script.same_weights([*loop.models, loop.model()])


def test_what_cannot_be_measured_is_told(script, docs, monkeypatch, tmp_path, capsys):
    before = (docs / "comparison.md").read_text()
    with pytest.raises(UsageError, match="is no checkout of github.com/danielkunin"):
        run(script, monkeypatch, docs, "--original", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="must hold train/"):
        script.batches(tmp_path, 2)
    for arguments, message in (
        ([], "--original DIR"),
        (["--original", "DIR", "--rounds", "1"], "--rounds and --batch must be >= 2"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(script, monkeypatch, docs, *arguments)
        assert message in capsys.readouterr().err
    assert (docs / "comparison.md").read_text() == before
    with pytest.raises(UsageError, match="holds no comparison.json that is whole"):
        run(script, monkeypatch, docs, "--page")
    (docs / "comparison.md").write_text("# Mine\n")
    with pytest.raises(UsageError, match="lacks the lines between which this writes"):
        run(script, monkeypatch, docs, "--page")
