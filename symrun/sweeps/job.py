"""What runs on the machine that submitit's job gets: a member's command, and how it goes on."""

import contextlib
import os
import signal
import subprocess
from typing import Any

from symrun.errors import Stopped
from symrun.sweeps.member import Command


class Job:
    """Callable as submitit's jobs are: it runs a command, and returns its exit code.

    Before the time limit submitit calls `checkpoint`, which lets the member save, and queues what
    that returns in place of this job. A SIGTERM or SIGUSR1 is passed on; if Slurm meant to preempt
    the job, it is queued again as well.
    """

    _process: "subprocess.Popen[bytes] | None" = None

    def __call__(self, command: Command) -> int:
        self._process = process = command.start()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, _: process.send_signal(number))
        _wait(process)
        code = process.wait()
        if code == Stopped.exit_code and _is_wanted():
            signal.raise_signal(signal.SIGUSR2)  # as before a time limit: submitit queues it again
        return code

    def checkpoint(self, command: Command) -> Any:
        """The submission that takes this one's place, once the member has saved."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            _wait(self._process)
        return DelayedSubmission(Job(), command.once_more())


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait without the lock of `Popen.wait`, which a signal's handler could not take again."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _is_wanted() -> bool:
    """Whether Slurm still has this job as running, which it has not once it is cancelled."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    words = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() == "RUNNING"
