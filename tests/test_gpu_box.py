"""A lent GPU is put to use whatever fails, whatever is missing, whenever the time is up."""

import importlib.util
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import symrun

ROOT = Path(symrun.__file__).parent.parent
PARTS = [
    *("machine", "smoke", "tests", "bench_graph", "bench_both", "parts", "fig1", "fig5_plain"),
    *("bench_eager", "fig5_bn", "bench_tf32", "bench_compile"),
]

STAND_IN = r"""
folder=$1 fails=$2 command=$3; shift 3
echo "$command $*" >> "$folder/calls.txt"
graph=false compiled=false tenths=90
for word in "$@"; do case $word in
    train.cuda_graph=true) graph=true tenths=70;;
    train.compile=true) compiled=true tenths=$((tenths - 15));;
    run.dir=*) run=${word#run.dir=};;
    *.json) [ "$before" = --out ] && out=$word;;
esac; before=$word; done
case $command in
    train) mkdir -p "$run/tables/units"
        touch "$run/tables/units/part-000000.parquet" "$run/run.json";;
    thin) mkdir -p "$2"; touch "$2/run.json";;
    bench) printf '{"steps": [{"precision": "bf16", "cuda_graph": %s, "compile": %s, ' \
        $graph $compiled > "$out"; printf '"tracked_seconds": 0.00%s}]}' $tenths >> "$out";;
esac
case "$command $*" in *"${fails:-nothing}"*) exit 1;; esac
"""
"""In place of symrun: notes each call, leaves what it would, and fails where it is told to."""

BOTH = ["train.cuda_graph=true", "train.compile=true"]
TESTS = [
    "8 workers [5 items]",
    "tests/test_gpu.py::test_batches PASSED [ 10%]",
    "[gw0] [ 30%] PASSED tests/test_gpu.py::test_no_step_waits[train.cuda_graph=true-x]",
    "[gw1] [ 40%] PASSED tests/test_gpu.py::test_no_step_waits[train.compile=true-x]",
    "tests/test_gpu.py::test_weights[train.compile=true,train.cuda_graph=true-x] PASSED [ 99%]",
]


