"""The data sets that can be trained on by name; an entry holds all that is particular to one."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symrun.typed import require

if TYPE_CHECKING:
    from symrun.data.dataset import Dataset, ImageDataset


@dataclass(frozen=True)
class DataConfig:
    """What all data sets have: each adds its own settings."""

    name: str


class Augment(StrEnum):
    """What is drawn at random for each training image of an epoch."""

    none = "none"
    flip = "flip"
    crop = "crop"
    flip_crop = "flip_crop"

    @property
    def flips(self) -> bool:
        return self in (Augment.flip, Augment.flip_crop)

    @property
    def crops(self) -> bool:
        return self in (Augment.crop, Augment.flip_crop)


_CROP_PADDING = 4


@dataclass(frozen=True, kw_only=True)
class ImageConfig(DataConfig):
    """How images are prepared.

    mean, std: of each channel in [0, 1], to normalise with; null takes those of the training
    images. crop_padding: pixels of black border around an image before a random crop.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: Augment = Augment.flip_crop
    crop_padding: int = _CROP_PADDING

    def __post_init__(self) -> None:
        channels = self.channel_count
        one_each = f"a list of {channels}, one for each channel"
        for setting, numbers in (("mean", self.mean), ("std", self.std)):
            for number in numbers or ():
                require(f"data.{setting}", math.isfinite(number), "finite", number)
                require("data.std", setting == "mean" or number > 0, "> 0", number)
            fits = numbers is None or len(numbers) == channels
            require(f"data.{setting}", fits, one_each, list(numbers or ()))
        padding = self.crop_padding
        require("data.crop_padding", 1 <= padding <= 256, "in [1, 256]", padding)
        has_effect = self.augment.crops or padding == _CROP_PADDING
        usual = f"{_CROP_PADDING} with data.augment={self.augment.value}, which crops nothing"
        require("data.crop_padding", has_effect, usual, padding)

    @property
    def channel_count(self) -> int:
        return 3


@dataclass(frozen=True)
class DataSource:
    """settings: the class of a data set's settings. load: makes, reads or downloads it.

    image_size: pixels along a side of its images, by its settings; None if the images say so, or
    there are none. classes: how many the whole data set has; None if its settings or its files say
    so.
    """

    settings: type[DataConfig]
    load: Callable[[Any], "Dataset"]
    image_size: Callable[[Any], int | None]
    classes: int | None = None


def load(config: DataConfig) -> "Dataset":
    """The data set that `config` describes: downloaded and decoded, or made, if need be.

    Error: UsageError naming the file or the setting that cannot be used.
    Example: load(SyntheticConfig("synthetic", 10, 32, 2000, 500, seed=0)).classes
    """
    return DATA_SETS[config.name].load(config)


def _prepared(dataset: "ImageDataset", config: ImageConfig) -> "ImageDataset":
    """The same images with the normalisation and the augmentation of the settings.

    Error: UsageError if the images cannot be normalised.
    """
    std = config.std or dataset.std
    one_colour = "given with images of a single colour, which have no deviation"
    require("data.std", min(std) > 0, one_colour, "null")
    return dataclasses.replace(
        dataset,
        mean=config.mean or dataset.mean,
        std=std,
        crop_padding=config.crop_padding if config.augment.crops else 0,
        flip=config.augment.flips,
    )


@dataclass(frozen=True)
class CachedConfig(ImageConfig):
    """root: where the files are; null downloads them. cache: where what is downloaded and what is
    decoded goes."""

    root: Path | None
    cache: Path


@dataclass(frozen=True)
class TinyImageNetConfig(CachedConfig):
    """root: the zip, or an unpacked folder."""


def _tiny_imagenet(config: TinyImageNetConfig) -> "Dataset":
    from symrun.data.tiny_imagenet import tiny_imagenet  # torch takes a second to import

    return _prepared(tiny_imagenet(config.root, config.cache), config)


@dataclass(frozen=True)
class CifarConfig(CachedConfig):
    """root: the folder that holds torchvision's."""


