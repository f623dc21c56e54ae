"""A data set is two splits of examples in memory, and how to prepare them for a network."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Examples and what a network should say of them.

    Of images: inputs uint8 [images, channels, height, width] and labels int64 [images], in
    [0, classes). Of text: inputs and labels are ids [blocks, length], and a label is the character
    that follows its input.
    """

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """What all data sets have.

    classes: the number of labels, which for text is the size of its vocabulary. digest: of all
    examples; None if the settings alone decide them.
    """

    title: str
    synthetic: bool
    train: Split
    val: Split
    classes: int
    digest: str | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example: channels, height and width of an image, or the length of a block."""
        return tuple(self.train.inputs.shape[1:])

    def example(self, count: int, dtype: torch.dtype) -> Tensor:
        """A batch of `count` black images in `dtype`, or int64 blocks of the first character."""
        return torch.zeros(count, *self.shape, dtype=dtype)


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """Square images, and the augmentation of those for training.

    mean, std: of each channel of an image in [0, 1]. crop_padding: pixels of black border around
    an image before a random crop to its own size. flip: whether images are mirrored at random.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False


@dataclass(frozen=True)
class TextDataset(Dataset):
    """Blocks of consecutive characters.

    train_ids: the training text, [characters]. It is long enough for as many blocks as `train` has
    from any offset below the length of a block.
    """

    train_ids: Tensor

    def example(self, count: int, dtype: torch.dtype) -> Tensor:
        return super().example(count, torch.int64)


def blocks(ids: Tensor, length: int, count: int, offset: int = 0) -> Split:
    """`count` consecutive blocks of `ids` from `offset` on, as views.

    Example: blocks(torch.arange(9), 3, 2, offset=1).labels.tolist() == [[2, 3, 4], [5, 6, 7]]
    """
    end = offset + count * length
    inputs, labels = ids[offset:end], ids[offset + 1 : end + 1]
    return Split(inputs.view(count, length), labels.view(count, length))
