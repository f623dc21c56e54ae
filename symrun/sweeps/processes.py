"""Members as processes of this machine, several at a time."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from symrun.cores import usable_cores
from symrun.errors import Stopped
from symrun.sweeps.member import Ended, Member, Stop
from symrun.sweeps.settings import ProcessesConfig

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
    waiting, unfinished = deque(members), len(members)
    running: dict[Member, subprocess.Popen[bytes]] = {}
    used: dict[Member, str] = {}
    asked = False
    with stop.deferred():
        try:
            while running or (waiting and stop.requested is None):
                while waiting and len(running) < jobs and stop.requested is None:
                    member = waiting.popleft()
                    if gpus and member.on_gpu:
                        used[member] = min(gpus, key=[*used.values()].count)
                    seen = {"CUDA_VISIBLE_DEVICES": used[member]} if member in used else {}
                    running[member] = member.command(max(1, usable_cores() // jobs), seen).start()
                for member, process in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[member]
                        used.pop(member, None)
                        unfinished -= code == 0
                        yield Ended(member, code)
                if stop.requested is not None and not asked:
                    asked = True
                    _ask_to_save(running.values())
                time.sleep(_POLL_SECONDS)
        finally:
            _ask_to_save(running.values())
    if stop.requested is not None and unfinished:
        raise Stopped(
            f"stopped by {stop.requested}, with what was trained saved: the same command goes on "
            f"with the {unfinished} members that are not finished"
        )


def _ask_to_save(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """A Ctrl-C has reached them already, which a second signal does not change; others have not."""
    for process in processes:
        process.terminate()


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return [gpu.strip() for gpu in named.split(",")][:count] if named else [*map(str, range(count))]


def default_jobs(gpus: Sequence[str]) -> int:
    """One for each GPU; without any, one for every two cores."""
    return len(gpus) or max(1, usable_cores() // _CORES_OF_A_JOB)
