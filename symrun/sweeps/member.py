"""A member of a sweep: a command that starts its run, goes on with it, or finds it finished."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from symrun.errors import in_one_line

PROGRAM = (sys.executable, "-m", "symrun", "train", "-m")
"""What trains a member, given its settings."""

_TAIL_BYTES = 8192


class Stop(Protocol):
    """A request to stop, as an engine needs it: a `StopRequest`, which belongs to training."""

    requested: str | None

    def deferred(self) -> AbstractContextManager[None]:
        """While it is entered, a signal becomes a name in `requested`; else KeyboardInterrupt."""


@dataclass(frozen=True)
class Member:
    """One member.

    title: such as "member 2 of 5 (seed=1)". words: all of its settings. folder: where the sweep
    keeps its logs. digest: tells its settings from those of others. on_gpu: whether it wants one.
    """

    title: str
    words: tuple[str, ...]
    folder: Path
    digest: str
    on_gpu: bool

    @property
    def log(self) -> Path:
        """What it says, those of earlier attempts first."""
        return self.folder / f"{self.digest}.log"

    @property
    def printed(self) -> Path:
        """The standard output of its last attempt: the folder of its run."""
        return self.folder / f"{self.digest}.out"

    @property
    def job(self) -> Path:
        """Which job of a cluster it is, while there is one."""
        return self.folder / f"{self.digest}.job"

    def command(self, threads: int, environment: Mapping[str, str] | None = None) -> "Command":
        """The command that trains it, with at most so many threads."""
        here = Path.cwd()
        own = int(os.environ.get("OMP_NUM_THREADS") or threads)
        pinned = {"OMP_NUM_THREADS": str(min(own, threads)), **(environment or {})}
        log, printed = (here / path for path in (self.log, self.printed))
        return Command(self.words, here, log, printed, pinned)

    def run(self) -> str | None:
        """The folder of its run; None if the last attempt named none."""
        lines = _tail(self.printed)
        return lines[-1] if lines else None

    def error(self, code: int) -> str:
        """What its last attempt, which ended with `code`, said of the reason."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        said = _tail(self.log)
        own = [line for line in said if line.startswith("symrun: ")]
        last = (own or said or [f"exit code {code}"])[-1]
        return in_one_line(last.removeprefix("symrun: "))


@dataclass(frozen=True)
class Command:
    """The command of a member, on whichever machine: `words` are its settings, `folder` is where it
    was given, and the rest where its output goes and what its environment holds besides."""

    words: tuple[str, ...]
    folder: Path
    log: Path
    printed: Path
    environment: Mapping[str, str]

    def start(self) -> "subprocess.Popen[bytes]":
        """Error: OSError if its output cannot be written."""
        words = [*PROGRAM, *self.words, "sweep=one_by_one"]
        with open(self.log, "ab") as log, open(self.printed, "wb") as printed:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=log,
            )

    def once_more(self) -> "Command":
        """The same, to go on with the run that this one started: run.again must not hold twice."""
        return replace(self, words=(*self.words, "run.again=false"))


@dataclass(frozen=True)
class Ended:
    """A member whose command has ended.

    code: its exit code, or minus the signal that killed it. reason: why there is no code of its
    own, if there is none.
    """

    member: Member
    code: int
    reason: str | None = None

    @property
    def error(self) -> str:
        return self.reason or self.member.error(self.code)


def _tail(path: Path) -> list[str]:
    """The last lines of a file, without blank ones; none if it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
