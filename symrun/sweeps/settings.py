"""The settings of each engine: what a sweep may use, and how much of it at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from symrun.typed import Setting, require, require_settings


@dataclass(frozen=True)
class SweepConfig:
    """What all engines have, and all of what one_by_one has."""

    name: str

    @property
    def elsewhere(self) -> bool:
        """Whether the members may run on a machine that has what this one has not."""
        return False

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
        Mapping[str, object] | None,
        Setting("other options of sbatch, such as {qos: high, nice: 10}"),
    ]

    @property
    def elsewhere(self) -> bool:
        return self.cluster is Cluster.slurm

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = f"< {self.minutes * 60} seconds, which sweep.minutes={self.minutes} are"
        require("sweep.notice", self.notice < self.minutes * 60, limit, self.notice)
        fits = self.elsewhere or (self.gpus or 0) <= 1
        require("sweep.gpus", fits, "<= 1 with sweep.cluster=local", self.gpus)


@dataclass(frozen=True)
class RayConfig(ReservedConfig):
    address: Annotated[
        str | None, Setting("a cluster of Ray, such as auto; null: Ray is started here")
    ]

    @property
    def elsewhere(self) -> bool:
        return self.address is not None
