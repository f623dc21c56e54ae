"""The settings that a benchmark runs through."""

from collections.abc import Sequence

from symrun.config import Config
from symrun.data.registry import SyntheticConfig
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.models import MODELS, entry_of
from symrun.overrides import combinations
from symrun.training.device import select_device
from symrun.training.plan import Plan
from symrun.typed import require

_COMMON = ["data=synthetic", "data.image_size=64", "data.classes=200", "optim.weight_decay=1e-4"]
_ON_CPU = ["train.batch_size=128"]
_NARROW = ["model.width=0.25"]
"""Both make a size that a CPU can measure in a minute; a GPU measures the paper's own size."""


def configurations(overrides: Sequence[str]) -> list[Config]:
    """One for every combination of the values that overrides list, as `symrun train -m` takes them.

    Error: UsageError for the first that cannot be composed or run here.
    Example: [config.track.every for config in configurations(["track.every=1,20"])] == [1, 20]
    """
    if data := [word for word in overrides if word.startswith("data=")]:
        raise UsageError(f"symrun bench measures on synthetic images: leave {data[0]} out")
    return [_configuration(chosen) for chosen in combinations(overrides)]


def title(config: Config) -> str:
    """A short name of a configuration: "vgg16_bn, width 1, batch 256"."""
    width = config.model.relative_width
    narrow = "" if width is None else f", width {width:g}"
    return f"{config.model.name}{narrow}, batch {config.train.batch_size}"


def _configuration(chosen: list[str]) -> Config:
    config = compose([*_COMMON, *chosen])
    if MODELS[entry_of(config.model.name)].axes == 1:
        reason = f"which model={config.model.name} does not take"
        raise UsageError(f"symrun bench measures on synthetic images, {reason}")
    if select_device(config.device).type == "cpu":
        narrow = [] if config.model.relative_width is None else _NARROW
        config = compose([*_COMMON, *_ON_CPU, *narrow, *chosen])
    Plan.of(config)
    assert isinstance(config.data, SyntheticConfig)
    images, size = config.data.train_images, config.train.batch_size
    require("train.batch_size", size <= images, f"at most data.train_images ({images})", size)
    return config
