"""Everything that only a GPU can show, in order of worth, within a budget of seconds.

Smoke test, the tests marked gpu, what an update costs as one CUDA graph, plain and compiled, and
where its time goes; then those of the runs fig1, fig5_plain and fig5_bn that docs/results/full
lacks, each for as many whole epochs as fit, with the fastest settings that passed; other settings.
Evidence of a run is made on the CPU beside the next one.

Each part is done once, has a time limit, and may fail: the others go on. What there is stands in
RESULTS at any time. Started again, it goes on where it was. Usage: scripts/gpu_box.sh, with

    BUDGET=900           seconds from now on; or
    DEADLINE_FILE=FILE   the time to end at, in seconds since 1970, read anew each time
    RESULTS=DIR RUNS=DIR by default outputs/gpu/results and outputs/gpu/runs; what of the runs is to
                         travel, NAME.tar, lies beside RUNS
    DATA_ROOT=DIR        as data.root; without, Tiny ImageNet is downloaded
    DATA_CACHE=DIR       as data.cache
    DATA_READY=FILE      there once the data are decoded by somebody else; until then runs wait
    SKIP="smoke fig1"    parts that an earlier box has done
    PRECISION=bf16 EPOCHS=100 EVERY=20 PAIRS=6 KEEP_MB=14
    SMALL="SETTING ..."  laid over all, for a trial
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ways import WAYS, collected, fastest, outcomes

from symrun.cli import exit_code
from symrun.data.registry import TinyImageNetConfig
from symrun.files import complete_or_absent, write_text
from symrun.launch import compose

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PUBLISH = (sys.executable, str(ROOT / "scripts" / "publish.py"))
RUNS = ("fig1", "fig5_plain", "fig5_bn")
GRACE = 15
"""Seconds from SIGTERM to SIGKILL: a run saves what it has."""
START, PER_EPOCH, SLACK = 12, 0.05, 1.04
"""Of a run, besides its updates: seconds to start, seconds an epoch, and validation as a factor."""
EVIDENCE = 45
"""Seconds that a run leaves at the end for what is made of it."""
CUT_OFF = 124
"""Exit code of what was ended for its time limit, as timeout(1) has it."""
DATA_WAIT = 90
"""Seconds that all runs together wait for data, at most."""
Commands = Sequence[Sequence[str]]


@dataclass
class Box:
    """A machine that is there for a while.

    command: what stands for `symrun` on a command line. docs: where what earlier boxes have brought
    is published, in results/full and performance/MACHINE.
    """

    results: Path
    runs: Path
    deadline: Callable[[], float]
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = (sys.executable, "-m", "symrun")
    docs: Path = DOCS
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end, self.patience = time.time(), float(DATA_WAIT)
        self.one_at_a_time = threading.Lock()
        self.logs = self.results / "log"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.runs.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.done = json.loads((self.results / "box.json").read_text())
        self.small = self.get("SMALL", "").split()
        self.precision = self.get("PRECISION", "bf16")
        self.epochs, self.every = int(self.get("EPOCHS", "100")), self.get("EVERY", "20")
        self.pairs, self.keep_mb = self.get("PAIRS", "6"), self.get("KEEP_MB", "14")
        self.data = [
            f"data.{name}={self.get(variable, '')}"
            for name, variable in (("root", "DATA_ROOT"), ("cache", "DATA_CACHE"))
            if self.get(variable, "")
        ]

    def get(self, name: str, default: str) -> str:
        """A variable; one that is set but empty is as good as none."""
        return self.environment.get(name) or default

    def left(self) -> float:
        with contextlib.suppress(ValueError):  # a file that is being written: as it was
            self.end = self.deadline()
        return self.end - time.time()

    def archive(self, run: str) -> Path:
        """What of a run is to travel."""
        return self.runs.parent / f"{run}.tar"

    def note(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.left():4.0f} s left: {text}"
        print(line, flush=True)
        with open(self.results / "timeline.txt", "a", encoding="utf-8") as file:
            print(line, file=file)

    def has_done(self, name: str) -> bool:
        return name in self.done or name in self.get("SKIP", "").split()

    def do(self, name: str, needs: float, limit: float, commands: Commands) -> None:
        """Run the commands of a part, one after the other until one fails, if it was not done and
        `needs` seconds are left; end them after `limit`."""
        if self.has_done(name):
            return
        if self.left() < needs:
            self.note(f"{name}: left out, it needs {needs:.0f} s")
            return
        limit = min(limit, self.left() - GRACE)
        self.note(f"{name}: starts, {limit:.0f} s at most")
        started = time.monotonic()
        code = run(commands, limit, self.logs / f"{name}.txt")
        seconds = round(time.monotonic() - started, 1)
        self.note(f"{name}: {'passed' if code == 0 else f'exit code {code}'} after {seconds} s")
        self.done[name] = {"exit_code": code, "seconds": seconds}
        self.save("box.json", json.dumps(self.done, indent=1))

    def save(self, name: str, text: str) -> None:
        write_text(self.results / name, text)


def run(
    commands: Commands, limit: float, log: Path, out: Path | None = None, on_cpu: bool = False
) -> int:
    """The exit code of the first command that fails, or 0; CUT_OFF if they took longer than `limit`
    seconds. out: where standard output goes, if not into the log as well."""
    end = time.monotonic() + limit
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONUNBUFFERED": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}
    with open(log, "ab") as file, open(out or os.devnull, "wb") as output:
        for command in commands:
            try:
                process = subprocess.Popen(
                    ["nice", *command] if on_cpu else list(command),
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output if out else file,
                    stderr=file,
                    start_new_session=True,
                )
            except OSError as error:
                file.write(f"{command[0]}: {error.strerror}\n".encode())
                return 127
            if code := _ended(process, end - time.monotonic()):
                return code
    return 0


def _ended(process: subprocess.Popen[bytes], limit: float) -> int:
    """The exit code of a process that ends by itself, or is asked to and then made to."""
    try:
        return process.wait(max(limit, 0))
    except subprocess.TimeoutExpired:
        return CUT_OFF
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it started
        process.wait()


def work(box: Box) -> None:
    """All parts, in order of worth."""
    symrun, small, precision = box.command, box.small, f"precision={box.precision}"
    box.do("machine", 5, 20, [["nvidia-smi"]])
    trial = box.runs / "smoke"
    quickstart = ["train", "experiment=quickstart_bn", "train.steps=30", f"run.dir={trial}"]
    box.do("smoke", 30, 90, [[*symrun, *quickstart], [*symrun, "check", str(trial)]])
    box.do("tests", 100, 200, [gpu_tests()])
    if tests := outcomes(box.logs / "tests.txt"):
        failed = [name for name, passed in tests.items() if not passed]
        told = {"passed": len(tests) - len(failed), "failed": failed}
        told["collected"] = collected(box.logs / "tests.txt")
        box.save("tests.json", json.dumps(told, indent=1))
    bench(box, "bench_graph", 60, [precision, *WAYS["graph"]])
    bench(box, "bench_both", 120, [precision, *WAYS["both"]])
    if box.data and not box.get("DATA_READY", ""):
        box.do("data", 60, 600, [[*symrun, "data", "prepare", "data=tiny_imagenet", *box.data]])
    parts = ["--json", "--out", str(box.results / "parts.json")]
    parts += ["--profile", str(box.results / "profile.txt"), precision, *WAYS["both"], *small]
    box.do("parts", 60, 120, [[*symrun, "bench", "--parts", *parts]])
    for name in RUNS:
        if not box.archive(name).exists():
            start_evidence(box, name)
    first, second, *_ = [*missing(box), None, None]
    real_run(box, first, 0.75)
    real_run(box, second, 1)
    bench(box, "bench_eager", 45, ["precision=bf16,tf32"])
    for name in missing(box):  # also those whose data came late
        real_run(box, name, 1)
    for name in RUNS:
        if box.done.get(name, {}).get("exit_code") == CUT_OFF and box.left() > 2 * EVIDENCE:
            del box.done[name]  # it was stopped to leave time that nobody needed
            real_run(box, name, 1)
    bench(box, "bench_tf32", 60, ["precision=tf32", *WAYS["both"]])
    bench(box, "bench_compile", 60, [precision, *WAYS["compile"]])
    for thread in box.beside:
        thread.join(max(box.left() - 5, 0))
    box.note("nothing is left to do" if box.left() > 5 else "the time is up")


def gpu_tests() -> list[str]:
    """The command for all tests marked gpu, of the files that have some: the others may need what
    a box lacks. Its log has a line a test, which `outcomes` reads."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [str(path) for path in files if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    # Warnings of other versions than ours are shown; the plugin for benchmarks warns beside xdist
    options = ["-m", "gpu", "-v", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    options += ["--tb=short", "--durations=20"]
    if find_spec("xdist"):
        options += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
    return [sys.executable, "-m", "pytest", *options, *marked]


def bench(box: Box, name: str, limit: float, settings: Sequence[str]) -> None:
    out = ["--json", "--out", str(box.results / f"{name}.json"), "--pairs", box.pairs]
    box.do(name, limit, limit, [[*box.command, "bench", *out, *settings, *box.small]])


def missing(box: Box) -> list[str]:
    """The runs that no earlier box has brought at full length, in order of worth."""
    return [name for name in RUNS if not _is_published(box, name) and not box.has_done(name)]


def _is_published(box: Box, name: str) -> bool:
    try:
        setup = json.loads(
            (box.docs / "results" / "full" / name / "setup.json").read_text(encoding="utf-8")
        )
    except FileNotFoundError:
        return False
    return bool(setup["last_step"] >= box.epochs * setup["steps_per_epoch"])


def real_run(box: Box, name: str | None, share: float) -> None:
    """Train `name` for as many whole epochs as fit into `share` of the time left, or go on with it;
    then have its evidence made beside what comes next."""
    if name is None or box.has_done(name) or not data_are_there(box, name):
        return
    try:
        budget = share * (box.left() - GRACE - EVIDENCE)
        folder = box.runs / name
        command = ["resume", str(folder)]
        if not (folder / "run.json").exists():
            seconds, settings = fastest(box)
            epochs = whole_epochs(box, budget, seconds, name)
            how = " ".join(settings) or "no settings"
            box.note(f"{name}: {epochs} epochs at {seconds * 1e3:.2f} ms with {how}")
            command = ["train", f"experiment={name}", f"train.epochs={epochs}"]
            command += [f"track.every={box.every}", f"precision={box.precision}", *box.data]
            command += ["train.checkpoint_every=5000", f"run.dir={folder}", *settings, *box.small]
        box.do(name, 50 + EVIDENCE, budget + 20, [[*box.command, *command]])
    except (ValueError, LookupError, OSError) as error:  # the other parts are worth as much
        box.note(f"{name}: left out: {error}")
    start_evidence(box, name)


def start_evidence(box: Box, name: str) -> None:
    """Unless it is there, or there is nothing to make it of."""
    if name in box.done and list((box.runs / name).glob("tables/units/part-*")):
        thread = threading.Thread(target=evidence, args=(box, name), daemon=True)
        box.beside.append(thread)
        thread.start()


def whole_epochs(box: Box, budget: float, seconds: float, name: str) -> int:
    """At least one, at most EPOCHS, by the time of an update and the images that there are."""
    config = compose([f"experiment={name}", *box.data, *box.small])
    assert isinstance(config.data, TinyImageNetConfig)
    labels = config.data.cache.glob("tiny_imagenet-*/train_labels.npy")
    images = max((len(np.load(path, mmap_mode="r")) for path in labels), default=100_000)
    updates = -(-images // config.train.batch_size)
    epochs = (budget - START) / (updates * seconds * SLACK + PER_EPOCH)
    return int(min(box.epochs, max(1, epochs)))


def data_are_there(box: Box, name: str) -> bool:
    """Wait for DATA_READY, as long as there is patience and time for a run."""
    ready = box.get("DATA_READY", "")
    while ready and not Path(ready).exists() and box.patience > 0 and box.left() > 60:
        time.sleep(0.5)
        box.patience -= 0.5
    if ready and not Path(ready).exists():
        box.note(f"{name}: left out, {ready} is not there")
        return False
    return True


def evidence(box: Box, name: str) -> None:
    """What is to be known of a run: its check table, a copy with fewer records, and the figures and
    the page of all runs so far. On the CPU, which the next run leaves alone."""
    folder, thinned = box.runs / name, box.runs / "thinned" / name

    def made(what: str, *command: str, out: Path | None = None) -> None:
        log = box.logs / f"evidence_{name}.txt"
        if code := run([command], box.left() - 5, log, out, on_cpu=True):
            box.note(f"{name}: {what} failed with exit code {code}")

    # What is to travel first; all else can be made of it later, elsewhere
    shutil.rmtree(thinned, ignore_errors=True)
    made("thin", *box.command, "thin", str(folder), str(thinned), "--max-mb", box.keep_mb)
    if thinned.exists():
        with complete_or_absent(box.archive(name)) as draft, tarfile.open(draft, "w") as tar:
            tar.add(thinned, name)
    with box.one_at_a_time:
        out = box.results / f"check_{name}.json"
        made("check", *box.command, "check", str(folder), "--json", out=out)
        done = [run for run in RUNS if run in box.done and (box.runs / run / "run.json").exists()]
        full = str(box.results / "published" / "full")
        made("publish", *PUBLISH, full, *(f"{run}={box.runs / run}" for run in done))
        box.note(f"{name}: evidence is there")


def main() -> int:
    environment = {name: value for name, value in os.environ.items() if value}
    outputs = Path("outputs", "gpu").absolute()
    end = time.time() + float(environment.get("BUDGET", "900"))
    file = environment.get("DEADLINE_FILE")
    box = Box(
        Path(environment.get("RESULTS", outputs / "results")).absolute(),
        Path(environment.get("RUNS", outputs / "runs")).absolute(),
        (lambda: float(Path(file).read_text())) if file else (lambda: end),
        environment,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also where Ctrl-C is ignored
    try:
        work(box)
    except KeyboardInterrupt:
        box.note("interrupted; started again, it goes on")
        raise
    print(f"results: {box.results}")
    return int(any(part["exit_code"] for part in box.done.values()))


if __name__ == "__main__":
    sys.exit(exit_code("gpu_box", main))
