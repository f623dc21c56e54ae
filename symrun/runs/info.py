"""What run.json says of a run, typed: it is checked once, here, and its readers can rely on it.

Nothing here depends on which models, data sets or losses this symrun has.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter

from symrun.config import Precision
from symrun.errors import UsageError
from symrun.laws import kinds_of_sgd
from symrun.optimizers import OptimConfig
from symrun.runs.network import GroupInfo, LayerInfo, ModelInfo
from symrun.runs.settings import MOST_STEPS, RecordedConfig
from symrun.symmetry import Symmetry
from symrun.typed import plain, require, require_lines, require_within

SCHEMA = 3
"""Version of run.json and of the tables."""


class Status(StrEnum):
    """Whether a run goes on, and if not, why.

    killed: run.json says that it is running, but nobody writes it any more.
    """

    running = "running"
    finished = "finished"
    interrupted = "interrupted"
    failed = "failed"
    diverged = "diverged"
    killed = "killed"


@dataclass(frozen=True)
class DatasetInfo:
    """The data set; 0 examples where a run does not say how many.

    image_size: pixels along a side; None for text, whose blocks have `length` characters. digest:
    of all examples. It is None if the settings alone decide them, and in runs from before it was
    recorded; no examples count as other ones then.
    """

    title: str
    synthetic: bool
    classes: int
    image_size: int | None = None
    train_images: int = 0
    val_images: int = 0
    channels: int = 3
    length: int | None = None
    digest: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        require_lines(self, "title", "digest")
        require_within(self, 1, 10**9, "classes", "image_size", "channels", "length")
        given = self.image_size is not None or self.length is not None
        require("image_size", given, "an integer where there is no length", "null")
        require_within(self, 0, 10**12, "train_images", "val_images")

    @property
    def contents(self) -> str:
        """ "10 classes, 28×28, grey", or "65 characters, 256 at a time"."""
        if self.image_size is None:
            return f"{self.classes} characters, {self.length} at a time"
        grey = ", grey" if self.channels == 1 else ""
        return f"{self.classes} classes, {self.image_size}×{self.image_size}{grey}"

    @property
    def examples(self) -> str:
        """What an example is called, in the plural."""
        return "blocks" if self.image_size is None else "images"

    @property
    def counted(self) -> str:
        """ "2,000 + 500 images of 10 classes, 32×32": for training and for validation."""
        return f"{self.train_images:,} + {self.val_images:,} {self.examples} of {self.contents}"

    def has_images_of(self, other: "DatasetInfo") -> bool:
        """Whether both have the same images, as far as they were recorded."""
        return self == other and (
            None in (self.digest, other.digest) or self.digest == other.digest
        )


@dataclass(frozen=True)
class LossInfo:
    """The loss. chance: of an output that tells no class from another, and in words."""

    title: str
    chance: float
    chance_label: str

    def __post_init__(self) -> None:
        require_lines(self, "title", "chance_label")
        require("chance", 0 <= self.chance < math.inf, "a number >= 0", self.chance)


@dataclass(frozen=True)
class DivergenceInfo:
    """Where a run stopped being finite.

    step: the update whose loss was not finite, or the record that shows such weights. loss:
    whether it was the loss. layers: those with weights that are not finite.
    """

    step: int
    loss: bool
    layers: tuple[str, ...]

    def __post_init__(self) -> None:
        require_within(self, 0, MOST_STEPS, "step")
        require_lines(self, "layers")

    def __str__(self) -> str:
        others = len(self.layers) - 1
        more = f" and {others} more layers" if others > 0 else ""
        weights = f"the weights of {self.layers[0]}{more}" if self.layers else ""
        what = " and ".join(filter(None, ["the loss" if self.loss else "", weights]))
        return f"{what} not finite (nan or inf) at step {self.step}"


@dataclass(frozen=True)
class HardwareInfo:
    processor: str

    def __post_init__(self) -> None:
        require_lines(self, "processor")


@dataclass(frozen=True)
class ResumptionInfo:
    """One time that a run went on after a stop: from which step, when, on what, with what code.

    changed: what was different from before, in words.
    """

    step: int = 0
    at: str | None = None
    device: str | None = None
    hardware: HardwareInfo | None = None
    revision: str | None = None
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_within(self, 0, MOST_STEPS, "step")
        require_lines(self, "at", "device", "revision", "changed", shown=False)


@dataclass(frozen=True)
class ThinningInfo:
    """A thinned copy has `records` of the `of` records of its run, one every `every` updates."""

    every: int
    records: int
    of: int

    def __post_init__(self) -> None:
        require_within(self, 1, MOST_STEPS, "every")
        require_within(self, 1, 10**9, "records", "of")


_OWN_LOOPS_LACK = ("steps_per_epoch", "dataset", "loss", "config.train", "config.seed")
"""What is known of symrun's own loop, and may be None of any other."""

