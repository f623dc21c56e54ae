"""Jobs of submitit: what Slurm is asked for, who is submitted, and how a job goes on."""

import contextlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from fakes import fake_members

from symrun.errors import Interrupted, UsageError
from symrun.launch import compose
from symrun.members import Composed, _with_devices
from symrun.sweeps import slurm
from symrun.sweeps.job import Job
from symrun.sweeps.settings import Cluster, SlurmConfig
from symrun.training.plan import Plan
from symrun.training.signals import StopRequest

pytest.importorskip("submitit")

# squeue lists the jobs that are named in the file `queue`.
PROGRAMS = {
    "srun": "exit 1",
    "sbatch": "cp $1 submitted; echo 17_0 > queue; echo 17_1 >> queue; echo >> calls\n"
    "echo Submitted batch job 17",
    "squeue": "cat queue",
}


def config(**changes):
    settings = {"jobs": 1, "partition": None, "account": None, "minutes": 60, "notice": 120}
    settings |= {"requeues": 3, "cpus": 2, "gpus": 0, "memory": None, "extra": {}}
    return SlurmConfig("slurm", cluster=Cluster.slurm, **{**settings, **changes})


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder in which the programs of Slurm say what the tests want."""
    for name, script in PROGRAMS.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_POLL_SECONDS", {Cluster.slurm: 0.02})
    monkeypatch.setattr(slurm, "_GRACE_SECONDS", {Cluster.slurm: 0.1})
    return tmp_path


class CtrlC(StopRequest):
    """One that comes while the command waits for its jobs."""

    @contextlib.contextmanager
    def deferred(self):
        with super().deferred():
            yield
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    def __enter__(self):
        self._former = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        return super().__enter__()

    def __exit__(self, *details):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._former)
        super().__exit__(*details)


def test_ctrl_c_leaves_the_jobs_and_the_same_command_waits_for_them(cluster, monkeypatch):
    members = fake_members(monkeypatch, cluster, "0", "0")
    settings = config(partition="gpu", gpus=1, memory=3, extra={"qos": "high"})
    for _ in range(2):
        with CtrlC() as stop, pytest.raises(Interrupted, match=r"2 jobs go on .*\(17\)"):
            list(slurm.run(settings, members, stop))
    assert (cluster / "calls").read_text() == "\n"
    asked = set(re.findall(r"#SBATCH --(\S+)", (cluster / "submitted").read_text()))
    assert asked >= {
        *("array=0-1%1", "partition=gpu", "time=60", "cpus-per-task=2", "gpus-per-node=1"),
        *("mem=3072M", "signal=USR2@120", "requeue", "qos=high", "job-name=symrun"),
    }
    assert "--cpus-per-task=2" in (cluster / "submitted").read_text().splitlines()[-1]
    outcomes = [("success", 0), ("error", "x\nJob not requeued")]

    def end(_):
        for member, outcome in zip(members, outcomes, strict=True):
            if not member.job.exists():
                continue
            _, job, folder = json.loads(member.job.read_text())
            with open(f"{folder}/{job}_0_result.pkl", "wb") as file:
                pickle.dump(outcome, file)

    monkeypatch.setattr("time.sleep", end)
    one, other = slurm.run(settings, members, StopRequest())
    assert (one.code, other.code, other.error) == (0, 1, "its job 17_1: Job not requeued")
    assert not any(member.job.exists() for member in members)


def test_a_job_that_is_gone_without_a_result_is_a_failure(cluster, monkeypatch):
    members = fake_members(monkeypatch, cluster, "0", "0")
    (cluster / "bin" / "squeue").write_text("#!/bin/sh\n")
    ended = list(slurm.run(config(), members, StopRequest()))
    assert [one.code for one in ended] == [1, 1]
    assert "ended without a result: cancelled, killed, or out of memory" in ended[0].error


def test_what_sbatch_says_when_it_refuses(cluster, monkeypatch):
    members = fake_members(monkeypatch, cluster, "0", "0")
    (cluster / "bin" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(UsageError, match="sbatch refused the sweep: no such partition"):
        list(slurm.run(config(), members, StopRequest()))
    (cluster / "bin" / "srun").unlink()
    monkeypatch.setenv("PATH", str(cluster / "bin"))
    with pytest.raises(UsageError, match="no srun .*sweep.cluster=local"):
        list(slurm.run(config(), members, StopRequest()))


def near_the_limit(folder, job, command):
    """A thread that sends SIGUSR2 once the member runs, and what `checkpoint` then returned."""
    found = []
    signal.signal(signal.SIGUSR2, lambda *_: found.append(job.checkpoint(command)))

    def tell():
        while not (folder / "m0.began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=tell)
    thread.start()
    return thread, found


def test_before_its_limit_a_job_lets_its_member_save_and_is_submitted_again(tmp_path, monkeypatch):
    (member,) = fake_members(monkeypatch, tmp_path, "60")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    job, command = Job(), member.command(1)
    with restored(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        thread, found = near_the_limit(tmp_path, job, command)
        assert job(command) == 75
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # for `scontrol requeue`
    (again,) = found
    assert again.args[0].words == (*command.words, "run.again=false")


def test_a_member_that_ends_by_itself_near_the_limit_is_not_submitted_again(tmp_path, monkeypatch):
    (member,) = fake_members(monkeypatch, tmp_path, "0.5")
    script = (tmp_path / "script.py").read_text()
    (tmp_path / "script.py").write_text(script.replace("sys.exit(75)", "pass"))
    job, command = Job(), member.command(1)
    with restored(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        thread, found = near_the_limit(tmp_path, job, command)
        assert job(command) == 0 and not found
        thread.join()


class restored:
    """Handlers of signals are afterwards what they were."""

    def __init__(self, *numbers):
        self._before = {number: signal.getsignal(number) for number in numbers}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)


def composed(*words):
    words = ["data=synthetic", "model=vgg11", *words]
    return Composed("member 1 of 1", tuple(words), compose(words))


@pytest.mark.parametrize(
    ("gpus", "words", "device"),
    [
        (None, [], "cuda"),
        (None, ["device=cpu"], "cpu"),
        (2, [], "cuda"),
        (0, [], "cpu"),
        (1, ["device=cpu"], None),
        (0, ["device=cuda"], None),
    ],
)
def test_a_sweep_that_reserves_gpus_never_trains_on_the_cpu(gpus, words, device):
    """And is checked where there is none."""
    if device is None:
        with pytest.raises(UsageError, match=f"sweep.gpus={gpus} is not for {words[0]}"):
            _with_devices(config(gpus=gpus), [composed(*words)])
        return
    settings, (member,) = _with_devices(config(gpus=gpus), [composed(*words)])
    assert member.words[-1] == f"device={device}" and bool(settings.gpus) == (device == "cuda")
    assert Plan.of(member.config, elsewhere=True).device.type == device


@pytest.mark.slow
def test_a_sweep_of_ray(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "symrun", "train", "-m", "sweep=ray", "sweep.cpus=1"]
    command += ["data=synthetic", "data.train_images=40", "data.val_images=20", "model=vgg11"]
    command += ["model.width=0.0625", "train.batch_size=16", "train.steps=2", "device=cpu"]
    command += ["run.name=s", "optim.lr=0.1,1e20,0.2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 2, done.stderr
    assert "1 of 3 members failed: 2 of 3" in done.stderr.splitlines()[-1]
