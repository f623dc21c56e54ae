"""Which runs a figure draws: those that were given, else the newest in outputs/ that fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from symrun.errors import UsageError
from symrun.runs.directory import OUTPUTS, RunDirectory

Runs = list[RunDirectory]
Info = dict[str, Any]


class Selection(Protocol):
    def choose(self, figure: str, given: Sequence[RunDirectory], found: Callable[[], Runs]) -> Runs:
        """The runs that `figure` draws, in its order.

        given: by the user, in any order. found: makes the list of those to choose from where none
        were given, newest first.

        Error: UsageError for runs that do not fit, are missing or left over.
        """
        ...


@dataclass(frozen=True)
class NoRuns:
    """For a figure that is drawn from equations alone."""

    def choose(self, figure: str, given: Sequence[RunDirectory], found: Callable[[], Runs]) -> Runs:
        if given:
            raise UsageError(f"{figure} is drawn from equations and takes no runs")
        return []


@dataclass(frozen=True)
class Roles:
    """One run for each role.

    needs: role -> the preset that makes such a run. role: of a run, by its run.json; None if it
    has none of them.
    """

    needs: dict[str, str]
    role: Callable[[Info], str | None]

    def choose(self, figure: str, given: Sequence[RunDirectory], found: Callable[[], Runs]) -> Runs:
        wanted = " and ".join(f"a run {need}" for need in self.needs)
        chosen: dict[str, RunDirectory] = {}
        for run in given or found():
            info = run.info()
            role = self.role(info) if "groups" in info else None
            if given and role is None:
                raise UsageError(f"{figure} needs {wanted}; {run.path} does not fit")
            if given and role in chosen:
                raise UsageError(f"{figure} needs {wanted}; {run.path} is a second one {role}")
            if role is not None:
                chosen.setdefault(role, run)
        for need, preset in self.needs.items():
            if need not in chosen:
                where = "among those given" if given else f"in {OUTPUTS}"
                remedy = f"`symrun train experiment={preset}` makes one"
                raise UsageError(f"{figure} needs {wanted}; there is none {need} {where}: {remedy}")
        return [chosen[need] for need in self.needs]
