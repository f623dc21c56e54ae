"""What people see while something is computed. If it can no longer be shown, because the terminal
is gone, the pipe is closed or the disk is full, the computation goes on without it."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_SECONDS = 30.0
"""A log file gets at most one line of a bar in this time."""

_SHORT_SECONDS = 1.0
"""Work that is over sooner shows no bar, which would disappear at once."""


@contextlib.contextmanager
def guarded(output_needed: bool = False) -> Iterator[None]:
    """Standard output and error drop what can no longer be written, instead of raising an error.

    A descriptor that fails, or was closed from the start, leads to the null device from then on:
    the next file that is opened would get its number otherwise. Streams that are no files, such as
    a notebook's, stay as they are.

    output_needed: what is printed on standard output is the purpose of the command, so that its
    failure still raises OSError, once.
    Example:
        with guarded():
            print("trained", file=sys.stderr)
    """
    before = sys.stdout, sys.stderr
    sys.stdout = _guarded(sys.stdout, 1, output_needed)
    sys.stderr = _guarded(sys.stderr, 2, False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _guarded(stream: TextIO | None, descriptor: int, needed: bool) -> TextIO:
    if stream is None or stream.closed:
        _lead_to_null(descriptor)
        return open(descriptor, "w", encoding="utf-8", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    try:
        file = _Losable(stream.fileno(), needed)
    except io.UnsupportedOperation:  # a buffer in memory
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        stream.encoding,
        "backslashreplace",  # the terminal may not be able to show a path
        # Python's own without a buffer, for PYTHONUNBUFFERED, would write through to this one's
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Losable(io.FileIO):
    """A descriptor that leads to the null device once it fails. Error: that OSError, if needed."""

    def __init__(self, descriptor: int, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._needed = needed

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        try:
            written = super().write(content)
        except OSError:
            _lead_to_null(self.fileno())
            if self._needed:
                raise
            return size
        if written is None and not self._needed:  # it does not block, and has no room just now
            return size
        return written


def _lead_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def bar(
    title: str, total: int, unit: str, *, initial: int = 0, passing: bool = False
) -> "tqdm[Any]":
    """A progress bar on standard error; where that is not a terminal, a line now and then instead.

    unit: what is counted, "B" for bytes. passing: the bar disappears when it is closed, and does
    not appear for what takes a moment.
    Example:
        with bar("decoding", len(names), " images") as shown:
            for name in names:
                shown.update()
    """
    from tqdm import tqdm  # `symrun --help` needs none

    bytes_alone: dict[str, Any] = {"unit_scale": True, "unit_divisor": 1024} if unit == "B" else {}
    if sys.stderr.isatty():
        delay = _SHORT_SECONDS if passing else 0.0
        where: dict[str, Any] = {"dynamic_ncols": True, "delay": delay, "leave": not passing}
    else:
        where = {"file": _Lines(), "ncols": 0, "miniters": 1, "leave": False}
        where |= {"delay": LINE_SECONDS, "mininterval": LINE_SECONDS}
    return tqdm(desc=title, total=total, unit=unit, initial=initial, **where, **bytes_alone)


class _Lines(io.StringIO):
    """A file for tqdm that turns each state of its bar into a line on standard error."""

    def write(self, text: str) -> int:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)


def duration(seconds: float | None) -> str:
    """ "4 min 39 s": the largest unit and the next."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours} h {minute} min" if hours else f"{minutes} min {second} s"
