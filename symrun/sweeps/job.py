"""What runs on the machine that submitit's job gets: a member's command, and how it goes on."""

import os
import signal
import subprocess
from typing import Any

from symrun.errors import Stopped
from symrun.sweeps.member import Command


class Job:
    """Callable as submitit's jobs are: it runs a command, and returns its exit code.

    Before the time limit submitit calls `checkpoint` out of a signal's handler, and queues what
    that returns in place of this job. A SIGTERM or SIGUSR1 is passed on; if Slurm meant to preempt
    the job, it is queued again as well.
    """

    _process: "subprocess.Popen[bytes] | None" = None

    def __call__(self, command: Command) -> int:
        try:
            self._process = process = command.start()
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, lambda number, _: os.kill(process.pid, number))
            code = _code_of(process)
            self._process = None
        except _Over as over:
            code = over.code
        process.returncode = code
        if code == Stopped.exit_code and _is_wanted():
            signal.raise_signal(signal.SIGUSR2)  # as before a time limit: submitit queues it again
        return code

    def checkpoint(self, command: Command) -> Any:
        """The submission that takes this one's place, once the member has saved.

        Error: _Over, which ends `__call__`, if the member has come to its end meanwhile.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            os.kill(self._process.pid, signal.SIGTERM)
            code = _code_of(self._process)
            if 0 <= code <= 2:
                raise _Over(code)
        # Slurm ends a job as soon as it is queued again, and with it submitit's `scontrol requeue`,
        # whose death submitit takes for a failure. What is ignored here is ignored there.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return DelayedSubmission(Job(), command.once_more())


class _Over(Exception):
    """A member ended by itself, finished or failed, when it was asked to save."""

    def __init__(self, code: int) -> None:
        self.code = code


def _code_of(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the exit code and leave it where it is: `Popen.wait` has a lock, for which the
    handler of a signal would wait for ever."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None  # since WNOHANG is not asked for
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _is_wanted() -> bool:
    """Whether Slurm still has this job as running, which it has not once it is cancelled."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    words = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() == "RUNNING"
