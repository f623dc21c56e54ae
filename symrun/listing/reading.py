"""The tables of many runs, read by several processes, none of which imports torch."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from operator import attrgetter

from symrun.cores import usable_cores
from symrun.display import bar
from symrun.errors import RunError
from symrun.listing.cached import Listed
from symrun.listing.summary import Summary

_FEWEST = 32
"""A process that has fewer runs to read takes longer to start than it saves."""

_MOST_PROCESSES = 16
_AT_ONCE = 4
"""Runs that a process is given together."""


def summaries(runs: Sequence[Listed]) -> Iterator[Summary]:
    """The summary of each run, in order; those that the cache lacks are read by several processes
    if they are many.

    Error: RunError if such a process ends early.
    Example: list(summaries([Listed(RunDirectory.open("outputs/mine"))]))
    """
    unread = [one for one in runs if not one.is_known]
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(bar("reading", len(runs), " runs", passing=True))
        processes = min(usable_cores(), len(unread) // _FEWEST, _MOST_PROCESSES)
        read = stack.enter_context(_in_processes(unread, processes)) if processes > 1 else None
        for one in runs:
            yield one.summary if read is None or one.is_known else next(read)
            shown.update()


@contextlib.contextmanager
def _in_processes(runs: Sequence[Listed], count: int) -> Iterator[Iterator[Summary]]:
    """The summaries of `runs`, in order. Error: RunError if a process ends early."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin)
    try:
        # A Ctrl-C reaches the new processes once they can end without a traceback
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            found = pool.map(attrgetter("summary"), runs, chunksize=_AT_ONCE)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        yield found
    except BrokenProcessPool:
        remedy = "free some memory, if that is what it ran out of, and try again"
        raise RunError(f"a process that reads tables ended early: {remedy}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """End at once, in silence, on Ctrl-C, and when the process that asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
