"""Says once what the audit noticed, with the likely cause."""

import logging

import torch
from torch import nn

from symrun.attached.inquiry import Inquiry
from symrun.errors import RunError
from symrun.laws import DiscreteLaw
from symrun.tracking.audit import Audit, Violation
from symrun.tracking.followed import FollowedOptimizer
from symrun.tracking.shares import Shares

_LOG = logging.getLogger(__name__)


class Notices:
    """A line for each kind of violation: a warning, or the end of the run.

    Call `before_update` and `after_update` around each update, and `at_end`.

    on_violation: "warn", "error" or "off".
    Error: RunError where it is "error".
    """

    def __init__(
        self,
        path: str,
        audit: Audit,
        on_violation: str,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        followed: FollowedOptimizer,
    ) -> None:
        self._path, self._audit, self._on_violation = path, audit, on_violation
        self._model, self._optimizer, self._followed = model, optimizer, followed
        self._inquiry: Inquiry | None = None
        self._reported: set[Violation] = set()

    def before_update(self) -> None:
        broken, missed = self._audit.broken, self._audit.missed
        if broken is not None and broken not in self._reported:
            self._report(broken)
        if missed is None or missed in self._reported:
            return
        if self._inquiry is None or not self._inquiry.complete:  # it takes an update
            self._inquiry = self._inquiry_into(missed)
            self._inquiry.before()
            return
        cause, self._inquiry = self._inquiry.cause(), None
        self._report(missed, f": {cause}")

    def after_update(self) -> None:
        if self._inquiry is not None:
            self._inquiry.after()

    def at_end(self) -> None:
        """Say what no update was left to explain."""
        missed = self._audit.missed
        if missed is not None and missed not in self._reported:
            self._report(missed)

    def _inquiry_into(self, missed: Violation) -> Inquiry:
        group = self._followed.groups[missed.group]
        names = dict.fromkeys(members.parameter for members in group.members)
        rules = zip(self._followed.parts, self._followed.rules(), strict=True)
        (found,) = (rule for part, rule in rules if missed.group in part.groups)
        exact = found.laws["exact"]
        declared = exact.sgd if isinstance(exact, DiscreteLaw) else None
        shares = Shares(self._model)
        parameters = {}
        for name in names:
            parameter = self._model.get_parameter(name)
            share = shares.share_of(parameter)
            if share.of(parameter.detach()).numel():
                parameters[name] = parameter, share
        return Inquiry(parameters, self._optimizer, found.lr, declared)

    def _report(self, violation: Violation, cause: str = "") -> None:
        self._reported.add(violation)
        line = self._audit.line(violation) + cause
        if self._on_violation == "error":
            raise RunError(f"{self._path}: {line}")
        _LOG.warning("%s: %s", self._path, line)
