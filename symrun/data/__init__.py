"""Images or text in, device batches out."""

from typing import TYPE_CHECKING

from symrun.data.registry import DATA_SETS, DataConfig, DataSource, load
from symrun.lazy import imported_when_asked

if TYPE_CHECKING:
    from symrun.data.batches import Batches
    from symrun.data.dataset import Dataset, ImageDataset, Split, TextDataset

__all__ = [
    "DATA_SETS",
    "Batches",
    "DataConfig",
    "DataSource",
    "Dataset",
    "ImageDataset",
    "Split",
    "TextDataset",
    "load",
]

__getattr__ = imported_when_asked(
    __name__,
    {
        "Batches": "symrun.data.batches",
        **dict.fromkeys(("Dataset", "ImageDataset", "Split", "TextDataset"), "symrun.data.dataset"),
    },
)
