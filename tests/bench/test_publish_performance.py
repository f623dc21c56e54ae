"""What docs/performance.md says of GPUs is what files say that GPUs have written."""

import json
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

import symrun
from symrun.bench.clock import Cost
from symrun.bench.launches import Launches
from symrun.bench.parts_report import Kind, Part, StepReport, as_json
from symrun.bench.tracking_cost import StepCost
from symrun.errors import UsageError

ROOT = Path(symrun.__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "publish_performance.py"))
STEP = StepCost(
    model="vgg16_bn", width=1.0, batch_size=256, every=20, precision="bf16", cuda_graph=True,
    compile=False, device="A GPU", threads=16, torch="2.11", units=11521, pairs=6,
    untracked_seconds=6e-3, tracked_seconds=6.06e-3, ratio=1.01, ratio_quartiles=(1.009, 1.012),
    ratio_of_sums=1.01, tracker_seconds=1e-4, images_per_second=42244.0, gflop=1925.0,
    floor_seconds=4e-3, record_bytes=212e3, first_update_seconds=2.0,
)  # fmt: skip
PARTS = StepReport(
    "vgg16_bn", 1.0, 256, 20, "bf16", 0.0, "A GPU", 16, "2.11", 9, "KernelSums",
    (
        Part(Kind.part, "forward", Cost(2e-3, 1e-3, 2**30), Launches(100, 1.9e-3)),
        Part(Kind.part, "laws", failed="out of luck"),
    ),
    ("no profile: none",),
)  # fmt: skip


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "docs").mkdir()
    begin, end = SCRIPT["BEGIN"], SCRIPT["END"]
    (tmp_path / "docs" / "performance.md").write_text(f"# Before\n\n{begin}\n{end}\n\nAfter.\n")
    return tmp_path / "docs"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    slow = asdict(STEP) | {"precision": "tf32", "tracked_seconds": 0.0125, "ratio": 1.03}
    report = {"steps": [slow, asdict(STEP)], "help_seconds": 0.1, "tables": []}
    (folder / "bench_graph.json").write_text(json.dumps(report))
    (folder / "parts.json").write_text(as_json([PARTS]))
    done = {"smoke": {"exit_code": 0, "seconds": 9}, "tests": {"exit_code": 1, "seconds": 99}}
    (folder / "box.json").write_text(json.dumps(done))
    (folder / "tests.json").write_text(
        json.dumps({"passed": 80, "failed": ["a::b"], "collected": 102})
    )
    (folder / "other.json").write_text("{}")
    return folder


def publish(monkeypatch, docs, *arguments):
    monkeypatch.setattr(sys, "argv", ["publish_performance.py", "--docs", str(docs), *arguments])
    SCRIPT["main"]()
    return (docs / "performance.md").read_text()


def test_the_page_says_what_a_gpu_has_measured(docs, results, monkeypatch):
    assert SCRIPT["NONE"] in publish(monkeypatch, docs)
    page = publish(monkeypatch, docs, str(results), "a-gpu")
    assert page.startswith("# Before\n") and page.endswith("\nAfter.\n")
    assert "### A GPU, torch 2.11, 16 CPU threads" in page and SCRIPT["NONE"] not in page
    fast, slow = (
        [cell.strip() for cell in line.split("|")]
        for line in page.splitlines()
        if line.startswith("| vgg16_bn | 1 | 256 |")
    )
    assert fast[4:12] == [
        *("bf16", "graph", "6 ms", "6.06 ms", "6.5 ms: yes"),
        *("1.0100 (1.009 to 1.012)", "1.02: yes", "42,244"),
    ]
    assert slow[7:11] == ["12.5 ms", "12 ms: no", "1.0300 (1.009 to 1.012)", "1.02: no"]
    assert "| forward | 2 ms | 1 ms | 100 | 1,024 MiB |" in page
    assert "| laws | failed: out of luck | - | - | - |" in page
    assert "no profile: none" in page
    assert "Of 102 tests marked `gpu`, 80 passed and 1 failed" in page and "`tests` (1)" in page
    assert not (docs / "performance" / "a-gpu" / "other.json").exists()
    assert publish(monkeypatch, docs) == page


def test_a_later_box_adds_to_what_an_earlier_one_measured(docs, results, monkeypatch):
    publish(monkeypatch, docs, str(results), "a-gpu")
    for name in ("parts", "tests", "bench_graph"):
        (results / f"{name}.json").unlink()
    faster = asdict(STEP) | {"cuda_graph": False, "compile": True, "tracked_seconds": 5e-3}
    (results / "bench_compile.json").write_text(json.dumps({"steps": [faster]}))
    (results / "box.json").write_text(json.dumps({"fig1": {"exit_code": 0, "seconds": 9}}))
    page = publish(monkeypatch, docs, str(results), "a-gpu")
    for earlier in ("out of luck", "6.06 ms", "80 passed and 1 failed", "`tests` (1)"):
        assert earlier in page
    assert "| compile | 6 ms | 5 ms |" in page and "`fig1`" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "parts.json is damaged"), ('{"configurations": [{}]}', "holds something else than")],
)
def test_damage_changes_nothing(docs, results, monkeypatch, content, message):
    before = publish(monkeypatch, docs, str(results), "a-gpu")
    (results / "parts.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        publish(monkeypatch, docs, str(results), "a-gpu")
    assert publish(monkeypatch, docs) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a-gpu"], "nowhere holds no bench_"),
        (["nowhere"], "MACHINE must be a name such as nvidia-h100, got nothing"),
        (["nowhere", "../up"], "MACHINE must be a name such as nvidia-h100, got ../up"),
    ],
)
def test_what_cannot_be_published_is_told(docs, monkeypatch, arguments, message):
    before = (docs / "performance.md").read_text()
    with pytest.raises(UsageError, match=message):
        publish(monkeypatch, docs, *arguments)
    assert (docs / "performance.md").read_text() == before


def test_a_page_without_a_place_for_it_stays(docs, monkeypatch):
    (docs / "performance.md").write_text("# Mine\n")
    with pytest.raises(UsageError, match="lacks the lines between which this writes"):
        publish(monkeypatch, docs)
    assert (docs / "performance.md").read_text() == "# Mine\n"


def test_the_page_of_this_checkout_is_what_its_files_say():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    written = SCRIPT["section"](ROOT / "docs" / "performance")
    assert f"{SCRIPT['BEGIN']}\n\n{written}\n{SCRIPT['END']}\n" in page
