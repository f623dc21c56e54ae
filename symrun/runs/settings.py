"""The settings that a run recorded: typed where readers use them, and all of them by name.

Unlike `Config`, they ask for no model, data set or loss that this symrun knows.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symrun.config import WITHOUT_EFFECT, flat, optim_config
from symrun.data.registry import DATA_SETS
from symrun.models.registry import BN_EPS, MODELS, entry_of
from symrun.optimizers import OptimConfig
from symrun.tasks import task_config
from symrun.typed import Entry, build, plain, require, require_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OWN = "own"
"""The name of any optimiser that symrun did not make."""

MOST_STEPS = 10**7
"""The most updates a run may plan: readers compute the time of each."""


@dataclass(frozen=True)
class TrainSettings:
    """`steps`, where given, wins over `epochs`."""

    epochs: int
    steps: int | None
    batch_size: int

    def __post_init__(self) -> None:
        within = f"in [1, {MOST_STEPS}]"
        require("epochs", 1 <= self.epochs <= MOST_STEPS, within, self.epochs)
        steps = 1 if self.steps is None else self.steps
        require("steps", 1 <= steps <= MOST_STEPS, within, steps)
        require("batch_size", self.batch_size >= 1, ">= 1", self.batch_size)


@dataclass(frozen=True)
class TrackSettings:
    """`every`: updates between records. `parameters`: sampled in each layer."""

    every: int
    parameters: int

    def __post_init__(self) -> None:
        require("every", self.every >= 1, ">= 1", self.every)
        require("parameters", self.parameters >= 0, ">= 0", self.parameters)


@dataclass(frozen=True)
class ModelSettings:
    """eps: BatchNorm's; torch's own for a model without such a setting."""

    eps: float = BN_EPS

    def __post_init__(self) -> None:
        require("eps", 0 < self.eps < math.inf, "a number > 0", self.eps)


@dataclass(frozen=True)
class RunSettings:
    """name: None in published runs, which leave it out."""

    name: str | None = None


@dataclass(frozen=True)
class OwnOptim:
    """An optimiser of the user's own: its first group of parameters, as it was at the start.

    Nobody knows how its learning rate goes on from there.
    """

    name: str
    title: str
    lr: float
    weight_decay: float
    momentum: float

    def __post_init__(self) -> None:
        require_lines(self, "title")
        for setting in ("lr", "weight_decay", "momentum"):
            value = getattr(self, setting)
            require(setting, 0 <= value < math.inf, "a finite number >= 0", value)


_REGISTRIES: dict[str, Mapping[str, Entry[Any]]] = {"model": MODELS, "data": DATA_SETS}


def _defaults(kind: type["DataclassInstance"]) -> dict[str, object]:
    """The settings that have a default because older runs lack them."""
    fields = ((field.name, field.default) for field in dataclasses.fields(kind))
    return {name: default for name, default in fields if default is not dataclasses.MISSING}


@dataclass(frozen=True)
class RecordedConfig:
    """settings: everything that was recorded, as JSON values.

    train, seed: None where nobody knows them, in a loop of the user's own.
    """

    settings: Mapping[str, object]
    optim: OptimConfig | OwnOptim
    track: TrackSettings
    train: TrainSettings | None = None
    seed: int | None = None
    model: ModelSettings = ModelSettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        seed = 0 if self.seed is None else self.seed
        require("seed", 0 <= seed < 2**63, "in [0, 2^63)", seed)

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "RecordedConfig":
        """Error: UsageError for the first that is wrong."""
        require("config", isinstance(settings, Mapping), "an object with names", repr(settings))
        for name, value in flat(settings).items():
            small = type(value) is not int or abs(value) < 2**63
            require(f"config.{name}", small, "less than 2^63", value)
        optim = settings.get("optim")
        if isinstance(optim, Mapping) and optim.get("name") == OWN:
            typed = {"settings": settings, "optim": build(OwnOptim, optim, "optim.", recorded=True)}
            known = {name: value for name, value in settings.items() if value is not None}
            return build(cls, known | typed, "", recorded=True)
        settings = dict(settings)
        for group, registry in _REGISTRIES.items():
            if isinstance(values := settings.get(group), Mapping):
                name = str(values.get("name"))
                entry = registry.get(entry_of(name) if group == "model" else name)
                settings[group] = {**(plain(_defaults(entry.settings)) if entry else {}), **values}
        if not isinstance(settings.get("task"), Mapping):
            settings["task"] = dataclasses.asdict(task_config(settings))
        typed = {"settings": settings, "optim": optim_config(settings)}
        return build(cls, {**settings, **typed}, "", recorded=True)

    @property
    def by_name(self) -> dict[str, object]:
        """Every setting under its whole name, such as "optim.lr"."""
        return flat(self.settings)

    def published(self) -> "RecordedConfig":
        """The same without settings that do not influence the results, such as paths."""
        kept: dict[str, object] = {}
        for group, settings in self.settings.items():
            if isinstance(settings, Mapping):
                settings = {
                    key: value
                    for key, value in settings.items()
                    if not f"{group}.{key}".startswith(WITHOUT_EFFECT)
                }
            if settings != {}:
                kept[group] = settings
        return RecordedConfig.of(kept)
