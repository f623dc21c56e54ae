"""A run in a loop of the user's own: hooks on the optimiser's step, and a run folder."""

import atexit
import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symrun.attached.calls import OutermostCalls
from symrun.attached.description import (
    columns_of,
    describe,
    describe_groups,
    unpredicted,
)
from symrun.attached.notices import Notices
from symrun.attached.progress_row import progress_row
from symrun.attached.ranks import FailedElsewhere, Ranks, Refused
from symrun.attached.records import Records
from symrun.attached.resuming import asked_for, groups_in, names_of, require_same
from symrun.attached.subject import reshard
from symrun.errors import UsageError, in_one_line
from symrun.laws import SGD
from symrun.runs.info import Status
from symrun.runs.tables import SOURCE
from symrun.symmetry import Structure
from symrun.tracking import Tracker, Watcher
from symrun.tracking.audit import Audit
from symrun.tracking.followed import FollowedOptimizer, groups_moved_by
from symrun.tracking.output_source import OutputSource

_LOG = logging.getLogger(__name__)
_VERSION = 1
"""Of what `state_dict` returns."""


class TrackedRun:
    """Tracks a network in a loop of the user's own, from the optimiser's next step to `close`.

    It is a context manager, which closes it. An error of its own, such as a full disk, ends the
    tracking with a warning and leaves the training alone, unless `audit` is "error". Where a model
    is spread over ranks, all of them call `state_dict`, `load_state_dict` and `close`.

    step: the updates seen so far. path: the run's folder. Made by `track`.
    Example: symrun.track(model, optimizer, images, "runs/mine").close()
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        structure: Structure,
        ranks: Ranks,
        records: Records,
        every: int,
        sample: int,
        audit: str,
        more: Sequence[str],
        declared: SGD | None,
        watchers: Sequence[Watcher],
        source: OutputSource | None = None,
    ) -> None:
        self._model, self._optimizer, self._structure = model, optimizer, structure
        self._ranks, self._records, self._every, self._sample = ranks, records, every, sample
        self._on_violation, self._declared, self._watchers = audit, declared, tuple(watchers)
        self._source, self._asked = source, asked_for(structure)
        self._more = (*more, *(SOURCE if source is not None else ()))
        ranks.flags = 1 + len(structure.groups)  # to divide anew, and which groups are observed
        self._state: dict[str, Any] | None = None
        self.step = 0
        self.path = records.path
        self._open = True
        self._tracker: Tracker | None = None
        self._begun = False
        self._calls = OutermostCalls()
        self._process = os.getpid()
        """In a fork of it nothing is tracked: the writing thread is not there."""
        self._hooks: list[RemovableHandle] = [] if source is None else source.handles
        self._hooks += [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(Exception):
            self._end(_status(kind), together=kind is None)

    def close(self) -> None:
        """Record the weights as they are, and write what is left.

        Error: RunError if the disk refuses, where `audit` is "error"; else a warning.
        """
        self._end(Status.finished, together=True)

    def _end(self, status: Status, together: bool) -> None:
        with self._surviving():
            self._close(status, together)

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
        with self._surviving():
            self._records.put("progress", row)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here in the same folder, on the CPU.

        All records so far are on the disk then. It is empty before the first step.
        """
        if self._tracker is not None and (self._open or self._ranks.owed):
            with self._surviving():
                self._ranks.meet(self.step, call="state_dict")
                if self._open:
                    self._state = self._state_now()
        return dict(self._state or {})

    def _state_now(self) -> dict[str, Any]:
        """Error: RunError if the disk refused something."""
        assert self._tracker is not None
        measured = self._tracker.measured.cpu()
        return {
            "version": _VERSION,
            "step": self.step,
            "parts": self._records.flushed(),
            "asked": self._asked,
            "groups": names_of(self._structure),
            "reasons": list(self._followed.reasons),
            "laws": {
                name: rows.to("cpu", copy=True) for name, rows in self._tracker.by_law.items()
            },
            "measured": measured,
            "seconds": self._records.seconds,
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
        if state.get("version") != _VERSION:
            raise UsageError(f"{self.path} was made by another symrun")
        require_same(state, self._structure, self.path)
        self._state, self.step = dict(state), int(state["step"])

    # The two halves of an update

    def _before_step(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """With a closure, gradients are there once it was called for the first time.

        args: of the step, the optimiser itself before all others.
        """
        if os.getpid() != self._process:
            return None
        if not self._open:
            self._tell()
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
            first = self._tracker is None
            with self._ranks.agreeing(self.step) as flags:
                if first:
                    self._prepare()
                else:
                    self._notices.before_update()
                reasons = self._followed.follow(self.step)
                flags[0] = reasons is not None
                observed = self._followed.observed
                flags[1 : 1 + len(observed)] = observed
            reasons = (reasons or set()) | self._followed.observe(flags[1:])
            if first:
                if flags[0] or self._state is not None:
                    self._followed.divide()
                self._start()
            elif flags[0]:
                self._divide()
            assert self._tracker is not None
            self._tracker.scale = getattr(self._optimizer, "grad_scale", None)
            self._tracker.before_update(self.step)
            if flags[0] and not first:
                self._note(reasons)

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

    def _prepare(self) -> None:
        """At the first update, when the optimiser is what it will be.

        Error: Refused if the folder holds a run that was not loaded, or nothing would be tracked.
        """
        if self._records.goes_on and self._state is None:
            raise Refused(
                f"{self.path} holds a run already: load_state_dict goes on with it, or choose "
                "another path"
            )
        if self._source is not None and not self._source.fed:
            raise Refused(
                "homogeneity=True needs the outputs, and no backward pass came from the model that "
                "symrun.track was given: call that one, or leave homogeneity out"
            )
        reshard(self._model)
        groups = groups_moved_by(self._optimizer, self._model, self._structure.groups)
        if self._state is not None:  # the optimiser may move more by now
            groups = groups_in(self._state, self._structure)
        if not groups:
            raise Refused(
                f"{type(self._optimizer).__name__} moves none of the parameters that symmetries "
                "act on: give the optimizer that trains this model"
            )
        self._structure = dataclasses.replace(self._structure, groups=groups)
        self._followed = FollowedOptimizer(self._model, self._optimizer, groups, self._declared)
        if self._state is not None:
            self._followed.reasons = list(self._state["reasons"])

    def _start(self) -> None:
        model, structure, state = self._model, self._structure, self._state
        columns = (*columns_of(self._followed), *self._more)
        settings: dict[str, object] = {
            "track": {"every": self._every, "parameters": self._sample},
            "run": {"name": self.path.name},
        }
        info = describe(model, self._optimizer, structure, self._followed, columns, settings)
        with self._ranks.agreeing(self.step):
            info = self._records.start(info, state, self.step)
        audit = Audit(structure.groups, next(model.parameters()).dtype, self._followed.incomplete)
        self._notices = Notices(
            str(self.path), audit, self._on_violation, model, self._optimizer, self._followed
        )
        audits = () if self._on_violation == "off" else (audit,)
        self._tracker = Tracker(
            model,
            self._optimizer,
            structure,
            self._followed,
            self._records,
            self._every,
            self._sample,
            seed=0,
            watchers=(*audits, *self._watchers),
            more=info.columns,
            source=self._source,
        )
        if state is not None:
            self._tracker.divide(state["laws"])
            measured = self._tracker.measured.cpu()
            same = torch.allclose(measured, state["measured"], rtol=1e-5, atol=1e-8)
            if not same and self._ranks.first:
                remedy = "load the model's state as well"
                _LOG.warning("%s goes on with other weights than it had: %s", self.path, remedy)

    def _divide(self) -> None:
        """The optimiser moves some groups by another rule from now on."""
        assert self._tracker is not None
        by_law = {name: rows.clone() for name, rows in self._tracker.by_law.items()}
        reshard(self._model)
        self._followed.divide()
        self._tracker.divide(by_law if self.step else None)

    def _note(self, reasons: Iterable[str]) -> None:
        """Say which groups are not predicted any more."""
        for reason in sorted(reasons) if self._ranks.first else ():
            names = [
                group.name
                for group, one in zip(self._structure.groups, self._followed.reasons, strict=True)
                if one == reason
            ]
            which = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            _LOG.warning("not predicted from step %d on: %s: %s", self.step, which, reason)
        self._records.update(
            groups=describe_groups(self._structure, self._followed),
            unpredicted=unpredicted(self._followed),
            last_step=self.step,
        )

    # The end

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        """The training goes on if tracking fails, unless `audit` is "error"."""
        try:
            yield
        except Exception as error:
            refused = isinstance(error, Refused) or getattr(error, "for_user", False)
            self._ranks.fail(refused)
            self._abandon()
            if self._on_violation == "error" or refused:
                raise
            if not isinstance(error, FailedElsewhere) or self._ranks.first:
                reason = in_one_line(str(error) or type(error).__name__)
                _LOG.warning("%s: tracking ends at step %d: %s", self.path, self.step, reason)

    def _tell(self) -> None:
        """Let the other ranks know that the tracking has ended here."""
        if self._ranks.owed:
            self._ranks.meet(self.step)
        for hook in self._hooks:
            hook.remove()

    def _abandon(self) -> None:
        """Stop in the middle of an error, whatever else fails."""
        with contextlib.suppress(Exception):
            self._close(Status.failed, together=False)

    def _close(self, status: Status, together: bool) -> None:
        """together: whether all ranks call it, so that the weights can be measured once more."""
        if os.getpid() != self._process:
            return
        if not self._open:
            if together:
                self._tell()
            return
        begun = self._begun
        if together:
            begun = self._ranks.meet(self.step, [begun], "close")[0]
        self._open = False
        if not self._ranks.owed:
            self._tell()
        atexit.unregister(self._at_exit)
        try:
            # Within an update the weights may be those before or after it
            if self._tracker is not None and not begun and (together or self._ranks.alone):
                self._state = self._state_now()
                self._tracker.finish(self.step)
        except Exception:
            status = Status.failed
            raise
        finally:
            self._records.end(status, self.step)
        if self._tracker is not None:
            self._notices.at_end()

    def _at_exit(self) -> None:
        """Of the process, where nobody closed the run."""
        kind = getattr(sys, "last_type", None)
        with contextlib.suppress(Exception):
            self._close(_status(kind), together=False)


def _status(kind: type[BaseException] | None) -> Status:
    if kind is None or issubclass(kind, SystemExit):
        return Status.finished
    return Status.interrupted if issubclass(kind, KeyboardInterrupt) else Status.failed
