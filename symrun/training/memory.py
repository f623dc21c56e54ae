"""Memory that a CPU step frees and asks for again."""

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PAD_BYTES = 2**26


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc; else nothing changes.

    By default glibc hands large blocks, and every activation is one, back to the kernel when they
    are freed, and the next step has them zeroed again, page by page, which takes a third to half of
    a step on a CPU. A process so keeps as much as it once held.
    Source: glibc's manual, Malloc Tunable Parameters.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, -1)
    library.mallopt(_M_TOP_PAD, _PAD_BYTES)
