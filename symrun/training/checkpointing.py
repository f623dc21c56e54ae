"""Checkpoints while a run trains, and its end when a signal asks for it or when it diverged."""

import logging

from symrun.config import OnDivergence
from symrun.errors import Diverged, Stopped
from symrun.runs.checkpoint import save_checkpoint
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.training.signals import StopRequest
from symrun.training.state import State

_log = logging.getLogger(__name__)


class Checkpointer:
    """Saves a checkpoint every train.checkpoint_every updates, and one when asked to stop."""

    def __init__(
        self,
        run: RunDirectory,
        writer: TableWriter,
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

    def after_update(self) -> None:
        """Error: Diverged, or Stopped once all is on its way to the disk."""
        self.end_if_diverged()
        if self._stop.requested is not None:
            self._save_and_stop()
        if self._state.progress.updates % self._settings.checkpoint_every == 0:
            self.save(done=False)

    def during_validation(self) -> None:
        """Error: Stopped. The run goes on before the validation, which leaves nothing behind."""
        if self._stop.requested is not None:
            self._save_and_stop()

    def finish(self) -> None:
        """After the last record. Error: Diverged."""
        self.end_if_diverged()
        self.save(done=True)

    def save(self, done: bool) -> None:
        """Hand a checkpoint to the writing thread. done: nothing is left to do after it."""
        step, keep = self._state.progress.updates, self._settings.checkpoint_keep
        header, snapshot = {"config": self._config, "done": done}, self._state.snapshot()
        self._writer.checkpoint(
            lambda parts: save_checkpoint(
                self._run, step, {**header, "parts": parts, **snapshot()}, keep
            )
        )

    def _save_and_stop(self) -> None:
        self.save(done=False)
        raise Stopped(f"{self._stop.requested} after step {self._state.progress.updates}")

    def end_if_diverged(self) -> None:
        """Error: Diverged, unless train.on_divergence says to go on; then a warning, once."""
        diverged = self._state.progress.diverged
        if diverged is None or self._warned:
            return
        if self._settings.on_divergence is OnDivergence.stop:
            raise Diverged(str(diverged))
        self._warned = True
        _log.warning("%s", diverged)
