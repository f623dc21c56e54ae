"""A data set is two splits of uint8 images in memory, and how to prepare them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """images: uint8 [images, channels, height, width]; labels: int64 [images], in [0, classes)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """A data set, and the augmentation that leaves its classes what they are.

    mean, std: of the channels of an image in [0, 1]. crop_padding: pixels of black border around
    an image before a random crop to its own size. flip: whether a mirrored image keeps its class.
    digest: of all images and labels; None if the settings alone decide them.
    """

    title: str
    synthetic: bool
    train: Split
    val: Split
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    digest: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def example(self, count: int, dtype: torch.dtype) -> Tensor:
        """Zeros in place of `count` inputs."""
        return torch.zeros(count, *self.shape, dtype=dtype)

    @property
    def image_size(self) -> int:
        """Pixels along a side."""
        return self.train.images.shape[-1]
