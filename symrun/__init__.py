"""symrun: the mechanics of learning, measured and predicted while a network trains."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symrun.errors import SymrunError, UsageError
    from symrun.runs.info import RunInfo
    from symrun.runs.opened import open_run
    from symrun.symmetry import find_structure
    from symrun.tracking import Tracker

__version__ = "0.1.0"
__all__ = ["RunInfo", "SymrunError", "Tracker", "UsageError", "find_structure", "open_run"]

_MODULES = {
    **dict.fromkeys(("SymrunError", "UsageError"), "symrun.errors"),
    "RunInfo": "symrun.runs.info",
    "Tracker": "symrun.tracking",
    "find_structure": "symrun.symmetry",
    "open_run": "symrun.runs.opened",
}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: torch takes a second, and reading tables needs none of it."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
