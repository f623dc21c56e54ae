"""The engines that can run a sweep by name; an entry holds all that is particular to one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from symrun.typed import Setting, build_named, require, require_settings

if TYPE_CHECKING:
    from symrun.sweeps.member import Ended, Member, Stop


@dataclass(frozen=True)
class SweepConfig:
    """What all engines have, and all of what one_by_one has."""

    name: str

    def __post_init__(self) -> None:
        require_settings(self, "sweep.")


@dataclass(frozen=True)
class ProcessesConfig(SweepConfig):
    jobs: Annotated[
        int | None,
        Setting("members at a time; null: one a GPU, or else one for every 2 cores", ">= 1"),
    ]


@dataclass(frozen=True)
class ReservedConfig(SweepConfig):
    """What is reserved for each member where somebody else chooses the machine."""

    cpus: Annotated[int, Setting("cores of a member, and its threads", ">= 1")]
    gpus: Annotated[int | None, Setting("GPUs of a member; null: 1, or 0 with device=cpu", ">= 0")]


class Cluster(Enum):
    """Who runs submitit's jobs: Slurm, or submitit itself on this machine."""

    slurm = "slurm"
    local = "local"


@dataclass(frozen=True)
class SlurmConfig(ReservedConfig):
    cluster: Annotated[Cluster, Setting("local: processes of submitit here, to try it out")]
    jobs: Annotated[
        int | None,
        Setting("members at a time; null: as many as Slurm lets, local as processes", ">= 1"),
    ]
    partition: Annotated[str | None, Setting("partition of the cluster")]
    account: Annotated[str | None, Setting("account that pays")]
    minutes: Annotated[int, Setting("time limit of a job, which then goes on in the next", ">= 1")]
    notice: Annotated[int, Setting("seconds before the limit in which a member saves", ">= 1")]
    requeues: Annotated[int, Setting("how often a member goes on after its time limit", ">= 0")]
    memory: Annotated[float | None, Setting("memory of a job in GB", "> 0")]
    extra: Annotated[
        Mapping[str, object], Setting("other options of sbatch, such as {qos: high, nice: 10}")
    ]

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = f"< {self.minutes * 60} seconds, which sweep.minutes={self.minutes} are"
        require("sweep.notice", self.notice < self.minutes * 60, limit, self.notice)


@dataclass(frozen=True)
class RayConfig(ReservedConfig):
    address: Annotated[
        str | None, Setting("a cluster of Ray, such as auto; null: Ray is started here")
    ]


@dataclass(frozen=True)
class Engine:
    """One engine.

    settings: the class of its settings. run(settings, members, stop): trains members, and yields
    each when it has ended; None if the process that was started trains them itself.
    """

    settings: type[SweepConfig]
    run: "Callable[[Any, Sequence[Member], Stop], Iterator[Ended]] | None"


def _processes(*arguments: Any) -> "Iterator[Ended]":
    from symrun.sweeps.processes import run

    return run(*arguments)


def _slurm(*arguments: Any) -> "Iterator[Ended]":
    from symrun.sweeps.slurm import run

    return run(*arguments)


def _ray(*arguments: Any) -> "Iterator[Ended]":
    from symrun.sweeps.ray_tasks import run

    return run(*arguments)


SWEEPS: dict[str, Engine] = {
    "one_by_one": Engine(SweepConfig, None),
    "processes": Engine(ProcessesConfig, _processes),
    "slurm": Engine(SlurmConfig, _slurm),
    "ray": Engine(RayConfig, _ray),
}


def sweep_config(settings: Mapping[str, Any]) -> SweepConfig:
    """The engine among the settings of a sweep. Error: UsageError for the first that is wrong."""
    group = settings.get("sweep")
    if isinstance(group, Mapping) and group.get("name") == "one_by_one":
        return SweepConfig("one_by_one")  # whatever a preset set for the engine that it chose
    return build_named(SWEEPS, settings, "sweep", "a sweep")
