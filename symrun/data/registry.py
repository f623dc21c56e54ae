"""The data sets that can be trained on by name; an entry holds all that is particular to one."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from symrun.typed import Setting, require, require_settings

if TYPE_CHECKING:
    from symrun.data.dataset import Dataset, ImageDataset


@dataclass(frozen=True)
class DataConfig:
    """What all data sets have: each adds its own settings."""

    name: str

    def __post_init__(self) -> None:
        require_settings(self, "data.")


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


_Augment = Annotated[Augment, Setting("what is drawn at random for each training image")]
_CROP_PADDING = 4


@dataclass(frozen=True, kw_only=True)
class ImageConfig(DataConfig):
    """How images are prepared."""

    mean: Annotated[
        tuple[float, ...] | None,
        Setting("mean of each channel of images in [0, 1]; null: of the training images"),
    ] = None
    std: Annotated[
        tuple[float, ...] | None,
        Setting("standard deviation of each channel, > 0; null: of the training images"),
    ] = None
    augment: _Augment = Augment.flip_crop
    crop_padding: Annotated[
        int, Setting("pixels of black border around an image before a random crop", "in [1, 256]")
    ] = _CROP_PADDING

    def __post_init__(self) -> None:
        super().__post_init__()
        channels = self.channel_count
        one_each = f"a list of {channels}, one for each channel"
        for setting, numbers in (("mean", self.mean), ("std", self.std)):
            for number in numbers or ():
                require(f"data.{setting}", math.isfinite(number), "finite", number)
                require("data.std", setting == "mean" or number > 0, "> 0", number)
            fits = numbers is None or len(numbers) == channels
            require(f"data.{setting}", fits, one_each, list(numbers or ()))
        padding = self.crop_padding
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
    root: Annotated[
        Path | None, Setting("the folder that holds torchvision's files; null: download them")
    ]
    cache: Annotated[Path, Setting("where what is downloaded and what is decoded goes")]


@dataclass(frozen=True)
class TinyImageNetConfig(CachedConfig):
    root: Annotated[
        Path | None,
        Setting("the zip, or a folder, complete or with some classes; null: download it"),
    ]


def _tiny_imagenet(config: TinyImageNetConfig) -> "Dataset":
    from symrun.data.tiny_imagenet import tiny_imagenet  # torch takes a second to import

    return _prepared(tiny_imagenet(config.root, config.cache), config)


@dataclass(frozen=True)
class MnistConfig(CachedConfig):
    """A mirrored digit is no digit any more, and images that are centred need no crop."""

    augment: _Augment = field(default=Augment.none, kw_only=True)

    @property
    def channel_count(self) -> int:
        return 1


def _torchvision(config: CachedConfig) -> "Dataset":
    from symrun.data.torchvision_sets import torchvision_set

    return _prepared(torchvision_set(config.name, config.root, config.cache), config)


@dataclass(frozen=True)
class ImageFolderConfig(ImageConfig):
    root: Annotated[Path | None, Setting("the folder with train/ and val/; it must be given")]
    cache: Annotated[Path, Setting("where decoded images go")]
    size: Annotated[
        int | None,
        Setting("side in pixels, to which images are resized and cropped; null: all have one",
                "in [8, 1024]"),
    ]  # fmt: skip
    channels: Annotated[int, Setting("3, or 1 for grey")]

    def __post_init__(self) -> None:
        super().__post_init__()
        given = "a folder with train/ and val/ (data.root=DIR)"
        require("data.root", self.root is not None, given, "null")
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

    classes: Annotated[int, Setting("textures to tell apart", "in [2, 1000]")]
    image_size: Annotated[int, Setting("pixels along a side", "in [8, 1024]")]
    train_images: Annotated[int, Setting("images to train on", "in [1, 1000000]")]
    val_images: Annotated[int, Setting("images to validate on", "in [1, 1000000]")]
    seed: Annotated[int, Setting("seed of the textures", "in [0, 2^63)")]
    channels: Annotated[int, Setting("3, or 1 for grey")] = 3
    augment: _Augment = field(default=Augment.crop, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_channels(self.channels)
        for setting in ("train_images", "val_images"):
            count = getattr(self, setting)
            at_least = f">= data.classes ({self.classes})"
            require(f"data.{setting}", count >= self.classes, at_least, count)

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
    root: Annotated[Path | None, Setting("the file; it must be given")]
    length: Annotated[int, Setting("characters in a block", "in [1, 65536]")]
    val_share: Annotated[
        float, Setting("share of the file, from its end, to validate on", "in (0, 1)")
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        require("data.root", self.root is not None, "a text file (data.root=FILE)", "null")


def _text(config: TextConfig) -> "Dataset":
    from symrun.data.text import text

    assert config.root is not None
    return text(config.root, config.length, config.val_share)


DATA_SETS: dict[str, DataSource] = {
    "tiny_imagenet": DataSource(TinyImageNetConfig, _tiny_imagenet, lambda config: 64, 200),
    "synthetic": DataSource(SyntheticConfig, _synthetic, lambda config: config.image_size),
    "cifar10": DataSource(CachedConfig, _torchvision, lambda config: 32, 10),
    "cifar100": DataSource(CachedConfig, _torchvision, lambda config: 32, 100),
    "mnist": DataSource(MnistConfig, _torchvision, lambda config: 28, 10),
    "fashion_mnist": DataSource(MnistConfig, _torchvision, lambda config: 28, 10),
    "image_folder": DataSource(ImageFolderConfig, _image_folder, lambda config: config.size),
    "text": DataSource(TextConfig, _text, lambda config: None),
}
