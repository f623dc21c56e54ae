"""The errors that users see: one line each, never a traceback."""

import difflib
from collections.abc import Iterable


class SymrunError(Exception):
    """What went wrong, in one line that names the remedy."""

    exit_code = 1


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


def in_one_line(text: object) -> str:
    """`text` from outside, fit for a message: at most 1000 characters, all of them printable."""
    shown = str(text)
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
