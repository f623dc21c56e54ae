"""The data sets that can be trained on by name; an entry holds all that is particular to one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symrun.typed import require

if TYPE_CHECKING:
    from symrun.data.dataset import Dataset


@dataclass(frozen=True)
class DataConfig:
    """What all data sets have: each adds its own settings."""

    name: str


@dataclass(frozen=True)
class DataSource:
    """settings: the class of a data set's settings. load: makes, reads or downloads it.

    image_size: pixels along a side of its images, by its settings. classes: how many the whole data
    set has; None if its settings say so.
    """

    settings: type[DataConfig]
    load: Callable[[Any], "Dataset"]
    image_size: Callable[[Any], int]
    classes: int | None


def load(config: DataConfig) -> "Dataset":
    """The data set that `config` describes: downloaded and decoded, or made, if need be.

    Error: UsageError naming the file or the setting that cannot be used.
    Example: load(SyntheticConfig("synthetic", 10, 32, 2000, 500, seed=0)).classes
    """
    return DATA_SETS[config.name].load(config)


@dataclass(frozen=True)
class TinyImageNetConfig(DataConfig):
    """root: the zip, or an unpacked folder; null downloads. cache: where decoded images go."""

    root: Path | None
    cache: Path


def _tiny_imagenet(config: TinyImageNetConfig) -> "Dataset":
    from symrun.data.tiny_imagenet import tiny_imagenet  # torch takes a second to import

    return tiny_imagenet(config.root, config.cache)


@dataclass(frozen=True)
class SyntheticConfig(DataConfig):
    classes: int
    image_size: int
    train_images: int
    val_images: int
    seed: int

    def __post_init__(self) -> None:
        require("data.classes", 2 <= self.classes <= 1000, "in [2, 1000]", self.classes)
        size = self.image_size
        require("data.image_size", 32 <= size <= 1024, "in [32, 1024]", size)
        for setting in ("train_images", "val_images"):
            count = getattr(self, setting)
            at_least = f">= data.classes ({self.classes})"
            require(f"data.{setting}", count >= self.classes, at_least, count)
            require(f"data.{setting}", count <= 10**6, "<= 1000000", count)
        require("data.seed", self.seed >= 0, ">= 0", self.seed)


def _synthetic(config: SyntheticConfig) -> "Dataset":
    from symrun.data.synthetic import synthetic_textures

    return synthetic_textures(
        config.classes, config.image_size, config.train_images, config.val_images, config.seed
    )


DATA_SETS: dict[str, DataSource] = {
    "tiny_imagenet": DataSource(TinyImageNetConfig, _tiny_imagenet, lambda config: 64, 200),
    "synthetic": DataSource(SyntheticConfig, _synthetic, lambda config: config.image_size, None),
}
