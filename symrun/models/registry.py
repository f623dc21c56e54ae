"""The networks that can be trained by name; a family's entry holds all that is particular to it."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from symrun.typed import Setting, require, require_settings

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, ...]
"""Of one input: channels, height and width of an image, or the number of tokens of a text."""

BN_EPS = 1e-5
"""torch's default eps of BatchNorm; runs recorded before `model.eps` existed used it."""


@dataclass(frozen=True)
class ModelConfig:
    """What all models have: each family adds its own settings."""

    name: str

    @property
    def relative_width(self) -> float | None:
        """Of the hidden layers, relative to the usual one; None for a model without such a
        setting."""
        return None

    def require_side(self, side: int | None, setting: str = "data.image_size") -> None:
        """Refuse images that the network cannot take.

        side: pixels along a side; None if the data are no images. setting: what chooses it.
        Error: UsageError.
        """

    def __post_init__(self) -> None:
        require_settings(self, "model.")


@dataclass(frozen=True)
class ScaledConfig(ModelConfig):
    # Below 1/64, the narrowest layers have a single unit and the width is no longer what scales
    width: Annotated[float, Setting("scales every hidden width", "in [1/64, 8]")]

    @property
    def relative_width(self) -> float:
        return self.width


@dataclass(frozen=True)
class Model:
    """One network, or a family whose members are told apart by their settings.

    settings: the class of its settings. titles(settings): its name in figures, and the same without
    its variant, "VGG16" of "VGG16 with BN". build(settings, shape of an input, classes): the
    network with its initial weights, which it draws from torch's generator. axes: of an input, 3
    for images and 1 for tokens; None if it is for the network to say.
    """

    settings: type[ModelConfig]
    titles: Callable[[Any], tuple[str, str]]
    build: Callable[[Any, Any, int], "nn.Module"]
    axes: int | None = 3


def build_model(config: ModelConfig, shape: Shape, classes: int) -> "nn.Module":
    """The network that `config` describes, with its initial weights.

    shape: of one input. classes: the number of outputs, for each input or each token.

    Error: UsageError if it is not made for such inputs, or cannot be made.
    Example: build_model(config.model, dataset.shape, dataset.classes)
    """
    entry = MODELS[entry_of(config.name)]
    kinds = {1: "text", 3: "images"}
    takes = kinds.get(entry.axes or len(shape), "such data")
    found = kinds.get(len(shape), f"{len(shape)} axes")
    require("data", takes == found, f"{takes} for model={config.name}", found)
    config.require_side(shape[-1] if len(shape) == 3 else None, "data.size")
    return entry.build(config, shape, classes)


def entry_of(name: str) -> str:
    """The entry of MODELS that a model's name belongs to; the name itself if it is one.

    Example: entry_of("torchvision/resnet18") == "torchvision"
    """
    if name.startswith("torchvision/"):
        return "torchvision"
    return "own" if re.fullmatch(r"[\w.]+:\w+", name) else name


@dataclass(frozen=True)
class VggConfig(ScaledConfig):
    dropout: Annotated[
        float, Setting("share of the classifier's hidden units left out", "in [0, 1)")
    ]
    eps: Annotated[float, Setting("what BatchNorm adds to the variance", "> 0")] = BN_EPS

    def require_side(self, side: int | None, setting: str = "data.image_size") -> None:
        multiple = f"a multiple of 32 for model={self.name}"
        require(setting, side is None or side % 32 == 0, multiple, side)


