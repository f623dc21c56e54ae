"""Files that others will trust: each is complete or absent, whenever the process is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def complete_or_absent(target: Path) -> Iterator[Path]:
    """A path to write a file or a folder of files at; it becomes `target` once it is whole.

    Until then it lies in a folder whose name begins with a dot, which readers pass over; an error
    or an interruption removes it. Of two processes that make the same target at
    once, a file is the later one's, a folder the earlier one's.

    Error: OSError if it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        draft = Path(scratch) / target.name
        yield draft
        for path in (*draft.glob("*"), draft):
            _flush(path)
        try:
            draft.rename(target)
        except OSError:
            if not (draft.is_dir() and target.is_dir()):
                raise
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Put a file, or a folder's list of files, on the disk: a rename may get there sooner."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
