"""Images in, device batches out."""

from typing import TYPE_CHECKING

from symrun.data.registry import DATA_SETS, DataConfig, DataSource, load
from symrun.lazy import imported_when_asked

if TYPE_CHECKING:
    from symrun.data.batches import Batches
    from symrun.data.dataset import Dataset, Split

__all__ = ["DATA_SETS", "Batches", "DataConfig", "DataSource", "Dataset", "Split", "load"]

__getattr__ = imported_when_asked(
    __name__,
    {
        "Batches": "symrun.data.batches",
        **dict.fromkeys(("Dataset", "Split"), "symrun.data.dataset"),
    },
)
