"""Members as jobs of submitit: on Slurm, or as processes of submitit's on this machine."""

import contextlib
import getpass
import importlib
import json
import math
import os
import pickle
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symrun.errors import Interrupted, UsageError, in_one_line
from symrun.files import complete_or_absent, locked
from symrun.sweeps.job import Job
from symrun.sweeps.member import Ended, Member, Stop
from symrun.sweeps.processes import default_jobs, visible_gpus
from symrun.sweeps.settings import Cluster, SlurmConfig

_POLL_SECONDS = {Cluster.slurm: 2.0, Cluster.local: 0.2}
_GRACE_SECONDS = {Cluster.slurm: 20.0, Cluster.local: 1.0}
"""How long after its job is gone a member's result may take to be seen on a shared disk."""


@dataclass(frozen=True)
class Submitted:
    """A member's job: its id, and the folder of submitit's files. gpu: the one it may use, local
    jobs alone."""

    id: str
    folder: Path
    gpu: str | None = None

    @property
    def result(self) -> Path:
        return self.folder / f"{self.id}_0_result.pkl"


def run(settings: SlurmConfig, members: Sequence[Member], stop: Stop) -> Iterator[Ended]:
    """Submit the members that have no job yet, and wait for all of them.

    A job that comes near its time limit, or is preempted, saves and goes on in the next one.

    Error: UsageError if a job cannot be submitted; Interrupted if this process is asked to stop,
    which leaves the jobs where they are.
    """
    queue = _Queue(settings)
    with stop.deferred(), locked(members[0].folder / "submitting.lock", wait=True):
        found = {member: job for member in members if (job := queue.submitted(member))}
        waiting = deque(member for member in members if member not in found)
        if settings.cluster is Cluster.slurm and waiting:
            found |= queue.submit([*waiting])
            waiting.clear()
    gone: dict[Member, float] = {}
    jobs = settings.jobs or default_jobs(queue.gpus)
    try:
        while (found or waiting) and stop.requested is None:
            while waiting and len(found) < jobs and stop.requested is None:
                with stop.deferred():
                    found |= queue.submit([waiting.popleft()])
            active = queue.active(found.values())
            for member, job in list(found.items()):
                ended = _ended(member, job)
                if ended is None and job.id not in active:
                    since = gone.setdefault(member, time.monotonic())
                    if time.monotonic() - since > _GRACE_SECONDS[settings.cluster]:
                        lost = f"its job {job.id} ended without a result"
                        lost += ": cancelled, killed, or out of memory"
                        ended = Ended(member, 1, lost)
                if ended is not None:
                    member.job.unlink(missing_ok=True)
                    queue.free(found.pop(member))
                    yield ended
            time.sleep(_POLL_SECONDS[settings.cluster])
    except KeyboardInterrupt:
        pass
    if found or waiting:
        raise Interrupted(_left(settings.cluster, [*found.values()], len(waiting)))


def _left(cluster: Cluster, jobs: Sequence[Submitted], waiting: int) -> str:
    """What Ctrl-C leaves behind, and what to do about it."""
    ids = ", ".join(dict.fromkeys(job.id.partition("_")[0] for job in jobs))
    text = f"{len(jobs)} jobs go on without this command ({ids})"
    if waiting:
        text += f", and {waiting} members have not been submitted"
    cancel = "scancel" if cluster is Cluster.slurm else "kill"
    return f"{text}: the same command waits for them again, {cancel} ID cancels"


def _ended(member: Member, job: Submitted) -> Ended | None:
    """What the job left as its result; None if there is none yet."""
    with contextlib.suppress(OSError):  # makes a network's file system look again
        job.folder.chmod(job.folder.stat().st_mode)
    try:
        outcome, result = pickle.loads(job.result.read_bytes())
    except (OSError, EOFError):
        return None
    if outcome == "success":
        return Ended(member, result)
    return Ended(member, 1, f"its job {job.id}: {in_one_line(result.strip().splitlines()[-1])}")


