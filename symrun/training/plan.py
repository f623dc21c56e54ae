"""The decisions of a run: its settings, with precision, device and laws resolved."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from symrun import ranks
from symrun.config import Config, Device, Precision
from symrun.errors import UsageError
from symrun.laws import Law, ObservedUpdate
from symrun.loggers import require_installed
from symrun.optimizers import OPTIMIZERS, laws_of
from symrun.runs.tables import DYNAMICS, UPDATE
from symrun.tracking.select import require_possible
from symrun.training.device import select_device, set_determinism, set_precision
from symrun.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Plan:
    """config: with its precision settled. laws: those that predict the run, by column.
    unpredicted: the reason for each law that does not.

    Example: Plan.of(compose(["experiment=quickstart_bn"])).device
    """

    config: Config
    device: torch.device
    laws: Mapping[str, Law]
    unpredicted: Mapping[str, str]

    @classmethod
    def of(cls, config: Config, elsewhere: bool = False) -> "Plan":
        """elsewhere: another machine will train, which has the device that the settings name.

        Error: UsageError for settings that the machine does not allow.
        """
        there = elsewhere and config.device is Device.cuda
        device = torch.device("cuda") if there else select_device(config.device)
        precision = config.precision
        if precision is Precision.auto:
            precision = Precision.tf32 if device.type == "cuda" else Precision.float32
        if precision is Precision.tf32 and device.type != "cuda":
            raise UsageError("precision=tf32 needs a CUDA GPU; on the CPU use precision=float32")
        config = dataclasses.replace(config, precision=precision)
        _require_alone(config)
        _require_capturable(config, device)
        require_possible(config.track.sums, device)
        require_installed(config.logger)
        return cls(config, device, *laws_of(config.optim))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.float64 if self.config.precision is Precision.float64 else torch.float32

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that not every run records."""
        observed = any(isinstance(law, ObservedUpdate) for law in self.laws.values())
        dynamics = DYNAMICS if self.config.track.dynamics else ()
        return (*(UPDATE if observed else ()), *dynamics)

    def steps(self, steps_per_epoch: int) -> int:
        train = self.config.train
        return train.steps or train.epochs * steps_per_epoch

    def set_up_torch(self) -> None:
        """Set this process to the precision and determinism of the run, and the CPU's memory to
        what steps need."""
        set_precision(self.config.precision)
        set_determinism(self.config.deterministic)
        if self.device.type == "cpu":
            keep_freed_memory()
        elif self.device.index is not None:
            torch.cuda.set_device(self.device)


def _require_alone(config: Config) -> None:
    """Error: UsageError for a setting that several processes do not have together."""
    if ranks.count() == 1:
        return
    for setting, given in (
        ("train.cuda_graph=true", config.train.cuda_graph),
        ("train.compile=true", config.train.compile),
        ("task.class_weights", getattr(config.task, "class_weights", None) is not None),
    ):
        if given:
            raise UsageError(f"{setting} needs a single process, got {ranks.count()}: leave it out")


def _require_capturable(config: Config, device: torch.device) -> None:
    """Error: UsageError if train.cuda_graph is asked for where no graph can be captured."""
    if not config.train.cuda_graph:
        return
    if device.type != "cuda":
        raise UsageError("train.cuda_graph=true needs a CUDA GPU; leave it out on the CPU")
    if not OPTIMIZERS[config.optim.name].capturable:
        can = ", ".join(name for name, entry in OPTIMIZERS.items() if entry.capturable)
        raise UsageError(f"train.cuda_graph=true needs optim={can}, got {config.optim.name}")
    if config.precision is Precision.float64:
        raise UsageError("train.cuda_graph=true needs float32 weights, got precision=float64")
