"""A signal that comes to a run while it trains."""

import contextlib
import subprocess
import sys
import time

import pytest
from started import started

from symrun.errors import Stopped
from symrun.training.progress import Progress
from symrun.training.signals import StopRequest


@contextlib.contextmanager
def stopping_at(step, monkeypatch):
    """A StopRequest to train with, which a signal fills in while update `step` is under way; the
    training within must end by it."""
    stop, updated = StopRequest(), Progress.updated

    def signalled(self, images):
        updated(self, images)
        if self.updates == step:
            stop.requested = "SIGTERM"

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "updated", signalled)
        with pytest.raises(Stopped, match=f"SIGTERM after step {step}, and saved"):
            yield stop


@contextlib.contextmanager
def training(folder, *overrides):
    """`symrun train` in a process of its own, once the first records of its many updates are on the
    disk; it is killed in the end, whatever happens.

    Updates that take a minute and more, but few enough that a small disk has room for their tables.
    """
    command = [sys.executable, "-m", "symrun", "train", *overrides, "train.steps=20000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started([*command, f"run.dir={folder}"], **pipes) as process:
        deadline = time.monotonic() + 60
        while not list(folder.glob("tables/units/part-*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no record in a minute"
            time.sleep(0.02)
        yield process
