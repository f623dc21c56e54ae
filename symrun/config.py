"""Settings: what Hydra composed from `configs/`, as frozen, validated dataclasses.

Defaults live in `configs/*.yaml` alone; the constraints live here. Every refusal names the
setting, the constraint and the value.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from symrun.errors import UsageError

Settings = TypeVar("Settings")


class Precision(Enum):
    """Arithmetic of forward and backward. Weights are float32, except in float64 runs.

    auto: tf32 on a GPU, float32 on the CPU.
    """

    auto = "auto"
    float64 = "float64"
    float32 = "float32"
    tf32 = "tf32"
    bf16 = "bf16"


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def require(setting: str, holds: bool, constraint: str, value: object) -> None:
    """Refuse `value` for `setting` unless the constraint holds.

    Error: UsageError, "optim.lr must be > 0, got -0.1".
    """
    if not holds:
        raise UsageError(f"{setting} must be {constraint}, got {value}")


MODEL_NAMES = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))


@dataclass(frozen=True)
class ModelConfig:
    name: str
    width: float
    dropout: float

    def __post_init__(self) -> None:
        require(
            "model.name", self.name in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}", self.name
        )
        require("model.width", 0 < self.width <= 8, "in (0, 8]", self.width)
        require("model.dropout", 0 <= self.dropout < 1, "in [0, 1)", self.dropout)


@dataclass(frozen=True)
class TinyImageNetConfig:
    """`root`: the zip, or an unpacked folder; null downloads. `cache`: where decoded images go."""

    name: str
    root: Path | None
    cache: Path


@dataclass(frozen=True)
class SyntheticConfig:
    name: str
    classes: int
    image_size: int
    train_images: int
    val_images: int
    seed: int

    def __post_init__(self) -> None:
        require("data.classes", 2 <= self.classes <= 1000, "in [2, 1000]", self.classes)
        size = self.image_size
        require("data.image_size", size % 32 == 0, "a multiple of 32", size)
        require("data.image_size", 32 <= size <= 1024, "in [32, 1024]", size)
        for setting in ("train_images", "val_images"):
            count = getattr(self, setting)
            at_least = f">= data.classes ({self.classes})"
            require(f"data.{setting}", count >= self.classes, at_least, count)
            require(f"data.{setting}", count <= 10**6, "<= 1000000", count)
        require("data.seed", self.seed >= 0, ">= 0", self.seed)


DataConfig = TinyImageNetConfig | SyntheticConfig
DATA_CONFIGS: dict[str, type[DataConfig]] = {
    "tiny_imagenet": TinyImageNetConfig,
    "synthetic": SyntheticConfig,
}


class Schedule(Enum):
    """How the learning rate changes over a run; `symrun.schedule` computes it."""

    constant = "constant"
    multistep = "multistep"
    cosine = "cosine"
    warmup_cosine = "warmup_cosine"


@dataclass(frozen=True)
class OptimConfig:
    """What all optimisers have: torch.optim's own settings and constraints, and a schedule.

    milestones: shares of the run after which `multistep` multiplies the learning rate by gamma.
    warmup: share of the run over which `warmup_cosine` raises it. Each is null elsewhere.
    """

    name: str
    lr: float
    weight_decay: float
    schedule: Schedule
    milestones: tuple[float, ...] | None
    gamma: float | None
    warmup: float | None

    def __post_init__(self) -> None:
        require("optim.lr", self.lr > 0, "> 0", self.lr)
        require("optim.lr", self.lr < math.inf, "finite", self.lr)
        decay = self.weight_decay
        require("optim.weight_decay", decay >= 0, ">= 0", decay)
        require("optim.weight_decay", decay < math.inf, "finite", decay)
        for setting, schedule, example in (
            ("milestones", Schedule.multistep, "[0.5,0.75]"),
            ("gamma", Schedule.multistep, "0.1"),
            ("warmup", Schedule.warmup_cosine, "0.05"),
        ):
            value, used = getattr(self, setting), self.schedule is schedule
            value = list(value) if isinstance(value, tuple) else value
            name, given = f"optim.schedule={schedule.value}", value is not None
            require(f"optim.{setting}", used or not given, f"null without {name}", value)
            needed = f"given with {name}, such as {example}"
            require(f"optim.{setting}", given or not used, needed, "null")
        if self.milestones is not None:
            rising = list(self.milestones) == sorted(set(self.milestones))
            inside = all(0 < milestone < 1 for milestone in self.milestones)
            allowed = bool(self.milestones) and rising and inside
            shares = "rising shares of the run, each in (0, 1)"
            require("optim.milestones", allowed, shares, list(self.milestones))
        require("optim.gamma", self.gamma is None or 0 < self.gamma <= 1, "in (0, 1]", self.gamma)
        require(
            "optim.warmup", self.warmup is None or 0 < self.warmup < 1, "in (0, 1)", self.warmup
        )


@dataclass(frozen=True)
class SgdConfig(OptimConfig):
    momentum: float
    dampening: float
    nesterov: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        decay = self.weight_decay
        bound = f"< 1 / optim.lr ({1 / self.lr:g})"
        require("optim.weight_decay", self.lr * decay < 1, bound, decay)
        require("optim.momentum", 0 <= self.momentum < 1, "in [0, 1)", self.momentum)
        require("optim.dampening", 0 <= self.dampening < 1, "in [0, 1)", self.dampening)
        without_momentum = "0 where optim.momentum is 0, since it has no effect there"
        require(
            "optim.dampening",
            self.momentum > 0 or self.dampening == 0,
            without_momentum,
            self.dampening,
        )
        nesterov_allowed = self.momentum > 0 and self.dampening == 0
        needs = "false unless optim.momentum > 0 and optim.dampening = 0"
        require("optim.nesterov", not self.nesterov or nesterov_allowed, needs, self.nesterov)


@dataclass(frozen=True)
class AdamConfig(OptimConfig):
    """Adam, and AdamW, whose weight decay is decoupled from the gradient."""

    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("optim.beta1", 0 <= self.beta1 < 1, "in [0, 1)", self.beta1)
        require("optim.beta2", 0 <= self.beta2 < 1, "in [0, 1)", self.beta2)
        require("optim.eps", self.eps > 0, "> 0", self.eps)


@dataclass(frozen=True)
class RmspropConfig(OptimConfig):
    alpha: float
    eps: float
    momentum: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require("optim.alpha", 0 <= self.alpha < 1, "in [0, 1)", self.alpha)
        require("optim.eps", self.eps > 0, "> 0", self.eps)
        require("optim.momentum", 0 <= self.momentum < 1, "in [0, 1)", self.momentum)


OPTIM_CONFIGS: dict[str, type[OptimConfig]] = {
    "sgd": SgdConfig,
    "adam": AdamConfig,
    "adamw": AdamConfig,
    "rmsprop": RmspropConfig,
}


@dataclass(frozen=True)
class TrainConfig:
    """`steps`, where given, wins over `epochs`.

    What makes a step fast can be switched off, or on: channels_last, the layout of images and
    convolutions; data_on_device, the whole data set in the GPU's memory; compile, torch.compile;
    cuda_graph, one launch an update.
    """

    epochs: int
    steps: int | None
    batch_size: int
    channels_last: bool
    data_on_device: bool
    compile: bool
    cuda_graph: bool

    def __post_init__(self) -> None:
        require("train.epochs", self.epochs >= 1, ">= 1", self.epochs)
        require("train.steps", self.steps is None or self.steps >= 1, ">= 1", self.steps)
        require("train.batch_size", self.batch_size >= 2, ">= 2", self.batch_size)


class Sums(Enum):
    """What sums over units at every step: plain torch, or a Triton kernel on a GPU."""

    auto = "auto"
    torch = "torch"
    triton = "triton"


@dataclass(frozen=True)
class TrackConfig:
    """`every`: steps between records. `parameters`: single parameters sampled in each layer.

    sums: auto takes the kernel where it can run and agrees with torch.
    """

    every: int
    parameters: int
    sums: Sums

    def __post_init__(self) -> None:
        require("track.every", self.every >= 1, ">= 1", self.every)
        require("track.parameters", self.parameters >= 0, ">= 0", self.parameters)


@dataclass(frozen=True)
class RunConfig:
    """`dir` null: a new folder outputs/<name>/<date and time>."""

    name: str
    dir: Path | None

    def __post_init__(self) -> None:
        plain = self.name == Path(self.name).name and self.name not in ("", "..")
        require("run.name", plain, "a name without slashes", repr(self.name))


@dataclass(frozen=True)
class Config:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    track: TrackConfig
    run: RunConfig
    precision: Precision
    device: Device
    seed: int

    def __post_init__(self) -> None:
        require("seed", 0 <= self.seed < 2**63, "in [0, 2^63)", self.seed)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "Config":
        """The typed settings of one run. Error: UsageError for the first that is wrong."""
        typed: dict[str, Any] = {
            "data": _build_named(DATA_CONFIGS, settings, "data", "a data set"),
            "optim": optim_config(settings),
        }
        return _build(cls, {**settings, **typed}, "")

    def to_dict(self) -> dict[str, Any]:
        """The same settings as plain JSON values; `from_mapping` reads them back."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, Enum):
                return value.value
            if isinstance(value, tuple):
                return list(value)
            return str(value) if isinstance(value, Path) else value

        return plain(dataclasses.asdict(self))  # type: ignore[no-any-return]


