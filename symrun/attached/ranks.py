"""The processes that track one network together, and what they have to agree on."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from symrun.errors import RunError, UsageError
from symrun.tracking.shares import is_spread

ALL_CALL = timedelta(minutes=5)
"""How long a rank waits for the others to call `symrun.track`."""
MEETING = timedelta(minutes=30)
"""How long a rank waits for the others later: the first may save, or find the symmetries."""

_CALLS = ("optimizer.step", "state_dict", "close")
"""Where the ranks meet."""

_TOGETHER = "all ranks make the same number of steps, and call state_dict and close together"

T = TypeVar("T")


class Refused(UsageError):
    """What the user has to mend before anything can be tracked."""


class FailedElsewhere(RunError):
    """The tracking failed on another rank. for_user: its error is one that the user sees there."""

    def __init__(self, for_user: bool) -> None:
        super().__init__("the tracking failed on another rank, which says why")
        self.for_user = for_user


class Ranks:
    """Those that hold shards of one network, or this process alone; alone, nothing is exchanged.

    Whatever one rank decides by itself, such as to stop at a full disk, it says when they meet: at
    the start of each update, of `state_dict` and of `close`. They meet on the host, in a group of
    their own, so that no GPU is waited for.

    group: of gloo; None: alone.
    """

    def __init__(self, group: "dist.ProcessGroup | None" = None) -> None:
        self._group = group
        self.alone = group is None
        self.first = group is None or dist.get_rank(group) == 0
        self.flags = 1
        """How many flags each meeting has; the same on all ranks."""
        self._failure = 0
        """1: the tracking failed here; 2: with an error that the user sees."""
        self._told = False

    @classmethod
    def of(cls, model: nn.Module) -> "Ranks":
        """All of the default process group, if a parameter is spread over them; else one alone.

        Error: UsageError if they do not all call it.
        """
        if not is_spread(model):
            return cls()
        try:
            dist.new_group(backend="gloo", timeout=ALL_CALL)
        except RuntimeError:
            raise UsageError(
                "the model's parameters are spread over processes, which all have to call "
                f"symrun.track: some did not within {ALL_CALL.total_seconds():g} s"
            ) from None
        group = dist.new_group(backend="gloo", timeout=MEETING)
        assert isinstance(group, dist.ProcessGroup)
        return cls(group)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first rank, on all of them. Error: what it raises, there; a
        UsageError of the same words elsewhere."""
        if self._group is None:
            return make()
        found: list[Any] = [None, None]
        error: Exception | None = None
        if self.first:
            try:
                found[0] = make()
            except Exception as raised:
                error, found[1] = raised, str(raised)
        dist.broadcast_object_list(found, group=self._group, group_src=0)
        if error is not None:
            raise error
        if found[1] is not None:
            raise UsageError(found[1])
        value: T = found[0]
        return value

    def gathered(self, value: T) -> list[T]:
        """The value of each rank, on the first; elsewhere nothing."""
        if self._group is None:
            return [value]
        found: list[Any] | None = [None] * dist.get_world_size(self._group) if self.first else None
        dist.gather_object(value, found, group=self._group, group_dst=0)
        return found or []

    @contextlib.contextmanager
    def agreeing(self, step: int) -> Iterator[list[bool]]:
        """Within it each rank does what may fail on it alone, and sets flags. Afterwards those are
        set that any rank set.

        Error: what was raised within; FailedElsewhere where that was on another rank.
        """
        flags = [False] * self.flags
        try:
            yield flags
        except Exception as error:
            self.fail(for_user=isinstance(error, Refused))
            self.meet(step)
            raise
        flags[:] = self.meet(step, flags)

    def meet(
        self, step: int, flags: Sequence[bool] = (), call: str = "optimizer.step"
    ) -> list[bool]:
        """`flags` of any rank. step: the updates that this rank has seen. call: where it is.

        Error: FailedElsewhere; Refused if the ranks have not seen as many updates, or are not in
        the same call; RunError if another rank is gone, or does not come within MEETING.
        """
        if self._group is None or self._told:
            return list(flags)
        place = _CALLS.index(call)
        padded = [*flags, *[False] * (self.flags - len(flags))]
        numbers = torch.tensor([self._failure, step, -step, place, -place, *padded], device="cpu")
        since = time.monotonic()
        try:
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._group)
        except RuntimeError:
            self._told = True  # nobody hears it any more
            raise RunError(_absence(time.monotonic() - since)) from None
        failure, last, least, place, other, *found = numbers.tolist()
        self._told = failure > 0
        if failure and not self._failure:
            raise FailedElsewhere(for_user=failure > 1)
        if not failure and (last, place) != (-least, -other):
            self._told = True  # by this error, everywhere
            raise Refused(_disagreement(-least, last, _CALLS[-other], _CALLS[place]))
        return [bool(one) for one in found]

    def fail(self, for_user: bool) -> None:
        """Note that the tracking ends here, which the others are told at the next meeting."""
        self._failure = max(self._failure, 1 + for_user)

    @property
    def owed(self) -> bool:
        """Whether the others still wait to be told."""
        return not self.alone and self._failure > 0 and not self._told


def _absence(seconds: float) -> str:
    """Why a meeting failed after so many seconds."""
    if seconds < MEETING.total_seconds():
        return "another rank is gone, or does not track any more"
    return f"another rank did not come within {seconds:.0f} s: {_TOGETHER}"


def _disagreement(least: int, last: int, call: str, other: str) -> str:
    if call != other:
        return f"a rank calls {call} and another {other}: {_TOGETHER}"
    return (
        f"a rank is at update {least} and another at {last}: all load the same state, {_TOGETHER}"
    )
