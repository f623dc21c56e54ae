"""A run that stops goes on bit for bit, or says why it does not."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from killing import same, tables
from run_json import recorded as recorded_json
from run_json import rewrite, with_settings
from small_images import make_tree
from started import started
from stopping import stopping_at, training

from symrun.config import Config
from symrun.errors import Busy, Diverged, RunError, Stopped, UsageError
from symrun.launch import compose
from symrun.runs import writer as writer_module
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import RunDirectory
from symrun.training import loop, provenance
from symrun.training.lifecycle import resume, train, train_member
from symrun.training.progress import Progress
from symrun.training.signals import StopRequest

STEPS = 14
SMALL = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model.width=0.0625"),
    *("train.batch_size=16", f"train.steps={STEPS}", "track.every=3", "device=cpu"),
    "train.checkpoint_every=4",
]


def config_of(folder, *overrides, model="vgg11_bn"):
    return compose([f"model={model}", *SMALL, *overrides, f"run.dir={folder}"])


def recorded(folder):
    return Config.from_mapping(RunDirectory.open(folder).info().config.settings)


def go_on(folder, anyway=False):
    return resume(RunDirectory.open(folder), recorded(folder), anyway)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(folder))
    return folder


def final(folder):
    (step, content), *_ = checkpoints(RunDirectory.open(folder))
    assert step == STEPS and content["done"]
    return content


def require_same(one, other):
    for name, frame in tables(one).items():
        pd.testing.assert_frame_equal(frame, tables(other)[name], check_exact=True)
    first, second = final(one), final(other)
    for content in (first, second):
        del content["config"]
    assert same(first, second)
    assert RunDirectory.open(other).info().status == "finished"


def stopped_after(config, step, monkeypatch):
    """Train until a signal comes while update `step` is under way."""
    with stopping_at(step, monkeypatch) as stop:
        train(config, stop)


def killed_after(config, step, monkeypatch):
    """Train until something takes the process down: no checkpoint is made for it."""
    updated = Progress.updated

    def fail(self, images):
        updated(self, images)
        if self.updates == step:
            raise RunError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "updated", fail)
        with pytest.raises(RunError, match="gone"):
            train(config)


OPTIMISERS = [
    ["optim.weight_decay=1e-3"],
    ["optim.momentum=0.9", "optim.nesterov=true", "optim.schedule=cosine"],
    ["optim.momentum=0.9", "optim.dampening=0.5", "precision=float64"],
    ["optim=adam", "optim.lr=1e-3"],
]
QUICK = [("vgg11_bn", 1)]
"""Models and places of optimisers that each test run takes; `make stress` takes all."""


@pytest.mark.parametrize(
    ("model", "optim"),
    [
        pytest.param(model, optim, marks=[] if (model, number) in QUICK else pytest.mark.slow)
        for model in ("vgg11", "vgg11_bn")
        for number, optim in enumerate(OPTIMISERS)
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(model, optim, tmp_path, monkeypatch):
    """From the middle of an epoch (3 updates), from where a record is due, and from the end."""
    train(config_of(tmp_path / "whole", *optim, model=model))
    for step in (3, 7, 14):
        folder = tmp_path / str(step)
        stopped_after(config_of(folder, *optim, model=model), step, monkeypatch)
        info = RunDirectory.open(folder).info()
        assert info.status == "interrupted" and info.last_step == step
        go_on(folder)
        assert RunDirectory.open(folder).info().resumed[0].step == step
        require_same(tmp_path / "whole", folder)


def test_what_a_run_took_adds_up(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped_after(config_of(folder), 7, monkeypatch)
    path = RunDirectory.open(folder).checkpoint(7)
    content = torch.load(path)
    took = content["progress"]["all_seconds"]
    assert 0 < took <= RunDirectory.open(folder).info().seconds < 1000
    content["progress"]["all_seconds"] = took + 1000
    torch.save(content, path)
    go_on(folder)
    assert 1000 + took < RunDirectory.open(folder).info().seconds < 2000


def test_a_stop_during_validation_repeats_that_alone(whole, tmp_path, monkeypatch):
    stop, validation = StopRequest(), loop.validate

    def validate(training, epoch, progress, checkpointer):
        stop.requested = "SIGUSR1" if epoch == 2 else None
        validation(training, epoch, progress, checkpointer)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", validate)
        with pytest.raises(Stopped, match="SIGUSR1 after step 6"):
            train(config_of(tmp_path / "run"), stop)
    go_on(tmp_path / "run")
    require_same(whole, tmp_path / "run")


def test_a_killed_run_goes_on_from_its_last_checkpoint_wherever_it_lies(
    whole, tmp_path, monkeypatch
):
    killed_after(config_of(tmp_path / "run"), 11, monkeypatch)
    (tmp_path / "run").rename(tmp_path / "moved")
    draft = tmp_path / "moved" / "tables" / "units" / ".part-000099.parquet-abc"
    draft.mkdir()
    go_on(tmp_path / "moved")
    assert RunDirectory.open(tmp_path / "moved").info().resumed[0].step == 8
    assert not draft.exists()
    require_same(whole, tmp_path / "moved")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(whole, tmp_path, monkeypatch, caplog):
    killed_after(config_of(tmp_path / "run"), 11, monkeypatch)
    for kept, expected in ((8, 4), (4, 0)):
        shutil.copytree(tmp_path / "run", tmp_path / str(kept))
        for step in (8, 4):
            if step >= kept:
                path = tmp_path / str(kept) / "checkpoints" / f"step-{step}.pt"
                content = bytearray(path.read_bytes())
                content[len(content) // 2] ^= 1
                path.write_bytes(bytes(content))
        caplog.clear()
        go_on(tmp_path / str(kept))
        assert caplog.text.count("is damaged") == (1 if kept == 8 else 2)
        info = RunDirectory.open(tmp_path / str(kept)).info()
        assert info.resumed[0].step == expected
        require_same(whole, tmp_path / str(kept))


def test_what_may_not_go_on_says_why(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped_after(config_of(folder), 5, monkeypatch)
    run, config = RunDirectory.open(folder), recorded(folder)
    with run.locked(), pytest.raises(Busy, match="is being written by another process"):
        resume(run, config, False)
    with monkeypatch.context() as patch:
        patch.setattr("symrun.training.provenance.source_digest", lambda: "another")
        with pytest.raises(UsageError, match="symrun's own code"):
            resume(run, config, False)
    other = config_of(folder, "optim.lr=0.2", "train.checkpoint_every=5")
    with pytest.raises(UsageError, match=r"optim\.lr 0\.1 -> 0\.2: --anyway"):
        resume(run, other, False)
    assert run.info().status == "interrupted"
    (part, *_) = sorted(run.table("units").iterdir())
    content = part.read_bytes()
    part.unlink()
    with pytest.raises(UsageError, match="is missing"):
        resume(run, config, False)
    part.write_bytes(content)
    resume(run, other, True)
    assert run.info().resumed[-1].changed == ("optim.lr 0.1 -> 0.2",)
    with pytest.raises(UsageError, match="is finished"):
        resume(run, config, True)
    assert provenance.source_digest() == run.info().source


def test_other_images_are_refused_unless_anyway(tmp_path, monkeypatch):
    """Counts and classes of the data set are the same; a run from before digests has none."""
    root = make_tree(tmp_path / "tiny-imagenet-200")
    settings = ["data=tiny_imagenet", f"data.root={root}", f"data.cache={tmp_path / 'cache'}"]
    small = ["model=vgg11_bn", "model.width=0.0625", "train.batch_size=4", "train.steps=6"]
    config = compose([*settings, *small, "device=cpu", f"run.dir={tmp_path / 'run'}"])
    stopped_after(config, 2, monkeypatch)
    run = RunDirectory.open(tmp_path / "run")
    before = run.info()
    first, *_, last = sorted(root.glob("train/*/images/*"))
    first.write_bytes(last.read_bytes())
    with pytest.raises(UsageError, match="its data set has other images now: --anyway goes on"):
        resume(run, config, False)
    assert run.info() == before and run.info().dataset.digest == before.dataset.digest
    rewrite(run, dataset={**recorded_json(run)["dataset"], "digest": None})
    stopped = tmp_path / "stopped"
    shutil.copytree(run.path, stopped)
    resume(RunDirectory.open(stopped), config, False)
    rewrite(run, dataset={**recorded_json(run)["dataset"], "digest": before.dataset.digest})
    resume(run, config, True)
    info = run.info()
    assert info.resumed[-1].changed == ("its data set has other images now",)
    assert info.dataset.digest not in (None, before.dataset.digest)


def test_a_batch_of_more_than_all_images_is_refused(tmp_path):
    with pytest.raises(UsageError) as error:
        train(config_of(tmp_path / "run", "train.batch_size=41"))
    assert str(error.value) == "train.batch_size must be at most the 40 training images, got 41"
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_it_was_described_leaves_its_folder_to_the_next(tmp_path):
    run = RunDirectory.create(tmp_path / "run", "")
    (run.path / ".lock").touch()
    (run.path / ".run.json-abc").mkdir()
    train(config_of(tmp_path / "run"))
    with pytest.raises(UsageError, match="exists already.*symrun resume"):
        train(config_of(tmp_path / "run"))


def test_a_sweep_passes_over_finished_members_and_resumes_broken_ones(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    settings = [*SMALL, "model=vgg11_bn", "train.steps=6"]
    one = train_member(compose(settings), StopRequest())
    assert train_member(compose(settings), StopRequest()) == one
    assert "is finished already" in caplog.messages[-1]
    assert train_member(compose([*settings, "seed=1"]), StopRequest()) != one
    again = train_member(compose([*settings, "run.again=true"]), StopRequest())
    assert again != one
    rewrite(RunDirectory.open(again), status="running")  # killed just before the end
    assert train_member(compose(settings), StopRequest()) == again
    assert RunDirectory.open(again).info().status == "finished"


def test_a_sweep_passes_over_runs_of_networks_that_this_symrun_does_not_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = [*SMALL, "model=vgg11_bn", "train.steps=2", "run.name=sweep"]
    foreign = RunDirectory.open(train(compose(settings)))
    with_settings(foreign, model={"name": "mlp"})
    assert train_member(compose(settings), StopRequest()) != foreign.path


def test_what_others_wrote_into_run_json_stays(tmp_path):
    run = RunDirectory.open(train(config_of(tmp_path / "run")))
    rewrite(run, status="interrupted", note="the third of five")
    go_on(run.path)
    assert recorded_json(run)["note"] == "the third of five"


def test_divergence_stops_the_run_within_a_record(tmp_path):
    config = config_of(tmp_path / "run", "optim.lr=1e20", "train.steps=500")
    with pytest.raises(Diverged, match="not finite.*at step [12]: try a lower optim.lr"):
        train(config)
    info = RunDirectory.open(tmp_path / "run").info()
    assert info.status == "diverged" and info.diverged.step in (1, 2)
    assert info.diverged.layers[0] == "features.0" and info.last_step < 50
    steps = pd.read_parquet(tmp_path / "run" / "tables" / "units")["step"]
    assert {0, 3} <= set(steps)
    with pytest.raises(UsageError, match="diverged"):
        go_on(tmp_path / "run")


def test_divergence_can_be_let_go_on(tmp_path):
    settings = ["optim.lr=1e20", "train.on_divergence=continue"]
    train(config_of(tmp_path / "run", *settings))
    info = RunDirectory.open(tmp_path / "run").info()
    assert info.status == "finished" and info.diverged.loss is True


def test_too_small_a_disk_is_told_before_the_start(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UsageError, match="may not fit"):
        train(config_of(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


CALLS = ("fsync", "rename", "mkdir", "open")


@pytest.mark.parametrize("stride", [47, pytest.param(1, marks=pytest.mark.slow)])
def test_a_disk_that_is_full_at_any_write_costs_nothing(whole, tmp_path, monkeypatch, stride):
    """ENOSPC from each call in turn that makes, moves or flushes a file of the run."""
    monkeypatch.setattr(writer_module, "FLUSH_SECONDS", 0.0)
    injected = 0
    for target in range(0, 1000, stride):
        folder = tmp_path / f"run-{target}"
        with monkeypatch.context() as patch:
            calls = full_from(target, folder, patch)
            try:
                train(config_of(folder))
            except (RunError, UsageError) as error:
                assert "\n" not in str(error) and "No space left" in str(error)
        if calls[0] <= target:
            break
        injected += 1
        if (folder / "run.json").exists():
            for frame in tables(folder).values():
                assert frame is None or len(frame)
            if RunDirectory.open(folder).info().status != "finished":
                go_on(folder)
        else:
            train(config_of(folder))
        require_same(whole, folder)
        shutil.rmtree(folder)
    print(f"ENOSPC at {injected} calls")
    assert injected > 140 // stride


def full_from(target, folder, patch):
    """From call number `target` on nothing fits below `folder` any more. Returns the count."""
    count, opened = [0], os.open

    def refusing(call):
        def refuse(path, *arguments, **keywords):
            where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
            reading = call is opened and not arguments[0] & os.O_CREAT
            if not reading and where.startswith(f"{folder}/"):
                count[0] += 1
                if count[0] > target:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
            return call(path, *arguments, **keywords)

        return refuse

    for name in CALLS:
        patch.setattr(os, name, refusing(getattr(os, name)))
    return count


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
        ),
    ],
)
def test_a_signal_finishes_the_step_and_saves(tmp_path, number):
    with training(tmp_path / "run", "model=vgg11_bn", *SMALL) as process:
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"stopped by {number.name}" in printed and "symrun resume" in printed
    assert "Traceback" not in printed
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / f"step-{info['last_step']}.pt").exists()


HELD_UP = """
import time
from symrun.training.signals import StopRequest
with StopRequest() as stop, stop.deferred():
    print("held up", flush=True)
    while True:
        time.sleep(60)  # a step, or a disk, that does not end
"""


def test_a_second_ctrl_c_stops_at_once():
    pipe, command = subprocess.PIPE, [sys.executable, "-c", HELD_UP]
    with started(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "held up\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline().startswith("symrun: SIGINT: stopping after this step")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
@pytest.mark.parametrize(("name", "runs"), [("SIGKILL", 200), ("SIGTERM", 50)])
def test_runs_survive_being_killed_at_random_instants(tmp_path, name, runs):
    """Tables and weights are bit for bit those of a run that nobody disturbed."""
    program = Path(__file__).parent.parent / "killing.py"
    command = [sys.executable, str(program), name, str(runs), "0", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    summary = json.loads(done.stdout.splitlines()[-1])
    hits = summary["statuses"]["-9" if name == "SIGKILL" else "75"]
    assert summary["runs"] >= runs and hits >= runs
