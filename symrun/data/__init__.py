"""Images in, device batches out."""

import importlib
from typing import TYPE_CHECKING, Any

from symrun.data.registry import DATA_SETS, DataConfig, DataSource, load

if TYPE_CHECKING:
    from symrun.data.batches import Batches
    from symrun.data.dataset import Dataset, Split

__all__ = ["DATA_SETS", "Batches", "DataConfig", "DataSource", "Dataset", "Split", "load"]

_MODULES = {"Batches": "batches", "Dataset": "dataset", "Split": "dataset"}


def __getattr__(name: str) -> Any:
    """Imported when first asked for: torch takes a second, and reading settings needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
