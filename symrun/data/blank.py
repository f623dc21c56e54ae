"""Data sets without examples, for what depends on the shape of an example alone."""

from collections.abc import Sequence

import torch

from symrun.data.dataset import Dataset, Split, TextDataset
from symrun.data.registry import DATA_SETS, DataConfig, ImageConfig, load


def blank(shape: Sequence[int], classes: int) -> Dataset:
    """A data set without examples. shape: of one, [channels, height, width] or [length].

    Example: blank((3, 32, 32), 10).example(4, torch.float32).shape == (4, 3, 32, 32)
    """
    none = torch.empty(0, *shape, dtype=torch.uint8)
    split = Split(none, none)
    if len(shape) == 1:
        return TextDataset("no text", True, split, split, classes, train_ids=none)
    return Dataset("no images", True, split, split, classes)


def blank_or_read(config: DataConfig) -> Dataset:
    """The data set of `config`, without examples if its settings tell their shape.

    What `data.root` names is read; nothing is made or downloaded. Error: UsageError as in `load`.
    """
    entry = DATA_SETS[config.name]
    size, classes = entry.image_size(config), getattr(config, "classes", entry.classes)
    named = getattr(config, "root", None) is not None
    if named or size is None or classes is None or not isinstance(config, ImageConfig):
        return load(config)
    return blank((config.channel_count, size, size), classes)
