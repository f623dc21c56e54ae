"""The networks that can be trained by name; a family's entry holds all that is particular to it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symrun.typed import require

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]
"""Of an image: channels, height, width."""

BN_EPS = 1e-5
"""torch's default eps of BatchNorm; runs recorded before `model.eps` existed used it."""


@dataclass(frozen=True)
class ModelConfig:
    """What all models have: each family adds its own settings. width: scales every hidden width."""

    name: str
    width: float

    def __post_init__(self) -> None:
        # Below, the narrowest layers have a single unit and the width is no longer what scales
        require("model.width", 1 / 64 <= self.width <= 8, "in [1/64, 8]", self.width)


@dataclass(frozen=True)
class Model:
    """One network.

    settings: the class of its settings. title: its name in figures. family: the title without
    its variant, "VGG16" of "VGG16 with BN". side_multiple: the sides of its images must be a
    multiple of it. build(settings, shape of an image, classes): the network with its initial
    weights, which it draws from torch's generator.
    """

    settings: type[ModelConfig]
    title: str
    family: str
    side_multiple: int
    build: Callable[[Any, Shape, int], "nn.Module"]


@dataclass(frozen=True)
class VggConfig(ModelConfig):
    """eps: what BatchNorm adds to the variance."""

    dropout: float
    eps: float = BN_EPS

    def __post_init__(self) -> None:
        super().__post_init__()
        require("model.dropout", 0 <= self.dropout < 1, "in [0, 1)", self.dropout)
        require("model.eps", self.eps > 0, "> 0", self.eps)
        require("model.eps", self.eps < math.inf, "finite", self.eps)


@dataclass(frozen=True)
class PlainVggConfig(VggConfig):
    """Of a VGG without batch normalisation, where eps has no effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = f"{BN_EPS:g} without BN (model={self.name}), since it has no effect there"
        require("model.eps", self.eps == BN_EPS, usual, self.eps)


def _vgg(depth: int, batch_norm: bool) -> Model:
    def build(config: VggConfig, shape: Shape, classes: int) -> "nn.Module":
        from symrun.models.vgg import VGG  # torch takes a second to import

        return VGG(depth, batch_norm, shape, classes, config.width, config.dropout, config.eps)

    settings, norm = (VggConfig, "with BN") if batch_norm else (PlainVggConfig, "without BN")
    return Model(settings, f"VGG{depth} {norm}", f"VGG{depth}", side_multiple=32, build=build)


MODELS: dict[str, Model] = {
    f"vgg{depth}{'_bn' if batch_norm else ''}": _vgg(depth, batch_norm)
    for depth in (11, 13, 16, 19)
    for batch_norm in (False, True)
}
