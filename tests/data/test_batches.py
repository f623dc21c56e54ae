import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from symrun.data import Batches, ImageDataset, Split

CPU = torch.device("cpu")
MEAN, STD = (0.48, 0.4, 0.3), (0.25, 0.3, 0.2)


def split(images: int) -> Split:
    """Noise; the label of an image is its index, so that it can be found again."""
    generator = torch.Generator().manual_seed(images)
    pixels = torch.randint(256, (images, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(images))


def dataset(train: int = 23, padding: int = 1, flip: bool = True) -> ImageDataset:
    return ImageDataset("noise", True, split(train), split(12), train, MEAN, STD, padding, flip)


def batches(
    data: ImageDataset, batch_size: int = 5, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Batches:
    return Batches(data, batch_size, seed, CPU, dtype)


def joined(pairs: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(labels)


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.stack([(image[c] / 255 - MEAN[c]) / STD[c] for c in range(3)])


def outcomes(image: Tensor, padding: int) -> dict[tuple[int, int, bool], NDArray[np.float64]]:
    """(top, left, flip) -> the augmented image, one at a time and in float64."""
    size = image.shape[-1]
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    edges = range(2 * padding + 1)
    augmented = {}
    for top, left, flip in itertools.product(edges, edges, (False, True)):
        crop = padded[:, top : top + size, left : left + size]
        augmented[top, left, flip] = normalised(crop[:, :, ::-1] if flip else crop)
    return augmented


def tolerance(dtype: torch.dtype) -> float:
    """scale * x + shift: each of the two constants, the product, the sum and the conversion to
    `dtype` is rounded once, by at most eps / 2 of |scale * x| + |shift|."""
    largest = 1 / min(STD) + max(mean / std for mean, std in zip(MEAN, STD, strict=True))
    arithmetic = torch.promote_types(dtype, torch.float32)
    return largest * (2 * torch.finfo(arithmetic).eps + torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_images_are_those_of_brute_force(dtype: torch.dtype) -> None:
    data = dataset(padding=2)
    images, labels = joined(batches(data, dtype=dtype).epoch(0))
    assert images.dtype == dtype
    for image, label in zip(images.double().numpy(), labels, strict=True):
        candidates = outcomes(data.train.inputs[label], padding=2).values()
        nearest = min(np.abs(image - candidate).max() for candidate in candidates)
        assert nearest <= tolerance(dtype)


def test_every_crop_and_flip_occurs() -> None:
    """A missing one of 18 would have the probability 18 * (17/18)^690 < 1e-15."""
    data = dataset(padding=1)
    augmented = [outcomes(image, padding=1) for image in data.train.inputs]
    found = set()
    for epoch in range(30):
        for image, label in zip(*joined(batches(data).epoch(epoch)), strict=True):
            distance = {
                outcome: np.abs(image.numpy() - candidate).max()
                for outcome, candidate in augmented[label].items()
            }
            found.add(min(distance, key=lambda outcome: distance[outcome]))
    assert found == set(augmented[0])


def test_nothing_is_augmented_where_the_data_set_forbids_it() -> None:
    data = dataset(padding=0, flip=False)
    images, labels = joined(batches(data).epoch(0))
    for image, label in zip(images.numpy(), labels, strict=True):
        expected = normalised(data.train.inputs[label].numpy())
        assert np.abs(image - expected).max() <= tolerance(torch.float32)


def test_validation_is_in_order_and_as_it_is() -> None:
    data = dataset()
    images, labels = joined(batches(data).validation())
    assert torch.equal(labels, data.val.labels)
    expected = np.stack([normalised(image) for image in data.val.inputs.numpy()])
    assert np.abs(images.numpy() - expected).max() <= tolerance(torch.float32)


def test_batches_are_channels_last() -> None:
    made = batches(dataset())
    for images, _ in itertools.chain(made.epoch(0), made.validation()):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_shows_every_image_once() -> None:
    data = dataset()
    _, labels = joined(batches(data).epoch(0))
    assert not torch.equal(labels, data.train.labels)
    assert torch.equal(labels.sort().values, data.train.labels)


@pytest.mark.parametrize(
    ("images", "sizes"), [(20, [5] * 4), (21, [5] * 4), (22, [5] * 4 + [2]), (3, [3])]
)
def test_last_batch_is_kept_unless_it_is_a_single_image(images: int, sizes: list[int]) -> None:
    made = batches(dataset(train=images))
    assert [len(labels) for _, labels in made.epoch(0)] == sizes
    assert made.steps_per_epoch == len(sizes)


def test_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    data = dataset()
    used = batches(data, batch_size=7)
    joined(used.epoch(0))
    images, labels = joined(used.epoch(3))
    again, same_labels = joined(batches(data, batch_size=5).epoch(3))
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)


def test_epochs_and_seeds_differ() -> None:
    data = dataset()
    orders = [
        tuple(joined(batches(data, seed=seed).epoch(epoch))[1].tolist())
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2**62, 0)]
    ]
    assert len(set(orders)) == len(orders)


def test_an_epoch_goes_on_from_any_batch() -> None:
    made = batches(dataset())
    whole = list(made.epoch(2))
    for start in range(made.steps_per_epoch + 1):
        rest = list(made.epoch(2, start))
        assert len(rest) == len(whole) - start
        for (images, labels), (expected, expected_labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, expected_labels)


def test_global_random_state_is_untouched() -> None:
    torch_before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    made = batches(dataset())
    joined(made.epoch(0))
    joined(made.validation())
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert str(np.random.get_state()) == numpy_before


def test_data_set_is_left_as_it_was() -> None:
    data = dataset()
    before = data.train.inputs.clone()
    for images, labels in batches(data).epoch(0):
        images.zero_()
        labels.zero_()
    for images, _ in batches(data).validation():
        images.zero_()
    assert torch.equal(data.train.inputs, before)
    assert torch.equal(data.train.labels, torch.arange(23))


@pytest.mark.gpu
def test_gpu_gives_the_same_without_waiting_for_it() -> None:
    data = dataset()
    made = Batches(data, 5, 0, torch.device("cuda"), torch.float32)
    epoch = made.epoch(0)
    found = [next(epoch)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found += [*epoch, *made.validation()]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = batches(data)
    expected = [*on_cpu.epoch(0), *on_cpu.validation()]
    for (images, labels), (cpu_images, cpu_labels) in zip(found, expected, strict=True):
        assert torch.equal(labels.cpu(), cpu_labels)
        assert (images.cpu() - cpu_images).abs().max() <= 2 * tolerance(torch.float32)


def test_data_set_on_the_cpu_is_not_copied() -> None:
    data = dataset()
    assert batches(data)._examples.train.inputs.data_ptr() == data.train.inputs.data_ptr()
    larger = dataclasses.replace(data, crop_padding=2)
    assert batches(larger)._examples.train.inputs.data_ptr() == data.train.inputs.data_ptr()


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 28), (3, 32), (1, 32), (3, 96), (3, 224), (1, 5)]
)
def test_grey_images_and_other_sizes(channels: int, size: int) -> None:
    """Each image of an epoch is one of its crops, mirrored or not."""
    random = np.random.default_rng(size)
    pixels = torch.from_numpy(random.integers(0, 256, (4, channels, size, size), dtype=np.uint8))
    noise = Split(pixels, torch.arange(4))
    data = ImageDataset(
        "noise", True, noise, noise, 4, MEAN[:channels], STD[:channels], crop_padding=1, flip=True
    )
    images, labels = joined(batches(data).epoch(0))
    assert data.example(2, torch.float64).shape == (2, *images.shape[1:]) == (2, *data.shape)
    mean, std = (torch.tensor(numbers[:channels])[:, None, None] for numbers in (MEAN, STD))
    padded = torch.nn.functional.pad(pixels, [1] * 4)
    for image, label in zip(images, labels, strict=True):
        shown = ((image * std + mean) * 255).round()
        crops = [padded[label, :, top:, left:][:, :size, :size]
                 for top, left in itertools.product(range(3), repeat=2)]  # fmt: skip
        assert any(torch.equal(shown, each.flip(axes)) for each in crops for axes in ((), (-1,)))
    validation, _ = joined(batches(data).validation())
    assert torch.equal(((validation * std + mean) * 255).round(), pixels)
