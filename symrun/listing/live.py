"""A run of another process, watched until it ends."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from symrun.errors import Interrupted, in_one_line
from symrun.listing.live_state import LiveState
from symrun.listing.live_view import line, view
from symrun.runs.directory import RunDirectory

_SECONDS = 1.0
"""Between looks at the run."""

_RESIZE_SECONDS = 0.2
"""How soon a terminal that has another size gets a view of that size."""


def watch(run: RunDirectory) -> None:
    """Show a run until nobody writes it any more, then print how it ended.

    On a terminal the view is redrawn on a screen of its own; elsewhere each change is a line.

    Error: Interrupted at Ctrl-C, which says that the run had not ended; UsageError if the run
    cannot be read, or is gone.
    """
    state, console = LiveState(run), Console(highlight=False, markup=False)
    live = console.is_terminal and not console.is_dumb_terminal
    try:
        (_on_screen if live else _in_lines)(state, console)
    except KeyboardInterrupt:
        raise Interrupted(f"left {in_one_line(run.path)}, which goes on") from None
    console.print(view(state, console, time.time()))


def _on_screen(state: LiveState, console: Console) -> None:
    with (
        _terminated_cleanly(),
        Live(console=console, screen=True, auto_refresh=False, transient=True) as shown,
    ):
        while state.look() or state.under_way or not state.whole:
            shown.update(view(state, console, time.time()), refresh=True)
            if state.whole and state.under_way:
                _sleep(console)


def _in_lines(state: LiveState, console: Console) -> None:
    told = 0
    while state.look() or state.under_way or not state.whole:
        if state.under_way and state.whole:
            if state.step != told:
                console.out(line(state, time.time()))
                told = state.step
            time.sleep(_SECONDS)


def _sleep(console: Console) -> None:
    """Until the next look, or until the terminal has another size."""
    size, until = console.size, time.monotonic() + _SECONDS
    while time.monotonic() < until and console.size == size:
        time.sleep(_RESIZE_SECONDS)


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the terminal as it was before."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
