"""Batches depend on (seed, epoch) alone, so that a run can stop and resume."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symrun.data.dataset import Dataset

Batch = tuple[Tensor, Tensor]


class Batches:
    """The batches of a data set: images [batch, channels, height, width], normalised, in `dtype`,
    and labels int64 [batch].

    on_device: whether the data set moves to the device once, as uint8, or image by image.

    Example:
        batches = Batches(dataset, 16, seed=0, device=torch.device("cpu"), dtype=torch.float32)
        images, labels = next(batches.epoch(1))
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
        on_device: bool = True,
        channels_last: bool = True,
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self.dtype = dtype
        self.crop_padding = dataset.crop_padding
        self.flip_probability = 0.5 if dataset.flip else 0.0
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.home = device if on_device else torch.device("cpu")
        """The device that holds the data set."""
        self.train_images = dataset.train.images.to(self.home)
        self.train_labels = dataset.train.labels.to(self.home)
        self.val_images = dataset.val.images.to(self.home)
        self.val_labels = dataset.val.labels.to(self.home)
        # (x / 255 - mean) / std = scale * x + shift, never in less than float32.
        arithmetic = torch.promote_types(dtype, torch.float32)
        mean, std = torch.tensor([dataset.mean, dataset.std], dtype=torch.float64)[..., None, None]
        self.scale = (1 / (255 * std)).to(device, arithmetic)
        self.shift = (-mean / std).to(device, arithmetic)

    @property
    def steps_per_epoch(self) -> int:
        """The last batch may be smaller; a single image is left out, as batch norm needs two."""
        whole, rest = divmod(len(self.train_labels), self.batch_size)
        return whole + (rest > 1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from batch `start` on: each image once, shuffled,
        cropped at random from a black border and flipped at random."""
        order, *augmentation = self._draws(epoch)
        order = self._moved(order, self.home)
        top, left, flip = (self._moved(draw, self.device) for draw in augmentation)
        for step in range(start, self.steps_per_epoch):
            batch = slice(step * self.batch_size, (step + 1) * self.batch_size)
            chosen = order[batch]
            images = self._moved(self.train_images[chosen], self.device)
            images = self._augmented(images, top[batch], left[batch], flip[batch])
            yield self._normalised(images), self._moved(self.train_labels[chosen], self.device)

    def stream(self, start: int) -> Iterator[Batch]:
        """The training batches of epoch after epoch, without an end, from batch `start` on."""
        first, offset = divmod(start, self.steps_per_epoch)
        for epoch in itertools.count(first + 1):
            yield from self.epoch(epoch, offset)
            offset = 0

    def validation(self) -> Iterator[Batch]:
        """The validation images in their order, as they are."""
        for first in range(0, len(self.val_labels), self.batch_size):
            batch = slice(first, first + self.batch_size)
            images = self._moved(self.val_images[batch], self.device)
            yield self._normalised(images), self._moved(self.val_labels[batch], self.device)

    @staticmethod
    def _moved(values: Tensor, device: torch.device) -> Tensor:
        """`values` on `device`; the host does not wait for them."""
        if device.type == "cuda" and not values.is_cuda:
            return values.pin_memory().to(device, non_blocking=True)
        return values

    def _draws(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Order of the images, top and left edge of each crop in the padded image, flip."""
        (key,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(key))
        count, edges = len(self.train_labels), 2 * self.crop_padding + 1
        order = torch.randperm(count, generator=generator)
        top, left = torch.randint(edges, (2, count), generator=generator)
        flip = torch.rand(count, generator=generator) < self.flip_probability
        return order, top, left, flip

    def _augmented(self, images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
        """images: uint8 [batch, channels, height, width]; top, left, flip: [batch]."""
        height, width = images.shape[2:]
        padded = F.pad(images, [self.crop_padding] * 4)
        # A view of all possible crops: [batch, channels, edges, edges, height, width].
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)
        cropped = crops[torch.arange(len(images), device=self.device), :, top, left]
        return torch.where(flip[:, None, None, None], cropped.flip(-1), cropped)

    def _normalised(self, images: Tensor) -> Tensor:
        images = images.to(self.scale.dtype, memory_format=self.layout)
        return torch.addcmul(self.shift, images, self.scale).to(self.dtype)
