"""Settings: what Hydra composed from `configs/`, as frozen, validated dataclasses.

Defaults live in `configs/*.yaml`, and the constraints here. A setting that was added later has a
default here too, so that older runs stay readable. Every refusal names the setting, the constraint
and the value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from symrun.data.registry import DATA_SETS, DataConfig
from symrun.models.registry import MODELS, ModelConfig, entry_of
from symrun.optimizers import OPTIMIZERS, OptimConfig
from symrun.tasks import TaskConfig, task_config
from symrun.typed import Setting, build, build_named, plain, require, require_settings


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


class BatchNorm(Enum):
    """Whose mean and variance normalise where several processes share a batch.

    sync: the whole batch's, as in one process. local: those of each process's share.
    """

    sync = "sync"
    local = "local"


@dataclass(frozen=True)
class TrainConfig:
    """How long and how training goes on; the four before the last only make a step fast."""

    epochs: Annotated[int, Setting("passes over the training set", "in [1, 10000000]")]
    steps: Annotated[int | None, Setting("updates; wins over train.epochs", "in [1, 10000000]")]
    batch_size: Annotated[int, Setting("examples in an update, at most the training set", ">= 2")]
    on_divergence: Annotated[
        OnDivergence, Setting("what to do once the loss or a weight is not finite")
    ]
    checkpoint_every: Annotated[int, Setting("updates between checkpoints", ">= 1")]
    checkpoint_keep: Annotated[int, Setting("how many checkpoints stay", ">= 1")]
    channels_last: Annotated[bool, Setting("layout of images and convolutions")]
    data_on_device: Annotated[bool, Setting("GPU: the whole data set in its memory")]
    compile: Annotated[bool, Setting("the network through torch.compile")]
    cuda_graph: Annotated[bool, Setting("GPU: an update as one launch")]
    batch_norm: Annotated[
        BatchNorm,
        Setting("several processes: statistics of the whole batch, or of each one's share"),
    ] = BatchNorm.sync

    def __post_init__(self) -> None:
        require_settings(self, "train.")


class Sums(Enum):
    """What sums over units at every step: plain torch, or a Triton kernel on a GPU."""

    auto = "auto"
    torch = "torch"
    triton = "triton"


class Matrices(Enum):
    """What is recorded of matrices that are conserved."""

    diagonal = "diagonal"
    sample = "sample"
    full = "full"


@dataclass(frozen=True)
class TrackConfig:
    """What is recorded."""

    every: Annotated[
        int, Setting("updates between records; the laws advance at every update", ">= 1")
    ]
    parameters: Annotated[int, Setting("single parameters sampled in each layer", ">= 0")]
    sums: Annotated[
        Sums,
        Setting("what sums over units; auto: a Triton kernel on a GPU, if it agrees with torch"),
    ]
    families: Annotated[
        tuple[str, ...], Setting("your own symmetries, classes such as [module:Class]")
    ] = ()
    dynamics: Annotated[
        bool, Setting("record effective learning rate and angle of updates of units of scale too")
    ] = False
    matrices: Annotated[
        Matrices,
        Setting("of conserved matrices: the diagonal, or also as many other entries, or all"),
    ] = Matrices.diagonal
    homogeneity: Annotated[
        bool, Setting("record the norm of all that scales the outputs too, and its balance")
    ] = False

    def __post_init__(self) -> None:
        for name in self.families:
            named = re.fullmatch(r"[\w.]+:\w+", name) is not None
            require("track.families", named, "a list such as [module:Class]", repr(name))
        require_settings(self, "track.")


class Logger(Enum):
    """What shows how well the laws hold while a run goes on."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


@dataclass(frozen=True)
class RunConfig:
    """Where the run goes."""

    name: Annotated[str, Setting("name of the run, which goes to outputs/NAME/TIME")]
    dir: Annotated[
        Path | str | None,
        Setting("the run's folder or URL, which must not exist; null: outputs/NAME/TIME"),
    ]
    again: Annotated[bool, Setting("in a sweep, train members that are finished once more")]

    def __post_init__(self) -> None:
        is_plain = self.name == Path(self.name).name and self.name not in ("", "..")
        require("run.name", is_plain, "a name without slashes", repr(self.name))


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
    precision: Annotated[
        Precision, Setting("arithmetic of the network; auto: tf32 on a GPU, else float32")
    ]
    device: Annotated[Device, Setting("where to train; auto: a GPU if there is one")]
    deterministic: Annotated[
        bool, Setting("GPU: only algorithms that give the same bits again, which are slower")
    ]
    seed: Annotated[
        int, Setting("seed of initial weights, batches and augmentation", "in [0, 2^63)")
    ]
    logger: Annotated[Logger, Setting("shows how well the laws hold while the run goes on")] = (
        Logger.none
    )

    def __post_init__(self) -> None:
        require_settings(self, "")
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
        settings: dict[str, Any] = plain(self, whole=True)
        return settings

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
