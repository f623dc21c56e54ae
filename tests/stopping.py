"""A signal that comes to a run while it trains."""

import contextlib

import pytest

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
