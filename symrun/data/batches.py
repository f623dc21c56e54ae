"""Batches depend on (seed, epoch) alone, so that a run can stop and resume."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from symrun.data.dataset import Dataset, ImageDataset, Split, TextDataset, blocks

Batch = tuple[Tensor, Tensor]


class Batches:
    """The batches of a data set.

    Images are [batch, channels, height, width], normalised, in `dtype`, with labels int64 [batch].
    Text is int64 [batch, length], with labels int64 [batch, length].

    on_device: whether the data set moves to the device once, as small integers, or batch by batch.
    share, shares: each batch is cut into so many pieces, whose sizes differ by one at most; these
    are those of number `share`. least: a last batch of fewer examples is left out.

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
        share: int = 0,
        shares: int = 1,
        least: int = 2,
    ) -> None:
        self.batch_size = batch_size
        self._share, self._shares, self._least = share, shares, least
        self.seed = seed
        home = device if on_device else torch.device("cpu")
        self._examples: _Images | _Text
        if isinstance(dataset, TextDataset):
            self._examples = _Text(dataset, home, device)
        else:
            assert isinstance(dataset, ImageDataset)
            self._examples = _Images(dataset, home, device, dtype, channels_last)
        self._train_count = len(dataset.train.labels)

    @property
    def val_labels(self) -> Tensor:
        """The labels of all validation examples, where the data set is."""
        return self._examples.val.labels

    @property
    def steps_per_epoch(self) -> int:
        """The last batch may be smaller; a single example is left out, as batch norm needs two."""
        whole, rest = divmod(self._train_count, self.batch_size)
        return whole + (rest >= self._least)

    @property
    def left_out(self) -> int:
        """Examples in each epoch that are too few for a batch."""
        rest = self._train_count % self.batch_size
        return rest if rest < self._least else 0

    def size(self, step: int) -> int:
        """Examples in the batch of update `step`, in all shares together."""
        first = step % self.steps_per_epoch * self.batch_size
        return min(self.batch_size, self._train_count - first)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from batch `start` on: each example once, shuffled.

        Images are cropped at random from a black border and flipped at random, if the data set says
        so. Blocks of text start at a random offset.
        """
        (key,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint64)
        shuffled = self._examples.shuffled(torch.Generator().manual_seed(int(key)))
        for step in range(start, self.steps_per_epoch):
            yield shuffled(self._own(step * self.batch_size, self._train_count))

    def stream(self, start: int) -> Iterator[Batch]:
        """The training batches of epoch after epoch, without an end, from batch `start` on."""
        first, offset = divmod(start, self.steps_per_epoch)
        for epoch in itertools.count(first + 1):
            yield from self.epoch(epoch, offset)
            offset = 0

    def validation(self) -> Iterator[Batch]:
        """The validation examples in their order, as they are; a share may have none of a batch."""
        for first in range(0, len(self.val_labels), self.batch_size):
            yield self._examples.validation(self._own(first, len(self.val_labels)))

    def _own(self, first: int, count: int) -> slice:
        """Of the batch that begins at example `first` of `count`, those of this share."""
        size = min(self.batch_size, count - first)
        cuts = (size * place // self._shares for place in (self._share, self._share + 1))
        return slice(*(first + cut for cut in cuts))


class _Images:
    """Images on `home`, which are prepared on `device`."""

    def __init__(
        self,
        dataset: ImageDataset,
        home: torch.device,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self.home, self.device, self.dtype = home, device, dtype
        self.crop_padding = dataset.crop_padding
        self.flip_probability = 0.5 if dataset.flip else 0.0
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.train, self.val = _on(dataset.train, home), _on(dataset.val, home)
        # (x / 255 - mean) / std = scale * x + shift, never in less than float32.
        arithmetic = torch.promote_types(dtype, torch.float32)
        mean, std = torch.tensor([dataset.mean, dataset.std], dtype=torch.float64)[..., None, None]
        self.scale = (1 / (255 * std)).to(device, arithmetic)
        self.shift = (-mean / std).to(device, arithmetic)

    def shuffled(self, generator: torch.Generator) -> Callable[[slice], Batch]:
        """What gives the training images of a slice of the order that `generator` draws."""
        order, *augmentation = self._draws(generator)
        order = _moved(order, self.home)
        top, left, flip = (_moved(draw, self.device) for draw in augmentation)

        def batch(part: slice) -> Batch:
            images = _moved(self.train.inputs[order[part]], self.device)
            images = self._augmented(images, top[part], left[part], flip[part])
            labels = self.train.labels[order[part]]
            return self._normalised(images), _moved(labels, self.device)

        return batch

    def validation(self, part: slice) -> Batch:
        images = _moved(self.val.inputs[part], self.device)
        return self._normalised(images), _moved(self.val.labels[part], self.device)

    def _draws(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Order of the images, top and left edge of each crop in the padded image, flip."""
        count, edges = len(self.train.labels), 2 * self.crop_padding + 1
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


class _Text:
    """Ids of characters on `home`, which become int64 on `device`."""

    def __init__(self, dataset: TextDataset, home: torch.device, device: torch.device) -> None:
        self.home, self.device = home, device
        self.count, self.length = dataset.train.inputs.shape
        self.train_ids, self.val = dataset.train_ids.to(home), _on(dataset.val, home)

    def shuffled(self, generator: torch.Generator) -> Callable[[slice], Batch]:
        """What gives the training blocks of a slice of the order that `generator` draws."""
        order = _moved(torch.randperm(self.count, generator=generator), self.home)
        offset = int(torch.randint(self.length, (), generator=generator))
        train = blocks(self.train_ids, self.length, self.count, offset)
        return lambda part: self._batch(train, order[part])

    def validation(self, part: slice) -> Batch:
        return self._batch(self.val, part)

    def _batch(self, split: Split, chosen: Tensor | slice) -> Batch:
        inputs, labels = (
            _moved(ids[chosen], self.device).long() for ids in (split.inputs, split.labels)
        )
        return inputs, labels


def _on(split: Split, device: torch.device) -> Split:
    return Split(split.inputs.to(device), split.labels.to(device))


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; the host does not wait for them."""
    if device.type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values
