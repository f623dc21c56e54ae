"""Settings: what Hydra composed from `configs/`, as frozen, validated dataclasses.

Defaults live in `configs/*.yaml`; the constraints live here, and what is new since the first runs
has a default here too, so that those can still be read. Every refusal names the
setting, the constraint and the value.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from symrun.typed import build, build_named
from symrun.typed import require as require


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


MODEL_NAMES = tuple(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))

BN_EPS = 1e-5
"""torch's own eps of BatchNorm, which the runs had that were recorded before it was a setting."""


@dataclass(frozen=True)
class ModelConfig:
    """eps: what BatchNorm adds to the variance."""

    name: str
    width: float
    dropout: float
    eps: float = BN_EPS

    def __post_init__(self) -> None:
        require(
            "model.name", self.name in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}", self.name
        )
        require("model.width", 0 < self.width <= 8, "in (0, 8]", self.width)
        require("model.dropout", 0 <= self.dropout < 1, "in [0, 1)", self.dropout)
        require("model.eps", self.eps > 0, "> 0", self.eps)
        require("model.eps", self.eps < math.inf, "finite", self.eps)
        usual = f"{BN_EPS:g} without BN (model={self.name}), since it has no effect there"
        require("model.eps", self.name.endswith("_bn") or self.eps == BN_EPS, usual, self.eps)


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


class OnDivergence(Enum):
    """What a loss or a weight that is not finite means for the run."""

    stop = "stop"
    go_on = "continue"


@dataclass(frozen=True)
class TrainConfig:
    """`steps`, where given, wins over `epochs`.

    checkpoint_every: updates between checkpoints, of which checkpoint_keep stay.

    What makes a step fast can be switched off, or on: channels_last, the layout of images and
    convolutions; data_on_device, the whole data set in the GPU's memory; compile, torch.compile;
    cuda_graph, one launch an update.
    """

    epochs: int
    steps: int | None
    batch_size: int
    on_divergence: OnDivergence
    checkpoint_every: int
    checkpoint_keep: int
    channels_last: bool
    data_on_device: bool
    compile: bool
    cuda_graph: bool

    def __post_init__(self) -> None:
        require("train.epochs", 1 <= self.epochs <= 10**7, "in [1, 10000000]", self.epochs)
        steps = 1 if self.steps is None else self.steps
        require("train.steps", 1 <= steps <= 10**7, "in [1, 10000000]", self.steps)
        require("train.batch_size", self.batch_size >= 2, ">= 2", self.batch_size)
        for setting in ("checkpoint_every", "checkpoint_keep"):
            value = getattr(self, setting)
            require(f"train.{setting}", value >= 1, ">= 1", value)


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
    """`dir` null: a new folder outputs/<name>/<date and time>.

    again: whether a sweep trains members that are finished already.
    """

    name: str
    dir: Path | None
    again: bool

    def __post_init__(self) -> None:
        plain = self.name == Path(self.name).name and self.name not in ("", "..")
        require("run.name", plain, "a name without slashes", repr(self.name))


WITHOUT_EFFECT = (
    *("run.", "device", "data.root", "data.cache", "train.data_on_device", "train.cuda_graph"),
    *("train.checkpoint_every", "train.checkpoint_keep", "train.on_divergence"),
)
"""How settings begin that have no part in what comes out: where data lie and work is done, when a
run saves and when it stops."""


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
    deterministic: bool
    seed: int

    def __post_init__(self) -> None:
        require("seed", 0 <= self.seed < 2**63, "in [0, 2^63)", self.seed)

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "Config":
        """The typed settings of one run. Error: UsageError for the first that is wrong."""
        typed: dict[str, Any] = {
            "data": build_named(DATA_CONFIGS, settings, "data", "a data set"),
            "optim": optim_config(settings),
        }
        return build(cls, {**settings, **typed}, "")

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

    def differences(self, other: "Config", free: tuple[str, ...] = WITHOUT_EFFECT) -> list[str]:
        """The settings in which `other` is another, such as "optim.lr 0.1 -> 0.2".

        free: how the names of those begin that may differ.
        """
        one, two = flat(self.to_dict()), flat(other.to_dict())
        return [
            f"{name} {one.get(name)} -> {two.get(name)}"
            for name in sorted({*one, *two})
            if one.get(name) != two.get(name) and not name.startswith(free)
        ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 0.1}} as {"optim.lr": 0.1}."""
    pairs: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        pairs |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return pairs


def optim_config(settings: Mapping[str, Any]) -> OptimConfig:
    """The optimiser among the settings of a run. Error: UsageError for the first that is wrong."""
    return build_named(OPTIM_CONFIGS, settings, "optim", "an optimiser")
