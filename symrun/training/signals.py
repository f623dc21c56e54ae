"""Signals that ask a run to stop: Ctrl-C, a terminal that closes, and what schedulers send before
they take a machine."""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_NOTICE = b"\nsymrun: %s: stopping after this step; Ctrl-C stops at once\n"


class StopRequest:
    """While it is entered, SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 become a request that
    training answers when a step is done. After the first, another SIGINT ends the process there and
    then, as long as `deferred` lasts. What the process ignores, as SIGHUP under nohup, it goes on
    ignoring.

    Outside of `deferred` there is nothing to save, and a signal raises KeyboardInterrupt.

    Example:
        with StopRequest() as stop, stop.deferred():
            for images, labels in batches:
                if stop.requested is not None:
                    break
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        """The name of the signal that came."""
        self._deferring = self._quiet = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # such as Ctrl-C, for `symrun train &`
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self, quiet: bool = False) -> Iterator[None]:
        """Within it a signal is a request. quiet: it is not answered in words at once."""
        self._deferring, self._quiet = True, quiet
        try:
            yield
        finally:
            self._deferring = False
            if signal.SIGINT in self._before:  # what ends the process now has words to say
                signal.signal(signal.SIGINT, self._handle)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._deferring:
            raise KeyboardInterrupt
        if self.requested is None:
            self.requested = name
            # The system's own action: Python could be held up in a step, or in a disk
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._quiet:
                return
            with contextlib.suppress(OSError):  # SIGHUP comes when the terminal is gone
                os.write(2, _NOTICE % name.encode())  # print may be in the middle of a line
