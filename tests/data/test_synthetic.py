import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from symrun.data import ImageDataset, Split, load
from symrun.data.registry import SyntheticConfig

CONFIG = SyntheticConfig("synthetic", 10, 32, train_images=600, val_images=205, seed=0)


@pytest.fixture(scope="module")
def textures() -> ImageDataset:
    data = load(CONFIG)
    assert isinstance(data, ImageDataset)
    return data


def test_data_set_is_what_was_asked_for(textures: ImageDataset) -> None:
    assert (textures.title, textures.synthetic) == ("synthetic textures", True)
    assert (textures.classes, textures.shape[-1]) == (10, 32)
    for split, count in ((textures.train, 600), (textures.val, 205)):
        assert split.inputs.shape == (count, 3, 32, 32)
        assert split.inputs.dtype == torch.uint8
        assert split.labels.dtype == torch.int64


def test_classes_are_balanced(textures: ImageDataset) -> None:
    assert set(textures.train.labels.bincount().tolist()) == {60}
    assert set(textures.val.labels.bincount().tolist()) == {20, 21}


def test_same_settings_give_the_same_images(textures: ImageDataset) -> None:
    assert torch.equal(load(CONFIG).train.inputs, textures.train.inputs)
    assert torch.equal(load(CONFIG).val.inputs, textures.val.inputs)


def test_another_seed_gives_other_images(textures: ImageDataset) -> None:
    other = load(dataclasses.replace(CONFIG, seed=1))
    assert not torch.equal(other.train.inputs, textures.train.inputs)


def test_validation_images_do_not_depend_on_the_number_of_training_images(
    textures: ImageDataset,
) -> None:
    other = load(dataclasses.replace(CONFIG, train_images=10))
    assert torch.equal(other.val.inputs, textures.val.inputs)


def test_no_image_occurs_twice(textures: ImageDataset) -> None:
    images = torch.cat([textures.train.inputs, textures.val.inputs])
    assert len({image.numpy().tobytes() for image in images}) == 805


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_have_the_mean_and_deviation_stated(channels: int) -> None:
    """Within two standard errors of 500 independent images, one of each class."""
    textures = load(SyntheticConfig("synthetic", 500, 32, 500, 500, seed=0, channels=channels))
    assert isinstance(textures, ImageDataset) and textures.shape == (channels, 32, 32)
    values = textures.train.inputs.double() / 255
    tolerance = 2 * max(textures.std) / 500**0.5
    assert values.mean((0, 2, 3)).numpy() == pytest.approx(textures.mean, abs=tolerance)
    assert values.std((0, 2, 3)).numpy() == pytest.approx(textures.std, abs=tolerance)


@pytest.mark.parametrize(("classes", "size"), [(2, 28), (1000, 32), (3, 96), (2, 224)])
def test_any_number_of_classes_and_size(classes: int, size: int) -> None:
    textures = load(SyntheticConfig("synthetic", classes, size, classes, classes, seed=3))
    assert textures.train.inputs.shape == (classes, 3, size, size)
    assert textures.train.labels.tolist() == list(range(classes))


def test_gratings_have_a_random_phase(textures: ImageDataset) -> None:
    """So they cancel in the mean over a class. By chance, more than half of a grating is left in
    the mean of 60 with the probability exp(-60 / 4) = 3e-7."""
    for label in range(10):
        images = textures.train.inputs[textures.train.labels == label].double()
        waves = torch.fft.rfft2(images - images.mean((2, 3), keepdim=True))
        assert waves.mean(0).abs().max() < waves.abs().mean(0).max() / 2


def spectra(split: Split) -> NDArray[np.float64]:
    """What of an image depends neither on its phase, nor its contrast, nor its colours."""
    waves = np.abs(np.fft.rfft2(split.inputs.numpy().astype(np.float64))).mean(axis=1)
    waves[:, 0, 0] = 0
    flat: NDArray[np.float64] = waves.reshape(len(waves), -1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def colours(split: Split) -> NDArray[np.float64]:
    return split.inputs.double().mean((2, 3)).numpy()


@pytest.mark.parametrize(("features", "known_at_least"), [(spectra, 0.8), (colours, 0.5)])
def test_a_class_is_known_by_its_grating_and_less_surely_by_its_background(
    textures: ImageDataset, features: Callable[[Split], NDArray[np.float64]], known_at_least: float
) -> None:
    """The nearest class centre of the training images, by either alone: chance is 10 %."""
    known, labels = features(textures.train), textures.train.labels.numpy()
    centres = np.stack([known[labels == label].mean(axis=0) for label in range(10)])
    asked = features(textures.val)
    nearest = ((asked[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert np.mean(nearest == textures.val.labels.numpy()) > known_at_least
