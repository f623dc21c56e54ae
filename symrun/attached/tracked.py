"""A run in a loop of the user's own: hooks on the optimiser's step, and a run folder."""

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor, nn

from symrun.attached.description import (
    columns_of,
    describe,
    describe_groups,
    unpredicted,
)
from symrun.attached.notices import Notices
from symrun.errors import UsageError
from symrun.laws import SGD
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import Status
from symrun.runs.tables import DYNAMICS, PROGRESS_SCHEMA
from symrun.runs.writer import TableWriter
from symrun.symmetry import Structure
from symrun.tracking import Tracker, Watcher
from symrun.tracking.audit import Audit
from symrun.tracking.followed import FollowedOptimizer, groups_moved_by
from symrun.tracking.staging import Staged

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
        said: SGD | None,
        watchers: Sequence[Watcher],
        goes_on: bool,
    ) -> None:
        self._model, self._optimizer, self._structure = model, optimizer, structure
        self._run, self._every, self._sample = run, every, sample
        self._on_violation, self._said, self._watchers = audit, said, tuple(watchers)
        self._dynamics, self._goes_on = dynamics, goes_on
        """The folder has a run already, which `load_state_dict` goes on with."""
        self._state: dict[str, Any] | None = None
        self.step = 0
        self.path = run.path
        self._open = True
        self._tracker: Tracker | None = None
        self._begun = False
        self._resources = contextlib.ExitStack()
        self._resources.enter_context(run.locked())
        hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )
        self._hooks = hooks
        self._started = time.monotonic()
        self._seconds = 0.0
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        self._close(_status(kind))

    def close(self) -> None:
        """Record the weights as they are, and write what is left. Error: RunError if the disk
        refuses."""
        self._close(Status.finished)

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
        """
        if self._tracker is None or not self._open:
            return
        step, lr = self.step, float(self._optimizer.param_groups[0].get("lr") or 0.0)
        staged = {
            name: Staged(torch.as_tensor(value).detach().to(torch.float64, copy=True))
            for name, value in (("loss", loss), ("top1", top1), ("top5", top5))
            if value is not None
        }

        def row() -> pa.Table:
            values = {name: float(value.wait()) for name, value in staged.items()}
            fixed = {"step": step, "epoch": epoch, "split": split, "lr": lr}
            columns = {name: values.get(name, fixed.get(name)) for name in PROGRESS_SCHEMA.names}
            return pa.Table.from_pylist([columns], schema=PROGRESS_SCHEMA)

        with self._surviving():
            self._writer.put("progress", row)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here in the same folder, on the CPU.

        All records so far are on the disk then. Error: RunError if the disk refused something.
        """
        if self._tracker is None or not self._open:
            return dict(self._state or {})
        return {
            "version": _VERSION,
            "step": self.step,
            "parts": self._flushed(),
            "groups": self._names(),
            "reasons": list(self._followed.reasons),
            "laws": {name: rows.cpu() for name, rows in self._tracker.by_law.items()},
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
        if state.get("version") != _VERSION or state.get("groups") != self._names():
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
        if not self._open:
            return
        self._begun = True
        if self._tracker is None:
            self._start()  # an error here is the user's, at the first update
        with self._surviving():
            assert self._tracker is not None
            self._notices.before_update()
            if (reasons := self._followed.follow(self.step)) is not None:
                self._divide(reasons)
            self._tracker.scale = getattr(self._optimizer, "grad_scale", None)
            self._tracker.before_update(self.step, lr=0.0)

    def _after_step(self, *_: object) -> None:
        if not self._begun or self._tracker is None or not self._open:
            return
        self._begun = False
        with self._surviving():
            self._tracker.after_update()
            self._notices.after_update()
        self.step += 1

    def _start(self) -> None:
        """At the first update, when the optimiser is what it will be.

        Error: UsageError if the folder holds a run that was not loaded.
        """
        if self._goes_on and self._state is None:
            self._abandon()
            raise UsageError(
                f"{self.path} holds a run already: load_state_dict goes on with it, or choose "
                "another path"
            )
        model, state = self._model, self._state
        groups = groups_moved_by(self._optimizer, model, self._structure.groups)
        if not groups:
            self._abandon()
            raise UsageError(
                f"{type(self._optimizer).__name__} moves none of the parameters that symmetries "
                "act on: give the optimizer that trains this model"
            )
        structure = self._structure = dataclasses.replace(self._structure, groups=groups)
        self._followed = FollowedOptimizer(model, self._optimizer, structure.groups, self._said)
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
    def _surviving(self) -> Any:
        """The training goes on if tracking fails, unless `audit` is "error"."""
        try:
            yield
        except Exception as error:
            if self._on_violation == "error":
                self._abandon()
                raise
            self._abandon()
            _LOG.warning("%s: tracking ends at step %d: %s", self.path, self.step, error)

    def _abandon(self) -> None:
        """Stop in the middle of an error, whatever else fails."""
        with contextlib.suppress(Exception):
            self._close(Status.failed)

    def _close(self, status: Status) -> None:
        if not self._open:
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
                    self._state = self.state_dict()
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


class Untracked(TrackedRun):
    """In the processes of a distributed run that do not track: all methods do nothing."""

    def __init__(self) -> None:
        self.step, self.path = 0, Path(os.devnull)
        self._tracker, self._state, self._open = None, None, False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _status(kind: type[BaseException] | None) -> Status:
    if kind is None or issubclass(kind, SystemExit):
        return Status.finished
    return Status.interrupted if issubclass(kind, KeyboardInterrupt) else Status.failed
