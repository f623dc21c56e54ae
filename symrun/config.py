"""Settings: what Hydra composed from `configs/`, as frozen, validated dataclasses.

Defaults live in `configs/*.yaml`, and the constraints here. A setting that was added later has a
default here too, so that older runs stay readable. Every refusal names the setting, the constraint
and the value.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from symrun.data.registry import DATA_SETS, DataConfig
from symrun.models.registry import MODELS, ModelConfig, entry_of
from symrun.optimizers import OPTIMIZERS, OptimConfig
from symrun.tasks import TaskConfig, task_config
from symrun.typed import build, build_named, require


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

    sums: auto takes the kernel where it can run and agrees with torch. families: classes of the
    user's that name symmetries by hand. dynamics: whether the tables also hold the columns
    `effective_lr` and `angle` of units of scale.
    """

    every: int
    parameters: int
    sums: Sums
    families: tuple[str, ...] = ()
    dynamics: bool = False

    def __post_init__(self) -> None:
        for name in self.families:
            named = re.fullmatch(r"[\w.]+:\w+", name) is not None
            require("track.families", named, "a list such as [module:Class]", repr(name))
        require("track.every", self.every >= 1, ">= 1", self.every)
        require("track.parameters", self.parameters >= 0, ">= 0", self.parameters)


class Logger(Enum):
    """What shows how well the laws hold while a run goes on."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


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
    *("train.checkpoint_every", "train.checkpoint_keep", "train.on_divergence", "logger"),
)
"""Prefixes of settings that do not influence results: paths, the device, checkpoints, stopping,
loggers."""


@dataclass(frozen=True)
class Config:
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    optim: OptimConfig
    train: TrainConfig
    track: TrackConfig
    run: RunConfig
    precision: Precision
    device: Device
    deterministic: bool
    seed: int
    logger: Logger = Logger.none

    def __post_init__(self) -> None:
        require("seed", 0 <= self.seed < 2**63, "in [0, 2^63)", self.seed)
        self.model.require_side(DATA_SETS[self.data.name].image_size(self.data))

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "Config":
        """The typed settings of one run. Error: UsageError for the first that is wrong."""
        typed: dict[str, Any] = {
            "model": build_named(MODELS, settings, "model", "a model", entry_of),
            "data": data_config(settings),
            "task": task_config(settings),
            "optim": optim_config(settings),
        }
        run = settings.get("run")
        if isinstance(run, Mapping) and run.get("name") == typed["model"].name:
            typed["run"] = {**run, "name": re.sub("[/:]", "-", typed["model"].name)}
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


def data_config(settings: Mapping[str, Any]) -> DataConfig:
    """The data set among the settings of a run. Error: UsageError for the first that is wrong."""
    return build_named(DATA_SETS, settings, "data", "a data set")


def optim_config(settings: Mapping[str, Any]) -> OptimConfig:
    """The optimiser among the settings of a run. Error: UsageError for the first that is wrong."""
    return build_named(OPTIMIZERS, settings, "optim", "an optimiser")
