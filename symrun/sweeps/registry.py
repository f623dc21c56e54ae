"""The engines that can run a sweep by name; an entry holds all that is particular to one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from symrun.sweeps.settings import ProcessesConfig, RayConfig, SlurmConfig, SweepConfig
from symrun.typed import build_named

if TYPE_CHECKING:
    from symrun.sweeps.member import Ended, Member, Stop


@dataclass(frozen=True)
class Engine:
    """One engine.

    settings: the class of its settings. run(settings, members, stop): trains members, and yields
    each when it has ended; None if the process that was started trains them itself.
    """

    settings: type[SweepConfig]
    run: "Callable[[Any, Sequence[Member], Stop], Iterator[Ended]] | None"


def _run_of(module: str) -> "Callable[[Any, Sequence[Member], Stop], Iterator[Ended]]":
    """`run` of a module of this package, which is imported when it is called."""

    def run(*arguments: Any) -> "Iterator[Ended]":
        ended: Iterator[Ended] = import_module(f"symrun.sweeps.{module}").run(*arguments)
        return ended

    return run


SWEEPS: dict[str, Engine] = {
    "one_by_one": Engine(SweepConfig, None),
    "processes": Engine(ProcessesConfig, _run_of("processes")),
    "slurm": Engine(SlurmConfig, _run_of("slurm")),
    "ray": Engine(RayConfig, _run_of("ray_tasks")),
}


def sweep_config(settings: Mapping[str, Any]) -> SweepConfig:
    """The engine among the settings of a sweep. Error: UsageError for the first that is wrong."""
    group = settings.get("sweep")
    if isinstance(group, Mapping) and group.get("name") == "one_by_one":
        return SweepConfig("one_by_one")  # whatever a preset set for the engine that it chose
    return build_named(SWEEPS, settings, "sweep", "a sweep")