class _Queue:
    """The jobs of Slurm, or of submitit on this machine."""

    def __init__(self, settings: SlurmConfig) -> None:
        try:
            self._submitit = importlib.import_module("submitit")
        except ImportError:
            raise UsageError(
                "sweep=slurm needs submitit: type pip install 'symrun[slurm]'"
            ) from None
        self._settings = settings
        self._local = settings.cluster is Cluster.local
        self._children: list[Any] = []
        self.gpus = visible_gpus() if self._local and settings.gpus else []
        self._used: list[str] = []

    def submit(self, members: Sequence[Member]) -> dict[Member, Submitted]:
        """Error: UsageError if Slurm refuses."""
        folder = Path(tempfile.mkdtemp(prefix="jobs-", dir=members[0].folder.absolute()))
        gpu = min(self.gpus, key=self._used.count) if self.gpus else None
        seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
        commands = [member.command(self._settings.cpus, seen) for member in members]
        try:
            with _undisturbed():
                jobs = self._executor(folder).map_array(Job(), commands)
        except (self._submitit.core.utils.FailedJobError, OSError) as error:
            refused = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise UsageError(f"sbatch refused the sweep: {in_one_line(refused)}") from None
        self._children += jobs
        self._used += [gpu] if gpu is not None else []
        submitted = {}
        for member, job in zip(members, jobs, strict=True):
            submitted[member] = Submitted(job.job_id, folder, gpu)
            with complete_or_absent(member.job) as draft:
                draft.write_text(
                    json.dumps([self._settings.cluster.value, job.job_id, str(folder)])
                )
        return submitted

    def submitted(self, member: Member) -> Submitted | None:
        """The job that an earlier command submitted, if it is queued or running."""
        try:
            cluster, job, folder = json.loads(member.job.read_text())
        except (OSError, ValueError):
            return None
        found = Submitted(job, Path(folder))
        ours = cluster == self._settings.cluster.value and not found.result.exists()
        return found if ours and found.id in self.active([found]) else None

    def active(self, jobs: Sequence[Submitted] | Any) -> set[str]:
        """The ids of those that are queued or running, or of all if nobody can tell."""
        if self._local:
            for child in self._children:
                child.done()  # a child that has ended must be waited for
            return {job.id for job in jobs if _is_controller(job)}
        words = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
        listed = subprocess.run(words, capture_output=True, text=True)
        return {job.id for job in jobs} if listed.returncode else set(listed.stdout.split())

    def free(self, job: Submitted) -> None:
        """Its GPU may be another's."""
        if job.gpu is not None:
            self._used.remove(job.gpu)

    def _executor(self, folder: Path) -> Any:
        settings, submitit = self._settings, self._submitit
        if self._local:
            executor = submitit.LocalExecutor(folder, max_num_timeout=settings.requeues)
            executor.update_parameters(timeout_min=settings.minutes, signal_delay_s=settings.notice)
            return executor
        try:
            executor = submitit.SlurmExecutor(folder, max_num_timeout=settings.requeues)
        except RuntimeError:
            remedy = "give the command where sbatch works, or type sweep.cluster=local"
            raise UsageError(f"sweep=slurm finds no srun on this machine: {remedy}") from None
        reserved = {
            "partition": settings.partition,
            "account": settings.account,
            "mem": settings.memory and f"{math.ceil(settings.memory * 1024)}M",
            "gpus_per_node": settings.gpus or None,
            "array_parallelism": settings.jobs,
        }
        executor.update_parameters(
            job_name="symrun",
            time=settings.minutes,
            signal_delay_s=settings.notice,
            cpus_per_task=settings.cpus,
            # srun does not take this over from sbatch since Slurm 22.05
            srun_args=[f"--cpus-per-task={settings.cpus}"],
            additional_parameters={"requeue": True, **(settings.extra or {})},
            **{name: value for name, value in reserved.items() if value is not None},
        )
        return executor


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Local jobs started within do not hear of a Ctrl-C or a closed terminal."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_controller(job: Submitted) -> bool:
    """Whether the process of this id is submitit's, and of this job."""
    with contextlib.suppress(OSError):
        return os.fsencode(job.folder) in Path(f"/proc/{job.id}/cmdline").read_bytes()
    return False
