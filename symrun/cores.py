"""How many processes this machine can run at once."""

import os


def usable_cores() -> int:
    """The cores that this process may use; all of them where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
