"""Files that are complete or absent, whenever the process is killed, and locks on files."""

import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from symrun.errors import UsageError, in_one_line

_log = logging.getLogger(__name__)


@contextmanager
def complete_or_absent(target: Path) -> Iterator[Path]:
    """Give a path to write a file or a folder of files to; it becomes `target` once it is whole.

    Until then it lies in a folder whose name begins with a dot, which readers ignore; an error or
    an interruption removes it. If two processes make the same target at once, the later file
    replaces the earlier, but the earlier folder stays.

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


def write_text(target: Path, text: str) -> None:
    """Write a file of text in UTF-8, as `complete_or_absent` does. Error: OSError.

    Example: write_text(Path("docs/results/README.md"), "# Results\\n")
    """
    with complete_or_absent(target) as draft:
        draft.write_text(text, encoding="utf-8")


def require_place(option: str, file: Path) -> None:
    """Refuse a `file`, given by `option`, that is a folder or lies in none that exists.

    Error: UsageError; OSError if it cannot be looked up.
    """
    if file.is_dir():
        raise UsageError(f"{option}={in_one_line(file)} is a folder: name a file in it")
    if not file.parent.is_dir():
        missing = f"the folder {in_one_line(file.parent)} does not exist"
        raise UsageError(f"{option}={in_one_line(file)}: {missing}: make it, or name another")


def sweep_drafts(folder: Path, name: str = "*") -> None:
    """Remove the drafts that killed processes left of `complete_or_absent(folder / name)`.

    name: of the target, or all of its name that stands before a hyphen.

    Assumes: no living process is making such a file.
    """
    for draft in folder.glob(f".{name}-*"):
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Hold the exclusive lock on the file `path`, which is created if need be and never removed.

    The system releases it when the process ends, however it ends: a kill leaves no lock behind,
    and another process with the same id cannot be taken for the holder.

    Error: BlockingIOError if another holds it, unless `wait`; OSError if it cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            warning = "the file system has no locks: nothing keeps two processes apart"
            _log.warning("%s: %s", path.parent, warning)
        yield
    finally:
        os.close(descriptor)


def make_once(target: Path, name: str, make: Callable[[], None]) -> None:
    """Call `make`, which makes `target` by `complete_or_absent`, unless it exists. Of several
    processes one makes it, and the others wait.

    name: what the names of all that one lock serves begin with: a process that holds it removes
    their drafts, which killed processes left.

    Error: OSError if the folder around it cannot be written, and what `make` raises.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{name}.lock", wait=True):
        if not target.exists():
            sweep_drafts(target.parent, name)
            make()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock on `path`, or nobody can tell; a missing file is not
    locked.

    It is looked up by taking a shared lock for microseconds, in which `locked` would be refused.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _flush(path: Path) -> None:
    """Flush a file, or a folder's list of files, to the disk before a rename can get there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
