"""A run in a loop of the user's own: hooks on the optimiser's step, and a run folder."""

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from symrun.attached.calls import OutermostCalls
from symrun.attached.description import (
    columns_of,
    describe,
    describe_groups,
    unpredicted,
)
from symrun.attached.notices import Notices
from symrun.attached.progress_row import progress_row
from symrun.errors import Busy, UsageError, in_one_line
from symrun.laws import SGD
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import Status
from symrun.runs.mirror import written
from symrun.runs.tables import DYNAMICS
from symrun.runs.writer import Record, TableWriter
from symrun.symmetry import Structure
from symrun.tracking import Tracker, Watcher
from symrun.tracking.audit import Audit
from symrun.tracking.followed import FollowedOptimizer, groups_moved_by

_LOG = logging.getLogger(__name__)
_VERSION = 1
"""Of what `state_dict` returns."""


class TrackedRun:
    """Tracks a network in a loop of the user's own, from the optimiser's next step to `close`.

    It is a context manager, which closes it. An error of its own, such as a full disk, ends the
    tracking with a warning and leaves the training alone, unless `audit` is "error".

    step: the updates seen so far. path: the run's folder. Made by `track`.
    Example: symrun.track(model, optimizer, images, "runs/mine").close()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        structure: Structure,
        run: RunDirectory,
        every: int,
        sample: int,
        audit: str,
        dynamics: bool,
        declared: SGD | None,
        watchers: Sequence[Watcher],
        goes_on: bool,
    ) -> None:
        self._model, self._optimizer, self._structure = model, optimizer, structure
        self._run, self._every, self._sample = run, every, sample
        self._on_violation, self._declared, self._watchers = audit, declared, tuple(watchers)
        self._dynamics = dynamics
        self._goes_on = goes_on
        """The folder has a run already, which `load_state_dict` goes on with."""
        self._state: dict[str, Any] | None = None
        self.step = 0
        self.path = run.path
        self._open = True
        self._tracker: Tracker | None = None
        self._begun = False
        self._calls = OutermostCalls()
        self._process = os.getpid()
        """In a fork of it nothing is tracked: the writing thread is not there."""
        self._early: list[Record] = []
        self._resources = contextlib.ExitStack()
        try:
            self._resources.enter_context(written(run))
        except Busy as error:
            raise UsageError(
                f"{error}, or by another tracker of this one: close it first"
            ) from None
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )
        self._started = time.monotonic()
        self._seconds = 0.0
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
            self._end(_status(kind))

    def close(self) -> None:
        """Record the weights as they are, and write what is left.

        Error: RunError if the disk refuses, where `audit` is "error"; else a warning.
        """
        self._end(Status.finished)

    def _end(self, status: Status) -> None:
        with self._surviving():
            self._close(status)

    def log(
        self,
        split: str = "train",
        epoch: int | None = None,
        loss: float | Tensor | None = None,
        top1: float | Tensor | None = None,
        top5: float | Tensor | None = None,
    ) -> None:
        """A row of the table `progress` at this step; tensors are not waited for.

        split: "train" or "val". top1, top5: accuracies, shares of 1.
        Error: UsageError for another split, or what is no number.
        """
        if not self._open:
            return
        lr = float(self._optimizer.param_groups[0].get("lr") or 0.0)
        row = progress_row(self.step, lr, split, epoch, loss=loss, top1=top1, top5=top5)
        if self._tracker is None:
            self._early.append(row)
            return
        with self._surviving():
            self._writer.put("progress", row)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here in the same folder, on the CPU.

        All records so far are on the disk then. It is empty before the first step.
        """
        if self._tracker is not None and self._open:
            with self._surviving():
                self._state = self._state_now()
        return dict(self._state or {})

    def _state_now(self) -> dict[str, Any]:
        """Error: RunError if the disk refused something."""
        assert self._tracker is not None
        return {
            "version": _VERSION,
            "step": self.step,
            "parts": self._flushed(),
            "groups": self._names(),
            "reasons": list(self._followed.reasons),
            "laws": {name: rows.cpu() for name, rows in self._tracker.by_law.items()},
            "measured": self._tracker.measured.cpu(),
            "seconds": self._seconds + time.monotonic() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was called, before the first step; what the folder holds from
        later is removed at that step.

        Error: UsageError if it is the state of another network, or updates were made already.
        """
        if not state:
            return
        if self.step or self._tracker is not None:
            raise UsageError("load_state_dict comes before the first step that is tracked")
        groups = state.get("groups", [[]])
        if state.get("version") != _VERSION or any(one not in self._names() for one in groups):
            raise UsageError(f"{self.path} was made with another network, or by another symrun")
        self._state, self.step = dict(state), int(state["step"])

    def _names(self) -> list[list[Any]]:
        return [[one.symmetry.value, one.name, one.units] for one in self._structure.groups]

    # The two halves of an update

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """With a closure, gradients are there once it was called for the first time.

        args: of the step, the optimiser itself before all others.
        """
        if not self._open or os.getpid() != self._process:
            return None
        if not self._calls.enter(sys._getframe(1)):
            return None
        if self._begun and self._tracker is not None:  # the last step failed
            self._tracker.undo()
        self._begun = False
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._measure()
            return None

        def measured() -> Any:
            loss = closure()
            if not self._begun:
                self._measure()
            return loss

        return (args[0], measured, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _measure(self) -> None:
        self._begun = True
        with self._surviving():
            if self._tracker is None:
                self._start()
            assert self._tracker is not None
            self._notices.before_update()
            if (reasons := self._followed.follow(self.step)) is not None:
                self._divide(reasons)
            self._tracker.scale = getattr(self._optimizer, "grad_scale", None)
            self._tracker.before_update(self.step)

    def _after_step(self, *_: object) -> None:
        if not self._calls.leave(sys._getframe(1)):
            return
        if not self._begun or self._tracker is None or not self._open:
            return
        with self._surviving():
            self._tracker.after_update()
            self._notices.after_update()
        self.step += 1
        self._begun = False  # last: an interruption before leaves the update unfinished

    def _start(self) -> None:
        """At the first update, when the optimiser is what it will be.

        Error: _Refused if the folder holds a run that was not loaded, or nothing would be tracked.
        """
        if self._goes_on and self._state is None:
            raise _Refused(
                f"{self.path} holds a run already: load_state_dict goes on with it, or choose "
                "another path"
            )
        model, state = self._model, self._state
        groups = groups_moved_by(self._optimizer, model, self._structure.groups)
        if not groups:
            raise _Refused(
                f"{type(self._optimizer).__name__} moves none of the parameters that symmetries "
                "act on: give the optimizer that trains this model"
            )
        structure = self._structure = dataclasses.replace(self._structure, groups=groups)
        self._followed = FollowedOptimizer(model, self._optimizer, structure.groups, self._declared)
        if state is not None:
            self._followed.reasons = list(state["reasons"])
        if self._followed.follow(self.step) is not None or state is not None:
            self._followed.divide()
        columns = (*columns_of(self._followed), *(DYNAMICS if self._dynamics else ()))
        settings: dict[str, object] = {
            "track": {"every": self._every, "parameters": self._sample},
            "run": {"name": self.path.name},
        }
        info = describe(model, self._optimizer, structure, self._followed, columns, settings)
        parts = dict.fromkeys(TABLES, 0)
        if state is not None:
            parts |= state["parts"]
            before = self._run.info()
            info = dataclasses.replace(info, created=before.created, columns=before.columns)
            self._run.truncate_to(parts, self.step)
            self._seconds = float(state["seconds"])
        self._info = info
        self._write_info(last_step=self.step)
        self._writer = TableWriter(self._run, parts)
        audit = Audit(groups, next(model.parameters()).dtype, self._followed.incomplete)
        self._notices = Notices(
            str(self.path), audit, self._on_violation, model, self._optimizer, self._followed
        )
        audits = () if self._on_violation == "off" else (audit,)
        self._tracker = Tracker(
            model,
            self._optimizer,
            structure,
            self._followed,
            self._writer,
            self._every,
            self._sample,
            seed=0,
            watchers=(*audits, *self._watchers),
            more=info.columns,
        )
        if state is not None:
            self._tracker.divide(state["laws"])
            measured = self._tracker.measured.cpu()
            if not torch.allclose(measured, state["measured"], rtol=1e-5, atol=1e-8):
                remedy = "load the model's state as well"
                _LOG.warning("%s goes on with other weights than it had: %s", self.path, remedy)
        for row in self._early:
            self._writer.put("progress", row)

    def _divide(self, reasons: Iterable[str]) -> None:
        """The optimiser moves some groups by another rule from now on."""
        assert self._tracker is not None
        by_law = {name: rows.clone() for name, rows in self._tracker.by_law.items()}
        self._followed.divide()
        self._tracker.divide(by_law if self.step else None)
        for reason in sorted(reasons):
            names = [
                group.name
                for group, one in zip(self._structure.groups, self._followed.reasons, strict=True)
                if one == reason
            ]
            which = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            _LOG.warning("not predicted from step %d on: %s: %s", self.step, which, reason)
        self._info = dataclasses.replace(
            self._info,
            groups=describe_groups(self._structure, self._followed),
            unpredicted=unpredicted(self._followed),
        )
        self._write_info(last_step=self.step)

    # The end

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """The training goes on if tracking fails, unless `audit` is "error"."""
        try:
            yield
        except Exception as error:
            self._abandon()
            if self._on_violation == "error" or isinstance(error, _Refused):
                raise
            reason = in_one_line(str(error) or type(error).__name__)
            _LOG.warning("%s: tracking ends at step %d: %s", self.path, self.step, reason)

    def _abandon(self) -> None:
        """Stop in the middle of an error, whatever else fails."""
        with contextlib.suppress(Exception):
            self._close(Status.failed)

    def _close(self, status: Status) -> None:
        if not self._open or os.getpid() != self._process:
            return
        for hook in self._hooks:
            hook.remove()
        atexit.unregister(self._at_exit)
        with self._resources:
            if self._tracker is None:
                self._open = False
                if not self._goes_on:
                    self._run.discard()
                return
            try:
                if not self._begun:  # else the weights may be before or after the update
                    self._state = self._state_now()
                    self._tracker.finish(self.step)
                self._open = False
                self._writer.__exit__(None, None, None)
            except Exception:
                status = Status.failed
                raise
            finally:
                self._open = False
                seconds = self._seconds + time.monotonic() - self._started
                with contextlib.suppress(OSError, UsageError):
                    self._write_info(last_step=self.step, status=status, seconds=seconds)
            self._notices.at_end()

    def _at_exit(self) -> None:
        """Of the process, where nobody closed the run."""
        kind = getattr(sys, "last_type", None)
        with contextlib.suppress(Exception):
            self._close(_status(kind))

    def _write_info(self, **changes: Any) -> None:
        self._info = dataclasses.replace(self._info, **changes)
        self._run.write_info(self._info)

    def _flushed(self) -> dict[str, int]:
        """The parts of each table, once all records so far are on the disk."""
        found: dict[str, int] = {}
        done = threading.Event()

        def note(parts: dict[str, int]) -> None:
            found.update(parts)
            done.set()

        self._writer.checkpoint(note)
        while not done.wait(0.05):
            self._writer.raise_failure()
        return found


class _Refused(UsageError):
    """What the user has to mend before anything can be tracked."""


def _status(kind: type[BaseException] | None) -> Status:
    if kind is None or issubclass(kind, SystemExit):
        return Status.finished
    return Status.interrupted if issubclass(kind, KeyboardInterrupt) else Status.failed
