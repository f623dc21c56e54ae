"""Members as processes: how many at a time, with what, and what is left when some of them die."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import fake_members
from small_images import jpeg
from started import started

from symrun.cli import main
from symrun.errors import Stopped
from symrun.files import locked
from symrun.launch import compose
from symrun.runs.directory import sweep_folder
from symrun.sweeps import processes
from symrun.sweeps.processes import run
from symrun.sweeps.settings import ProcessesConfig
from symrun.training.lifecycle import member_digest
from symrun.training.plan import Plan
from symrun.training.signals import StopRequest

TWO = ProcessesConfig("processes", 2)
TINY = [
    *("data=synthetic", "data.train_images=40", "data.val_images=20", "model=vgg11"),
    *("model.width=0.0625", "train.batch_size=16", "train.steps=2", "device=cpu"),
]


def notes(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("m*.json"))]


def test_no_more_run_at_a_time_than_jobs_and_each_has_its_share_of_the_cores(tmp_path, monkeypatch):
    members = fake_members(monkeypatch, tmp_path, *["0.3"] * 5)
    monkeypatch.setattr(processes, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ended = list(run(TWO, members, StopRequest()))
    assert sorted(one.member.title for one in ended) == [one.title for one in members]
    assert all(one.code == 0 and one.member.run() == f"runs/{one.member.digest}" for one in ended)
    spans = notes(tmp_path)
    at_once = [sum(b <= began < e for b, e, *_ in spans) for began, *_ in spans]
    assert max(at_once) == 2 and {threads for _, _, threads, *_ in spans} == {"3"}
    assert all(words[-1] == "sweep=one_by_one" for *_, words in spans)


def test_a_machine_that_does_not_tell_its_free_cores_has_jobs_for_all(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processes.default_jobs([]) == 3


def test_members_that_run_together_have_each_a_gpu_of_those_that_are_visible(tmp_path, monkeypatch):
    members = fake_members(monkeypatch, tmp_path, *["0.3"] * 6, on_gpu=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-ab,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # 7 is not there
    list(run(ProcessesConfig("processes", None), members, StopRequest()))
    spans = notes(tmp_path)
    assert {gpu for *_, gpu, _ in spans} == {"3", "GPU-ab"}
    for began, _, _, gpu, _ in spans:
        assert [other for b, e, _, other, _ in spans if b <= began < e].count(gpu) == 1


def test_a_member_that_fails_or_is_killed_takes_no_other_with_it(tmp_path, monkeypatch):
    members = fake_members(monkeypatch, tmp_path, "0.2", "killed", "fails", "0.1", "0.1")
    ended = {one.member.digest: one for one in run(TWO, members, StopRequest())}
    assert [ended[f"m{place}"].code for place in range(5)] == [0, -signal.SIGKILL, 2, 0, 0]
    assert ended["m1"].error == "killed by SIGKILL" and ended["m2"].error == "no such data"


def test_a_signal_lets_those_that_run_save_and_starts_no_other(tmp_path, monkeypatch):
    members = fake_members(monkeypatch, tmp_path, *["60"] * 3)

    def ask():
        while not all((tmp_path / f"m{place}.began").exists() for place in range(2)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    ended = []
    with StopRequest() as stop, pytest.raises(Stopped, match="SIGTERM.*the 3 members"):
        for one in run(TWO, members, stop):
            ended.append(one)
    asking.join()
    assert [one.code for one in ended] == [75, 75] and not (tmp_path / "m2.began").exists()
    assert ended[0].error == "stopped, and saved"


def test_the_same_member_is_not_trained_twice_at_once(tmp_path, monkeypatch, capfd):
    """The lock is there before the run is, whose folder would be found only later."""
    monkeypatch.chdir(tmp_path)
    config = Plan.of(compose([*TINY, "run.name=x"])).config
    folder = sweep_folder("x")
    folder.mkdir(parents=True)
    with locked(folder / f"{member_digest(config)}.lock", wait=False):
        assert main(["train", "-m", *TINY, "run.name=x", "seed=0"]) == 0
        captured = capfd.readouterr()
        assert captured.out == "" and "trained by another process: passed over" in captured.err
        words = ["train", "-m", *TINY, "run.name=x", "seed=0", "sweep=processes"]
        assert main(words) == Stopped.exit_code
    captured = capfd.readouterr()
    assert captured.out == "" and "ended:" not in captured.err
    assert "being trained elsewhere: 1 of 1: give the same command" in captured.err
    assert not list(folder.parent.glob("*/run.json"))


@pytest.mark.parametrize("same", [["run.name=b"], ["train.checkpoint_every=7"], ["run.again=true"]])
def test_a_member_is_told_from_others_by_what_it_computes(same):
    one = member_digest(compose(TINY))
    assert member_digest(compose([*TINY, *same])) == one
    assert member_digest(compose([*TINY, "seed=1"])) != one


def test_a_sweep_goes_on_where_it_was_and_trains_the_rest_in_processes(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *TINY, "run.name=s", "seed=0"]) == 0
    first = capfd.readouterr().out
    assert main(["train", "-m", *TINY, "run.name=s", "seed=0,1", "sweep=processes"]) == 0
    captured = capfd.readouterr()
    again, second = captured.out.splitlines(keepends=True)
    assert again == first and Path(second.strip(), "run.json").exists()
    assert "member 1 of 2 (seed=0): finished already" in captured.err
    assert "1 of 1 ended: member 2 of 2 (seed=1): finished" in captured.err
    settings = json.loads(Path(second.strip(), "run.json").read_text())["config"]
    assert "sweep" not in settings and settings["seed"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", [["sweep=processes"], ["sweep=slurm", "sweep.cluster=local"]])
def test_given_again_a_sweep_trains_the_broken_members_alone(tmp_path, engine):
    """Eight members, of which one lacks its data, and one is killed while it trains."""
    if "sweep=slurm" in engine:
        pytest.importorskip("submitit")
    for place, name in enumerate(["train/a", "train/b", "val/a", "val/b"]):
        (tmp_path / "images" / name).mkdir(parents=True)
        for seed in range(8):
            (tmp_path / "images" / name / f"{seed}.jpg").write_bytes(jpeg(8 * place + seed))
    for place in set(range(8)) - {5}:
        (tmp_path / f"r{place}").symlink_to("images")
    roots = ",".join(f"r{place}" for place in range(8))
    command = [sys.executable, "-m", "symrun", "train", "-m", *engine, "sweep.jobs=2"]
    command += ["model=vgg11", "model.width=0.0625", "data=image_folder", "train.batch_size=4"]
    command += ["train.steps=300", "device=cpu", "run.name=s", f"data.root={roots}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(command, cwd=tmp_path, env=environment, **pipes) as first:
        kill_once_it_trains(tmp_path, "data.root=r2")
        told = first.communicate(timeout=300)
    assert first.returncode == 1 and len(told[0].splitlines()) == 6, told
    last = told[1].splitlines()[-1]
    assert last.startswith("symrun: 2 of 8 members failed") and "root=r2" in last and "r5" in last
    (tmp_path / "r5").symlink_to("images")
    again = subprocess.run(command, cwd=tmp_path, env=environment, timeout=300, **pipes)
    assert again.returncode == 0 and len(set(again.stdout.splitlines())) == 8
    assert again.stderr.count("finished already") == 6 and "2 of 2 ended" in again.stderr
    assert len(list((tmp_path / "outputs" / "s").glob("*/run.json"))) == 8


def kill_once_it_trains(folder, word):
    """SIGKILL for the process that has this setting, once its run is described."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        time.sleep(0.02)
        described = any(word.partition("=")[2] in path.read_text() for path in
                        folder.glob("outputs/s/*/run.json"))  # fmt: skip
        for path in Path("/proc").glob("[0-9]*/cmdline") if described else ():
            words = path.read_bytes().decode().split("\0") if path.exists() else []
            if word in words and "sweep=one_by_one" in words:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
    raise AssertionError(f"{word} never trained")