@dataclass(frozen=True)
class PlainVggConfig(VggConfig):
    """Of a VGG without batch normalisation, where eps has no effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = f"{BN_EPS:g} without BN (model={self.name}), since it has no effect there"
        require("model.eps", self.eps == BN_EPS, usual, self.eps)


def _vgg(depth: int, batch_norm: bool) -> Model:
    def build(config: VggConfig, shape: tuple[int, int, int], classes: int) -> "nn.Module":
        from symrun.models.vgg import VGG  # torch takes a second to import

        return VGG(depth, batch_norm, shape, classes, config.width, config.dropout, config.eps)

    settings, norm = (VggConfig, "with BN") if batch_norm else (PlainVggConfig, "without BN")
    return Model(settings, lambda config: (f"VGG{depth} {norm}", f"VGG{depth}"), build)


def _resnet(depth: int) -> Model:
    def build(config: ScaledConfig, shape: tuple[int, int, int], classes: int) -> "nn.Module":
        from symrun.models.resnet import SmallImageResNet

        return SmallImageResNet(depth, shape[0], classes, config.width)

    return Model(ScaledConfig, lambda config: (f"ResNet-{depth}", f"ResNet-{depth}"), build)


class Activation(Enum):
    relu = "relu"
    tanh = "tanh"
    gelu = "gelu"
    sigmoid = "sigmoid"
    identity = "identity"


@dataclass(frozen=True)
class MlpConfig(ModelConfig):
    depth: Annotated[int, Setting("hidden layers", "in [0, 1000]")]
    hidden: Annotated[int, Setting("units in each hidden layer", "in [1, 1000000]")]
    activation: Annotated[Activation, Setting("after each hidden layer")]
    bias: Annotated[bool, Setting("a bias in every layer")]
    batch_norm: Annotated[bool, Setting("BatchNorm before each activation")]

    @property
    def title(self) -> str:
        norm = " with BN" if self.batch_norm else ""
        return f"MLP {self.depth}×{self.hidden} {self.activation.value}{norm}"


def _mlp(config: MlpConfig, shape: Shape, classes: int) -> "nn.Module":
    from symrun.models.mlp import mlp

    activation = config.activation.value
    sizes = [math.prod(shape), *[config.hidden] * config.depth, classes]
    return mlp(sizes, activation, config.bias, config.batch_norm)


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    layers: Annotated[int, Setting("blocks of attention and MLP", "in [1, 100000]")]
    heads: Annotated[int, Setting("attention heads in each block", "in [1, 100000]")]
    width: Annotated[int, Setting("width of the residual stream", "in [1, 100000]")]
    dropout: Annotated[float, Setting("share of activations that are left out", "in [0, 1)")]
    bias: Annotated[bool, Setting("a bias in every layer")]

    def __post_init__(self) -> None:
        super().__post_init__()
        multiple = f"a multiple of model.heads ({self.heads})"
        require("model.width", self.width % self.heads == 0, multiple, self.width)


@dataclass(frozen=True)
class GptConfig(TransformerConfig):
    tied: Annotated[bool, Setting("whether the last layer is the embedding of tokens")]


def _gpt(config: GptConfig, shape: tuple[int], classes: int) -> "nn.Module":
    from symrun.models.gpt import GPT

    sizes = (config.layers, config.heads, config.width)
    return GPT(classes, shape[0], *sizes, config.dropout, config.bias, config.tied)


@dataclass(frozen=True)
class VitConfig(TransformerConfig):
    patch: Annotated[int, Setting("pixels along the side of a patch", "in [1, 100000]")]

    def require_side(self, side: int | None, setting: str = "data.image_size") -> None:
        multiple = f"a multiple of model.patch ({self.patch})"
        require(setting, side is None or side % self.patch == 0, multiple, side)


def _vit(config: VitConfig, shape: tuple[int, int, int], classes: int) -> "nn.Module":
    from symrun.models.vit import ViT

    sizes = (config.patch, config.layers, config.heads, config.width)
    return ViT(shape, classes, *sizes, config.dropout, config.bias)


@dataclass(frozen=True)
class NamedConfig(ModelConfig):
    """A network that is not symrun's."""

    args: Annotated[
        Mapping[str, object] | None,
        Setting("what its function is called with, such as {depth:3}"),
    ]


def _torchvision(config: NamedConfig, shape: tuple[int, int, int], classes: int) -> "nn.Module":
    from symrun.models.named import of_torchvision

    return of_torchvision(config.name.partition("/")[2], config.args or {}, classes)


def _own(config: NamedConfig, shape: Shape, classes: int) -> "nn.Module":
    from symrun.models.named import of_user

    return of_user(config.name, config.args or {}, shape, classes)


MODELS: dict[str, Model] = {
    **{
        f"vgg{depth}{'_bn' if batch_norm else ''}": _vgg(depth, batch_norm)
        for depth in (11, 13, 16, 19)
        for batch_norm in (False, True)
    },
    **{f"resnet{depth}_64": _resnet(depth) for depth in (18, 34, 50)},
    "mlp": Model(MlpConfig, lambda config: (config.title, "MLP"), _mlp),
    "gpt": Model(
        GptConfig, lambda config: (f"GPT {config.layers}×{config.width}", "GPT"), _gpt, axes=1
    ),
    "vit": Model(VitConfig, lambda config: (f"ViT {config.layers}×{config.width}", "ViT"), _vit),
    "torchvision": Model(
        NamedConfig, lambda config: (config.name, config.name.partition("/")[2]), _torchvision
    ),
    "own": Model(
        NamedConfig, lambda config: (config.name, config.name.partition(":")[2]), _own, axes=None
    ),
}
"""`entry_of` says which names the last two stand for: torchvision/NAME, package.module:function."""
