"""Checkpoints while a run trains, and its end when a signal asks for it or when it diverged."""

import logging
import signal

from symrun import ranks
from symrun.config import OnDivergence
from symrun.errors import Diverged, RunError, Stopped
from symrun.runs.checkpoint import save_checkpoint
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import NoWriter, TableWriter
from symrun.training.signals import StopRequest
from symrun.training.state import State

_log = logging.getLogger(__name__)

_DIVERGED, _FAILED = 1000, 1001
"""What ends a run, beside the number of a signal; of several reasons the largest counts."""


class Checkpointer:
    """Saves a checkpoint every train.checkpoint_every updates, and one when asked to stop.

    Several processes end after the same update, whichever of them was asked to.
    """

    def __init__(
        self,
        run: RunDirectory,
        writer: TableWriter | NoWriter,
        state: State,
        stop: StopRequest,
    ) -> None:
        self._run = run
        self._writer = writer
        self._state = state
        config = state.training.plan.config
        self._settings = config.train
        self._config = config.to_dict()
        self._stop = stop
        self._warned = False
        self._agreement = ranks.Agreement()

    def after_update(self) -> None:
        """Error: Diverged, RunError, or Stopped once all is on its way to the disk."""
        self._end_if_agreed(self._reason())
        if self._state.progress.updates % self._settings.checkpoint_every == 0:
            self.save(done=False)

    def during_validation(self) -> None:
        """Error: as in `after_update`. The run goes on before the validation, which leaves nothing
        behind."""
        self._end_if_agreed(self._signal())

    def finish(self) -> None:
        """After the last record; a signal comes too late. Error: Diverged, RunError."""
        reason = self._agreement.settle(self._reason())
        if reason in (_DIVERGED, _FAILED):
            self._end(reason)
        self.save(done=True)

    def save(self, done: bool) -> None:
        """Hand a checkpoint to the writing thread. done: nothing is left to do after it."""
        step, keep = self._state.progress.updates, self._settings.checkpoint_keep
        if not ranks.is_first():
            self._state.progress.state()  # for the first to save
            return
        header, snapshot = {"config": self._config, "done": done}, self._state.snapshot()
        self._writer.checkpoint(
            lambda parts: save_checkpoint(
                self._run, step, {**header, "parts": parts, **snapshot()}, keep
            )
        )

    def _end_if_agreed(self, reason: int) -> None:
        """reason: why this process wants to end, 0 if it does not."""
        reason = self._agreement.exchange(reason)
        if reason != 0:
            self._end(reason)

    def _end(self, reason: int) -> None:
        ranks.mark_agreed()
        if reason == _FAILED:
            self._writer.raise_failure()
            raise RunError("another process of this run cannot write")
        if reason == _DIVERGED:
            raise Diverged(str(self._state.progress.diverged))
        self.save(done=False)
        name = signal.Signals(reason).name
        raise Stopped(f"{name} after step {self._state.progress.updates}")

    def _reason(self) -> int:
        if self._writer.failed:
            return _FAILED
        return _DIVERGED if self._diverged() else self._signal()

    def _signal(self) -> int:
        return signal.Signals[self._stop.requested] if self._stop.requested is not None else 0

    def end_if_diverged(self) -> None:
        """Error: Diverged, unless train.on_divergence says to go on."""
        if self._diverged():
            raise Diverged(str(self._state.progress.diverged))

    def _diverged(self) -> bool:
        """Whether that ends the run; if it does not, it is said, once."""
        diverged = self._state.progress.diverged
        if diverged is None or self._warned:
            return False
        if self._settings.on_divergence is OnDivergence.stop:
            return True
        self._warned = True
        _log.warning("%s", diverged)
        return False
