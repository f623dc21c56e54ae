"""The errors that users see: one line each, never a traceback."""


class SymrunError(Exception):
    """What went wrong, in one line that names the remedy."""

    exit_code = 1


class UsageError(SymrunError, ValueError):
    """The user gave something that cannot be used: a setting, a path, a file. Exit code 2."""

    exit_code = 2


class RunError(SymrunError, RuntimeError):
    """A run that had started failed: a full disk, a full memory. Exit code 1."""


class Interrupted(SymrunError):
    """The user pressed Ctrl-C. Exit code 130, as shells have it."""

    exit_code = 130
