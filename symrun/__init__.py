"""symrun: the mechanics of learning, measured and predicted while a network trains."""

from typing import TYPE_CHECKING

from symrun.lazy import imported_when_asked

if TYPE_CHECKING:
    from symrun.attached import TrackedRun, track
    from symrun.errors import SymrunError, UsageError
    from symrun.runs.info import RunInfo
    from symrun.runs.opened import open_run
    from symrun.symmetry import find_structure
    from symrun.tracking import Tracker

__version__ = "0.2.0"
__all__ = [
    "RunInfo",
    "SymrunError",
    "TrackedRun",
    "Tracker",
    "UsageError",
    "find_structure",
    "open_run",
    "track",
]

__getattr__ = imported_when_asked(
    __name__,
    {
        **dict.fromkeys(("SymrunError", "UsageError"), "symrun.errors"),
        **dict.fromkeys(("TrackedRun", "track"), "symrun.attached"),
        "RunInfo": "symrun.runs.info",
        "Tracker": "symrun.tracking",
        "find_structure": "symrun.symmetry",
        "open_run": "symrun.runs.opened",
    },
)
