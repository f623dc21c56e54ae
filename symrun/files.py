"""Files that others will trust: each is complete or absent, whenever the process is killed."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_log = logging.getLogger(__name__)


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


def sweep_drafts(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of `complete_or_absent(folder / name)`.

    Assumes: no living process is making such a file.
    """
    for draft in folder.glob(f".{name}-*"):
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the exclusive lock on the file `path`, which is made if need be, and stays.

    The system lets go of it when the process ends, however it ends: a kill leaves no lock behind,
    and another process with the same number cannot be taken for the holder.

    Error: BlockingIOError if another holds it, unless `wait`; OSError if it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warning = "the file system has no locks: nothing keeps two processes apart"
            _log.warning("%s: %s", path.parent, warning)
        yield
    finally:
        os.close(descriptor)


_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def _flush(path: Path) -> None:
    """Put a file, or a folder's list of files, on the disk: a rename may get there sooner."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
