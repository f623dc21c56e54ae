"""Decodes the images of a source in order, on all cores.

Each core runs the program `jpeg.py`, and this process talks to them in turn, over pipes. Threads
would wait half of the time for each other's Python, and `multiprocessing` would import the user's
script again or fork a process that has threads.
"""

import os
import signal
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle

from symrun.cores import usable_cores
from symrun.data import jpeg
from symrun.data.jpeg import TINY_IMAGENET, Format
from symrun.data.source import Source
from symrun.errors import RunError, UsageError, in_one_line

# Images sent to a process at a time: enough that waiting is rare, at little memory.
_CHUNK = 64
# A process with fewer images is not worth its start.
_MIN_IMAGES = 1000
# More processes would wait for this one to collect their results.
_MAX_PROCESSES = 16

_Process = subprocess.Popen[bytes]


def pixels(source: Source, name: str, form: Format = TINY_IMAGENET) -> bytes:
    """One image, decoded as `jpeg.decoded` does it.

    Error: UsageError naming the file if it cannot be read or is no such image.
    """
    content = source.read(name)
    try:
        with warnings.catch_warnings(action="ignore"):  # on a hostile image, or an odd one
            return jpeg.decoded(content, form)
    except MemoryError:
        raise
    except Exception:  # Pillow meets damage with errors of a dozen types
        size = "" if form.resized else f" of {form.side}x{form.side} pixels"
        what = f"is not a JPEG or PNG{size}, or is damaged or cut short"
        raise UsageError(f"{source.display_name(name)} {what}: {source.remedy}") from None


def all_pixels(
    source: Source, names: Sequence[str], form: Format = TINY_IMAGENET
) -> Generator[bytes, None, None]:
    """`pixels` of every name in order, decoded on all cores if there are many.

    Close the iterator when you leave it early: its processes end with it.

    Error: as `pixels`, for the first name that has one; RunError if a process is lost.
    Example:
        with closing(all_pixels(source, names)) as images:
            for image in images: ...
    """
    with ExitStack() as stack:
        count = _process_count(len(names))
        requests = "contents" if source.folder is None else "paths"
        processes = [stack.enter_context(_process(requests, form)) for _ in range(count)]
        if not processes:
            yield from (pixels(source, name, form) for name in names)
        else:
            for name, decoded in _answers(source, names, processes):
                yield decoded or pixels(source, name, form)


def _process_count(images: int) -> int:
    """The number of processes to start for so many images; 0 rather than 1."""
    count = min(usable_cores(), images // _MIN_IMAGES, _MAX_PROCESSES)
    return count if count > 1 else 0


@contextmanager
def _process(requests: str, form: Format) -> Iterator[_Process]:
    """Runs `jpeg.py`, which is sent "contents" or "paths", until the context is left.

    Error: RunError if it cannot be started.
    """
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-W", "ignore", jpeg.__file__, requests),
                *(f"{number:d}" for number in form),
            ],
            # Pillow is found where this process found it.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=2**16,
            process_group=0,  # a Ctrl-C is for this process alone, which ends the others
        )
    except OSError as error:
        failed = f"no process to decode images can be started: {in_one_line(error)}"
        raise RunError(f"{failed}: end some of those that run, and run again") from None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()  # closes the pipes whatever is left in them, and waits


def _answers(
    source: Source, names: Sequence[str], processes: Sequence[_Process]
) -> Iterator[tuple[str, bytes]]:
    """Every name in order with its pixels, which are empty if a process could not decode it."""
    pending: deque[tuple[_Process, Sequence[str]]] = deque()
    for process, first in zip(cycle(processes), range(0, len(names), _CHUNK)):
        chunk = names[first : first + _CHUNK]
        requests = [_request(source, name) for name in chunk]
        # A process has one chunk at a time, and reads all of it before it writes: neither side
        # ever waits for the other to make room in a pipe.
        answer = _answer(*pending.popleft()) if len(pending) == len(processes) else []
        assert process.stdin is not None
        try:
            jpeg.send(process.stdin, requests)
        except BrokenPipeError:
            raise _lost(process) from None
        pending.append((process, chunk))
        yield from answer
    while pending:
        yield from _answer(*pending.popleft())


def _request(source: Source, name: str) -> bytes:
    """The path or the content of an image, as `jpeg.py` expects it."""
    if source.folder is not None:
        return os.fsencode(source.folder + name)
    try:
        return source.read(name)
    except UsageError:  # `pixels` raises it again in its turn
        return b""


def _answer(process: _Process, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """The images requested from `process`: their names and pixels."""
    assert process.stdout is not None
    parts = jpeg.receive(process.stdout)
    if len(parts) != len(names):
        raise _lost(process)
    return list(zip(names, parts, strict=True))


def _lost(process: _Process) -> RunError:
    process.communicate()
    code = process.returncode
    how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
    remedy = "free some memory, if that is what it ran out of, and run again"
    return RunError(f"a process that decodes images ended early ({how}): {remedy}")