_PREDICTIONS = [name for name, kind in kinds_of_sgd(momentum=False).items() if not kind.identity]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run is: its settings, what it ran on, its network, its groups, how it ended.

    unpredicted: for each law that makes no prediction in this run, the reason.
    source: digest of the code that computed it. seconds: of training and validation.
    loop: whose training loop it was, in words; None for symrun's own. columns: those of the table
    `units` that not every run has, of `runs.tables.OPTIONAL`. ranks: how many processes trained it
    together. Nobody may know the data set, the loss and the length of an epoch of a loop of the
    user's own.
    """

    status: Status
    created: str
    last_step: int
    steps_per_epoch: int | None = None
    config: RecordedConfig
    device: str
    precision: Precision
    dataset: DatasetInfo | None = None
    model: ModelInfo
    loss: LossInfo | None = None
    layers: tuple[LayerInfo, ...]
    groups: tuple[GroupInfo, ...]
    unpredicted: Mapping[str, str]
    versions: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    source: str | None = None
    threads: int | None = None
    hardware: HardwareInfo | None = None
    cudnn_benchmark: bool = False
    seconds: float | None = None
    diverged: DivergenceInfo | None = None
    resumed: tuple[ResumptionInfo, ...] = ()
    thinned: ThinningInfo | None = None
    loop: str | None = None
    columns: tuple[str, ...] = ()
    ranks: int = 1

    def __post_init__(self) -> None:
        require_lines(self, "created", "device", "source", "unpredicted", "loop", "columns")
        require_lines(self, "revision", "versions", shown=False)
        require_within(self, 0, MOST_STEPS, "last_step")
        require_within(self, 1, MOST_STEPS, "steps_per_epoch")
        require_within(self, 1, 4096, "threads")
        require_within(self, 1, 10**6, "ranks")
        seconds = 0 if self.seconds is None else self.seconds
        require("seconds", 0 <= seconds <= 1e10, "a number in [0, 1e10]", seconds)
        (self._require_own_loop if self.loop is None else self._require_baseline)()
        steps = self.planned_steps
        require("the number of steps", steps <= MOST_STEPS, f"<= {MOST_STEPS}", steps)

    @property
    def processes(self) -> str:
        """Such as "4 processes of 2 threads"; of a process alone "2 threads"."""
        threads = "" if self.threads is None else f"{self.threads} thread{'s' * (self.threads > 1)}"
        together = f"{self.ranks} processes" if self.ranks > 1 else ""
        return " of ".join(filter(None, (together, threads)))

    def _require_own_loop(self) -> None:
        """Error: UsageError unless all is there that symrun's own loop knows."""
        for name in _OWN_LOOPS_LACK:
            if attrgetter(name)(self) is None:
                raise UsageError(f"{name} is missing")
        optim = self.config.optim
        known = "an optimiser of symrun's where loop is null"
        require("config.optim.name", isinstance(optim, OptimConfig), known, repr(optim.name))

    def _require_baseline(self) -> None:
        """Error: UsageError if a law predicts a run whose tables lack what its motion starts from,
        which no settings tell either."""
        there = {"baseline", "steady"} <= {*self.columns}
        needed = "a list with baseline and steady where flow or discrete predicts"
        holds = there or not any(map(self.predicts, _PREDICTIONS))
        require("columns", holds, needed, list(self.columns))

    @property
    def planned_steps(self) -> int:
        """The number of updates that the settings ask for; those made in a loop without them."""
        if self.loop is not None:
            return self.last_step
        train, steps_per_epoch = self.config.train, self.steps_per_epoch
        assert train is not None and steps_per_epoch is not None  # of symrun's own loop
        return train.steps or train.epochs * steps_per_epoch

    @property
    def of_planned_steps(self) -> str:
        """ " of 39,100", to follow a number of updates; empty where nothing was planned."""
        return f" of {self.planned_steps:,}" if self.loop is None else ""

    @property
    def planned_optim(self) -> OptimConfig | None:
        """The optimiser if its settings tell the learning rate of every update, else None."""
        optim = self.config.optim
        return optim if self.loop is None and isinstance(optim, OptimConfig) else None

    @property
    def batch(self) -> str:
        """ "batch 256"; "own loop" where symrun made no batches."""
        train = self.config.train
        return "own loop" if self.loop or train is None else f"batch {train.batch_size}"

    def epochs(self, step: int) -> float | None:
        """How many epochs `step` updates are; None where nobody knows how long one is."""
        return None if self.steps_per_epoch is None else step / self.steps_per_epoch

    def silent(self, group: GroupInfo) -> dict[str, str]:
        """For each law that makes no prediction of the units of `group`, the reason."""
        reason = group.unpredicted
        others = {} if reason is None else dict.fromkeys(_PREDICTIONS, reason)
        return {**others, **self.unpredicted}

    def predicts(self, law: str) -> bool:
        """Whether `law` makes a prediction of any group; of a run without groups, of any at all."""
        if not self.groups:
            return law not in self.unpredicted
        return any(law not in self.silent(group) for group in self.groups)

    def has_images_of(self, other: "RunInfo") -> bool:
        """Whether both have the same images, as far as they were recorded."""
        one, two = self.dataset, other.dataset
        return one is not None and two is not None and one.has_images_of(two)

    @property
    def updates_between_records(self) -> int:
        """How far apart the records are now, after any thinning."""
        return (self.thinned or self.config.track).every

    @property
    def convolutions(self) -> list[LayerInfo]:
        """The convolutions, in the order of the forward pass."""
        return [layer for layer in self.layers if layer.is_convolution]

    def groups_of(self, symmetry: Symmetry | str) -> list[GroupInfo]:
        """The groups of this symmetry, in the order of the forward pass."""
        return [group for group in self.groups if group.symmetry is Symmetry(symmetry)]

    def spacing(self) -> list[str]:
        """How far apart the records are, in words; for a thinned run, also how far they were.

        Example: run.info().spacing() == ["a record every update"]
        """
        now, before = self.updates_between_records, self.config.track.every
        words = ["a record every update" if now == 1 else f"a record every {now:,} updates"]
        if now != before:
            words.append(f"thinned from every {'update' if before == 1 else f'{before:,}'}")
        return words

    def published(self) -> "RunInfo":
        """The same without the settings that say where things lie on a machine."""
        return dataclasses.replace(self, config=self.config.published())

    def to_json(self) -> dict[str, object]:
        """The content of run.json, which `read_info` reads back."""
        return {"schema": SCHEMA, **plain(self), "config": self.config.settings}
