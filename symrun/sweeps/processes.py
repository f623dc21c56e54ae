"""Members as processes of this machine, several at a time."""

import os
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from symrun.errors import Stopped
from symrun.sweeps.member import Ended, Member, Stop
from symrun.sweeps.registry import ProcessesConfig

_POLL_SECONDS = 0.1
_CORES_OF_A_JOB = 2


def run(settings: ProcessesConfig, members: Sequence[Member], stop: Stop) -> Iterator[Ended]:
    """Train the members, each with a GPU of its own if they want one, and with its share of the
    cores.

    A process that dies takes no other with it. When this one is asked to stop, the members save.

    Error: Stopped after that.
    """
    gpus = visible_gpus() if any(member.on_gpu for member in members) else []
    jobs = settings.jobs or default_jobs(gpus)
    waiting, on = deque(members), Counter(dict.fromkeys(gpus, 0))
    running: dict[Member, tuple[subprocess.Popen[bytes], str | None]] = {}
    asked = False
    with stop.deferred():
        while running or (waiting and stop.requested is None):
            while waiting and len(running) < jobs and stop.requested is None:
                member = waiting.popleft()
                gpu = min(gpus, key=on.__getitem__) if member.on_gpu and gpus else None
                seen = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
                on.update([gpu] if gpu is not None else [])
                running[member] = member.command(threads_of(jobs), seen).start(), gpu
            for member, (process, gpu) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[member]
                    on.subtract([gpu] if gpu is not None else [])
                    yield Ended(member, code)
            if stop.requested is not None and not asked:
                asked = True
                for process, _ in running.values():  # Ctrl-C has reached them, others have not
                    process.terminate()
            time.sleep(_POLL_SECONDS)
    if stop.requested is not None:
        raise Stopped(
            f"stopped by {stop.requested}, and the members have saved: the same command goes on"
        )


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [gpu.strip() for gpu in named.split(",")][:count] if named else [*map(str, range(count))]


def default_jobs(gpus: Sequence[str]) -> int:
    """One for each GPU; without any, one for every two cores."""
    return len(gpus) or max(1, _cores() // _CORES_OF_A_JOB)


def threads_of(jobs: int) -> int:
    """A job's share of the cores that this process may use."""
    return max(1, _cores() // jobs)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