def optim_config(settings: Mapping[str, Any]) -> OptimConfig:
    """The optimiser among the settings of a run. Error: UsageError for the first that is wrong."""
    return _build_named(OPTIM_CONFIGS, settings, "optim", "an optimiser")


def _build(kind: type[Settings], values: Mapping[str, Any], prefix: str) -> Settings:
    require(prefix.rstrip("."), isinstance(values, Mapping), "a group of settings", repr(values))
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise UsageError(f"there is no setting {prefix}{key}; there are {', '.join(hints)}")
    for key in hints:
        if key not in values:
            raise UsageError(f"the setting {prefix}{key} is missing")
    return kind(**{key: _typed(values[key], hint, prefix + key) for key, hint in hints.items()})


def _build_named(
    kinds: Mapping[str, type[Settings]], settings: Mapping[str, Any], group: str, what: str
) -> Settings:
    """The settings of a group that says by its `name` which of several kinds it is."""
    values = settings.get(group)
    named = isinstance(values, Mapping) and "name" in values
    require(group, named, what, repr(values))
    assert isinstance(values, Mapping)
    name = str(values["name"])
    require(f"{group}.name", name in kinds, f"one of {', '.join(kinds)}", name)
    return _build(kinds[name], values, f"{group}.")


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


def _typed(value: Any, hint: Any, setting: str) -> Any:
    """`value` as `hint`, losslessly (2 serves as a float, 2.5 does not serve as an int)."""
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(kind for kind in hint.__args__ if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        require(setting, isinstance(value, list | tuple), "a list such as [0.5,0.75]", repr(value))
        return tuple(_typed(item, typing.get_args(hint)[0], setting) for item in value)
    if dataclasses.is_dataclass(hint):
        built_already = dataclasses.is_dataclass(value)
        return value if built_already else _build(typing.cast(type, hint), value, setting + ".")
    if isinstance(hint, type) and issubclass(hint, Enum):
        names = [member.value for member in hint]
        require(setting, value in names, f"one of {', '.join(names)}", value)
        return hint(value)
    allowed = {float: (int, float), Path: (str, Path)}.get(hint, (hint,))
    fits = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    require(setting, fits, _KINDS[hint], repr(value))
    if hint is not Path:
        return hint(value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UsageError(f"{setting}={value} names a home folder that cannot be found") from None