@dataclass(frozen=True)
class MnistConfig(CachedConfig):
    """root: the folder that holds torchvision's. A mirrored digit is no digit any more, and images
    that are centred already need no crop."""

    augment: Augment = field(default=Augment.none, kw_only=True)

    @property
    def channel_count(self) -> int:
        return 1


def _torchvision(config: CachedConfig) -> "Dataset":
    from symrun.data.torchvision_sets import torchvision_set

    return _prepared(torchvision_set(config.name, config.root, config.cache), config)


@dataclass(frozen=True)
class ImageFolderConfig(ImageConfig):
    """root: the folder with train/. cache: where decoded images go. size: pixels along a side, to
    which images are resized and cropped; null if all have one size. channels: 3, or 1 for grey."""

    root: Path | None
    cache: Path
    size: int | None
    channels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        given = "a folder with train/ and val/ (data.root=DIR)"
        require("data.root", self.root is not None, given, "null")
        size = 8 if self.size is None else self.size
        require("data.size", 8 <= size <= 1024, "in [8, 1024], or null", size)
        _require_channels(self.channels)

    @property
    def channel_count(self) -> int:
        return self.channels


def _image_folder(config: ImageFolderConfig) -> "Dataset":
    from symrun.data.image_folder import image_folder

    assert config.root is not None
    images = image_folder(config.root, config.cache, config.size, config.channels)
    return _prepared(images, config)


def _require_channels(channels: int) -> None:
    require("data.channels", channels in (1, 3), "1 (grey) or 3 (colour)", channels)


@dataclass(frozen=True)
class SyntheticConfig(ImageConfig):
    """A flip would turn the grating of a class, so that only crops are drawn."""

    classes: int
    image_size: int
    train_images: int
    val_images: int
    seed: int
    channels: int = 3
    augment: Augment = field(default=Augment.crop, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_channels(self.channels)
        require("data.classes", 2 <= self.classes <= 1000, "in [2, 1000]", self.classes)
        size = self.image_size
        require("data.image_size", 8 <= size <= 1024, "in [8, 1024]", size)
        for setting in ("train_images", "val_images"):
            count = getattr(self, setting)
            at_least = f">= data.classes ({self.classes})"
            require(f"data.{setting}", count >= self.classes, at_least, count)
            require(f"data.{setting}", count <= 10**6, "<= 1000000", count)
        require("data.seed", self.seed >= 0, ">= 0", self.seed)

    @property
    def channel_count(self) -> int:
        return self.channels


def _synthetic(config: SyntheticConfig) -> "Dataset":
    from symrun.data.synthetic import synthetic_textures

    textures = synthetic_textures(
        config.classes,
        config.image_size,
        config.train_images,
        config.val_images,
        config.seed,
        config.channels,
    )
    return _prepared(textures, config)


@dataclass(frozen=True)
class TextConfig(DataConfig):
    """root: the file. length: characters in a block. val_share: of the file, from its end."""

    root: Path | None
    length: int
    val_share: float

    def __post_init__(self) -> None:
        require("data.root", self.root is not None, "a text file (data.root=FILE)", "null")
        require("data.length", 1 <= self.length <= 2**16, "in [1, 65536]", self.length)
        require("data.val_share", 0 < self.val_share < 1, "in (0, 1)", self.val_share)


def _text(config: TextConfig) -> "Dataset":
    from symrun.data.text import text

    assert config.root is not None
    return text(config.root, config.length, config.val_share)


DATA_SETS: dict[str, DataSource] = {
    "tiny_imagenet": DataSource(TinyImageNetConfig, _tiny_imagenet, lambda config: 64, 200),
    "synthetic": DataSource(SyntheticConfig, _synthetic, lambda config: config.image_size),
    "cifar10": DataSource(CifarConfig, _torchvision, lambda config: 32, 10),
    "cifar100": DataSource(CifarConfig, _torchvision, lambda config: 32, 100),
    "mnist": DataSource(MnistConfig, _torchvision, lambda config: 28, 10),
    "fashion_mnist": DataSource(MnistConfig, _torchvision, lambda config: 28, 10),
    "image_folder": DataSource(ImageFolderConfig, _image_folder, lambda config: config.size),
    "text": DataSource(TextConfig, _text, lambda config: None),
}