@pytest.fixture
def gpu_box(monkeypatch):
    """The script, as a module of its own."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("gpu_box", ROOT / "scripts" / "gpu_box.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_box", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA_WAIT", 0.1)
    monkeypatch.setattr(module, "gpu_tests", lambda: ["printf", "%s\\n", *TESTS])
    monkeypatch.setattr(module, "PUBLISH", ["true"])
    return module


def box_in(gpu_box, folder, fails="", seconds=10_000.0, **environment):
    end = time.time() + seconds
    (folder / "calls.txt").touch()
    (folder / "symrun.sh").write_text(STAND_IN)
    return gpu_box.Box(
        folder / "box" / "results",
        folder / "box" / "runs",
        lambda: end,
        {"DATA_CACHE": str(folder / "cache"), **environment},
        ["sh", str(folder / "symrun.sh"), str(folder), fails],
        folder / "docs",
    )


def calls(folder, *words):
    lines = (folder / "calls.txt").read_text().splitlines()
    return [line for line in lines if all(word in line.split() for word in words)]


def done(box):
    return json.loads((box.results / "box.json").read_text())


def test_everything_once_in_order_of_worth_with_what_is_fastest(gpu_box, tmp_path):
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md"), SMALL="seed=3")
    gpu_box.work(box)
    assert list(done(box)) == PARTS
    assert [name for name, part in done(box).items() if part["exit_code"]] == ["machine"]
    for name in gpu_box.RUNS:
        (line,) = calls(tmp_path, "train", f"experiment={name}", "precision=bf16", "seed=3")
        assert "train.cuda_graph=true train.compile=true" in line
        assert "train.epochs=100 " in line and f"data.cache={tmp_path}/cache" in line
        with tarfile.open(tmp_path / "box" / f"{name}.tar") as tar:
            assert f"{name}/run.json" in tar.getnames()
        assert (box.results / f"check_{name}.json").exists()
    assert "nothing is left to do" in (box.results / "timeline.txt").read_text()

    told = json.loads((box.results / "tests.json").read_text())
    assert told == {"passed": 4, "failed": [], "collected": 5}

    before = calls(tmp_path)
    gpu_box.work(box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md")))
    assert calls(tmp_path) == before


@pytest.mark.parametrize("number", range(len(PARTS) + 1))
def test_the_time_is_up_before_any_part(gpu_box, tmp_path, number):
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md"))
    end = time.time() + 10_000
    box.deadline = lambda: end if len(box.done) < number else time.time() + 4
    gpu_box.work(box)
    assert list(box.done) == PARTS[:number]
    assert not number or list(done(box)) == PARTS[:number]
    timeline = (box.results / "timeline.txt").read_text()
    for name in PARTS[number:]:
        assert f"{name}: left out, it needs" in timeline


@pytest.mark.parametrize("fails", ["smoke", *PARTS[3:]])
def test_what_fails_leaves_the_others_alone(gpu_box, tmp_path, fails):
    word = f"experiment={fails}" if fails.startswith("fig") else fails
    word = "--parts" if fails == "parts" else word
    box = box_in(gpu_box, tmp_path, fails=word, DATA_READY=str(ROOT / "README.md"))
    gpu_box.work(box)
    failed = [name for name, part in done(box).items() if part["exit_code"]]
    assert list(done(box)) == PARTS and failed == ["machine", fails]


@pytest.mark.parametrize("which", ["check", "thin"])
def test_evidence_that_fails_is_told(gpu_box, tmp_path, which):
    box = box_in(gpu_box, tmp_path, fails=f"{which} ", DATA_READY=str(ROOT / "README.md"))
    gpu_box.work(box)
    assert list(done(box)) == PARTS
    timeline = (box.results / "timeline.txt").read_text()
    assert timeline.count(f"{which} failed with exit code 1") >= 3


def test_without_data_all_but_the_runs_is_done(gpu_box, tmp_path):
    box = box_in(gpu_box, tmp_path, DATA_READY=str(tmp_path / "never"))
    gpu_box.work(box)
    assert list(done(box)) == [name for name in PARTS if name not in gpu_box.RUNS]
    assert (box.results / "timeline.txt").read_text().count("never is not there") == 5
    assert not list(box.results.parent.glob("*.tar"))


def test_data_that_come_late_are_used_for_every_run(gpu_box, tmp_path, monkeypatch):
    ready, bench = tmp_path / "ready", gpu_box.bench

    def measured(box, name, *details):
        if name == "bench_eager":
            ready.touch()
        bench(box, name, *details)

    monkeypatch.setattr(gpu_box, "bench", measured)
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ready))
    gpu_box.work(box)
    assert set(done(box)) == set(PARTS) and len(calls(tmp_path, "train")) == 4


def test_without_anybody_who_brings_data_it_prepares_them(gpu_box, tmp_path):
    gpu_box.work(box_in(gpu_box, tmp_path, DATA_ROOT="/photographs"))
    assert len(calls(tmp_path, "data", "prepare", "data.root=/photographs")) == 1
    assert len(calls(tmp_path, "train", "data.root=/photographs")) == 3


def test_what_an_earlier_box_brought_is_not_done_again(gpu_box, tmp_path):
    for name, epochs in {"fig1": 100, "fig5_plain": 40}.items():
        folder = tmp_path / "docs" / "results" / "full" / name
        folder.mkdir(parents=True)
        setup = {"last_step": epochs * 391, "steps_per_epoch": 391}
        (folder / "setup.json").write_text(json.dumps(setup))
    box = box_in(gpu_box, tmp_path, SKIP="smoke tests parts", DATA_READY=str(ROOT / "README.md"))
    gpu_box.work(box)
    left_out = ("fig1", "smoke", "tests", "parts")
    assert list(done(box)) == [
        *("machine", "bench_graph", "bench_both", "fig5_plain", "fig5_bn"),
        *("bench_eager", "bench_tf32", "bench_compile"),
    ]
    assert not set(left_out) & set(done(box))
    assert len(calls(tmp_path, "train", "train.cuda_graph=true", "train.compile=true")) == 2


@pytest.mark.parametrize(
    ("lines", "settings"),
    [
        ([], []),
        (TESTS, BOTH),
        (TESTS[:4], ["train.cuda_graph=true"]),
        ([*TESTS, "FAILED tests/a.py::test_graphs_train - no"], []),
        ([*TESTS, "tests/a.py::test[train.compile=true] ERROR [ 1%]"], ["train.cuda_graph=true"]),
        (
            [
                *TESTS,
                "[gw0] [ 1%] FAILED tests/a.py::test[train.compile=true,train.cuda_graph=true]",
            ],
            ["train.cuda_graph=true"],
        ),
        ([*TESTS, "FAILED tests/a.py::test_graphs[optim.momentum=0.9] - not as the runs"], BOTH),
        (
            [*TESTS, "FAILED tests/a.py::test_something_else"],
            BOTH,
        ),
    ],
)
def test_only_what_tests_have_passed_is_taken(gpu_box, tmp_path, lines, settings):
    gpu_box.gpu_tests = lambda: ["printf", "%s\\n", *lines]
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md"), SKIP="bench_compile")
    gpu_box.work(box)
    assert gpu_box.fastest(box)[1] == settings


@pytest.mark.parametrize(
    ("failed", "settings"),
    [
        ([], BOTH),
        (["a::test[train.compile=true]"], ["train.cuda_graph=true"]),
    ],
)
def test_a_later_box_relies_on_what_earlier_ones_measured(gpu_box, tmp_path, failed, settings):
    machine = tmp_path / "docs" / "performance" / "a-gpu"
    machine.mkdir(parents=True)
    (machine / "tests.json").write_text(json.dumps({"passed": 3, "failed": failed}))
    ways = {(False, False): 0.009, (True, False): 0.008, (True, True): 0.005}
    for number, ((graph, compiled), seconds) in enumerate(ways.items()):
        step = {"precision": "bf16", "cuda_graph": graph, "compile": compiled}
        report = {"steps": [step | {"tracked_seconds": seconds}]}
        (machine / f"bench_{number}.json").write_text(json.dumps(report))
    box = box_in(gpu_box, tmp_path, SKIP="tests")
    assert gpu_box.fastest(box) == (0.005 if len(settings) == 2 else 0.008, settings)


@pytest.mark.parametrize(
    ("seconds", "budget", "epochs"), [(0.006, 300, 100), (0.006, 132, 48), (9.0, 300, 1)]
)
def test_whole_epochs_that_fit(gpu_box, tmp_path, seconds, budget, epochs):
    """391 updates of 6.24 ms and 0.05 s are 2.49 s, and a run needs 12 s to start."""
    box = box_in(gpu_box, tmp_path)
    assert gpu_box.whole_epochs(box, budget, seconds, "fig1") == epochs


def test_a_run_that_broke_off_goes_on(gpu_box, tmp_path):
    folder = tmp_path / "box" / "runs" / "fig1"
    (folder / "tables" / "units").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    gpu_box.work(box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md")))
    assert calls(tmp_path, "resume") == [f"resume {folder}"]
    assert not calls(tmp_path, "experiment=fig1")


def test_a_run_that_was_cut_off_goes_on_if_time_is_left(gpu_box, tmp_path, monkeypatch):
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md"))
    run, cut = gpu_box.run, []

    def cut_off_once(commands, limit, log, *details, **more):
        code = run(commands, limit, log, *details, **more)
        if log.name == "fig5_plain.txt" and not cut:
            cut.append(log)
            return gpu_box.CUT_OFF
        return code

    monkeypatch.setattr(gpu_box, "run", cut_off_once)
    gpu_box.work(box)
    assert calls(tmp_path, "resume") == [f"resume {box.runs / 'fig5_plain'}"]
    assert done(box)["fig5_plain"]["exit_code"] == 0
    assert len(calls(tmp_path, "thin", str(box.runs / "fig5_plain"))) == 2


def test_what_cannot_be_read_costs_a_run_alone(gpu_box, tmp_path):
    box = box_in(gpu_box, tmp_path, DATA_READY=str(ROOT / "README.md"), SMALL="data=nonsense")
    deadline, reads = box.deadline, []

    def half_written():
        reads.append(1)
        return deadline() if len(reads) % 2 else float("")

    box.deadline = half_written
    gpu_box.work(box)
    assert list(done(box)) == [name for name in PARTS if name not in gpu_box.RUNS]
    assert (box.results / "timeline.txt").read_text().count("nonsense") >= 3


SAVES = """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def save(*_):
    pathlib.Path(sys.argv[1]).write_text(str(child.pid))
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[2]).touch()
time.sleep(600)
"""


def test_a_part_that_takes_too_long_may_save_what_it_has(gpu_box, tmp_path):
    box = box_in(gpu_box, tmp_path)
    saved, started = tmp_path / "saved", tmp_path / "started"
    command = [sys.executable, "-c", SAVES, str(saved), str(started)]
    box.do("slow", 0, 3, [command, ["never"]])
    assert done(box)["slow"]["exit_code"] == 124 and done(box)["slow"]["seconds"] < 15
    assert (
        not Path(f"/proc/{saved.read_text()}/status").exists()
        or "Z (zombie)" in Path(f"/proc/{saved.read_text()}/status").read_text()
    )


def test_a_deadline_is_read_anew_and_a_signal_ends_it_all(tmp_path):
    deadline, started = tmp_path / "deadline", tmp_path / "box" / "results" / "timeline.txt"
    deadline.write_text(str(time.time() + 1000))
    environment = {"DEADLINE_FILE": str(deadline), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    environment |= {"RESULTS": str(started.parent), "RUNS": str(tmp_path / "box" / "runs")}
    command = [sys.executable, str(ROOT / "scripts" / "gpu_box.py")]
    in_background = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, **in_background
    ) as process:
        while not (started.exists() and "smoke: starts" in started.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[1] == "gpu_box: interrupted\n"
    assert process.returncode == 130
    assert list(json.loads((started.parent / "box.json").read_text())) == ["machine"]
    deadline.write_text(str(time.time() + 1))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "smoke: left out" in again.stdout and again.returncode == 1
