"""The errors that users see: one line each, never a traceback."""

import difflib
import errno
import os
from collections.abc import Iterable

from symrun.places import as_typed


class SymrunError(Exception):
    """What went wrong, in one line that names the remedy."""

    exit_code = 1

    def __str__(self) -> str:
        return as_typed(super().__str__())


class UsageError(SymrunError, ValueError):
    """The user gave something that cannot be used: a setting, a path, a file. Exit code 2."""

    exit_code = 2


class Busy(UsageError):
    """Another process is writing what this one wanted to write."""


class RunError(SymrunError, RuntimeError):
    """A run that had started failed: a full disk, a full memory. Exit code 1."""


class Diverged(RunError):
    """A loss or a weight is not finite any more. Exit code 1."""


class Interrupted(SymrunError):
    """The user pressed Ctrl-C. Exit code 130, as shells have it."""

    exit_code = 130


class Stopped(Interrupted):
    """A signal asked a run to stop, and all of it is saved. Exit code 75, "try again later"."""

    exit_code = 75


class ProcessLost(Interrupted):
    """One of the processes that trained a run together is gone. Exit code 1."""

    exit_code = 1


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or choose another disk"),
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"
    ),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a file is in the way: name another folder"),
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "name a folder that exists",
}


def refusal(error: BaseException) -> str:
    """Why the system refused to write, and what to do: "No space left on device: make room ...".

    `error`: an OSError, or another library's error that an OSError caused.
    Example: refusal(OSError(errno.EIO, "")) == "Input/output error"
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OSError) and cause.errno is not None:
        reason = os.strerror(cause.errno)  # pyarrow puts a page into its own
        remedy = _REMEDIES.get(cause.errno)
        return f"{reason}: {remedy}" if remedy else reason
    return in_one_line((str(error).splitlines() or [type(error).__name__])[0])


def in_one_line(text: object) -> str:
    """`text` from outside, fit for a message: at most 1000 characters, all of them printable, and
    with the URL in place of a path in a copy of it."""
    shown = as_typed(str(text))
    shown = shown if len(shown) <= 1000 else shown[:1000] + "..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in shown)


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Those of `names` that resemble `word`, the most similar first.

    cutoff: the least similarity, in [0, 1].

    Example: nearest("trian", ["train", "plot"]) == ["train"]
    """
    names = list(names)
    return difflib.get_close_matches(word, names, max(1, len(names)), cutoff)


def did_you_mean(word: str, names: Iterable[str], before: str = "") -> str:
    """The end of a message that refuses `word`: "; did you mean train?", or "" if none is near.

    before: what stands before the name, such as "optim=".
    """
    found = nearest(word, names)
    return f"; did you mean {before}{found[0]}?" if found else ""
