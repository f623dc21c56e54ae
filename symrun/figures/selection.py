"""Which runs a figure draws: those that were given, else the newest in outputs/ that fit, where a
finished run comes before any other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from symrun.config import WITHOUT_EFFECT, flat
from symrun.errors import UsageError
from symrun.runs.directory import OUTPUTS, RunDirectory, newest_first
from symrun.runs.info import RunInfo, Status


def _by_default() -> list[RunDirectory]:
    """The runs in outputs/, the finished ones first, each newest first."""
    return sorted(newest_first(), key=lambda run: run.info().status is not Status.finished)


class Selection(Protocol):
    def choose(self, figure: str, given: Sequence[RunDirectory]) -> list[RunDirectory]:
        """The runs that `figure` draws, in its order.

        given: by the user, in any order; if there are none, those in outputs/ are the choice.

        Error: UsageError for runs that do not fit, are missing or left over.
        """
        ...


@dataclass(frozen=True)
class NoRuns:
    """For a figure that is drawn from equations alone."""

    def choose(self, figure: str, given: Sequence[RunDirectory]) -> list[RunDirectory]:
        if given:
            raise UsageError(f"{figure} is drawn from equations and takes no runs")
        return []


@dataclass(frozen=True)
class AnyRuns:
    """Whatever runs are given, in their order; without any the newest that is finished and fits.

    preset: what makes a run. fits: whether a run, by its run.json, can be drawn.
    """

    preset: str
    fits: Callable[[RunInfo], bool] = lambda _: True

    def choose(self, figure: str, given: Sequence[RunDirectory]) -> list[RunDirectory]:
        seen = set()
        for run in given:
            folder = run.path.resolve()
            if folder in seen:
                raise UsageError(f"{figure} takes each run once; {run.path} is given twice")
            seen.add(folder)
        runs = list(given) or [run for run in _by_default() if self.fits(run.info())][:1]
        if not runs:
            remedy = f"`symrun train experiment={self.preset}` makes one"
            raise UsageError(f"{figure} needs a run; there is none in {OUTPUTS}: {remedy}")
        return runs


@dataclass(frozen=True)
class Roles:
    """One run for each role.

    presets: for each role, the preset that makes such a run. fits: whether the run that this
    run.json describes can play the role; a run plays the first that fits.
    """

    presets: dict[str, str]
    fits: Callable[[RunInfo, str], bool]

    def choose(self, figure: str, given: Sequence[RunDirectory]) -> list[RunDirectory]:
        wanted = " and ".join(f"a run {need}" for need in self.presets)
        chosen: dict[str, RunDirectory] = {}
        for run in given or _by_default():
            info = run.info()
            role = next((role for role in self.presets if self.fits(info, role)), None)
            if given and role is None:
                raise UsageError(f"{figure} needs {wanted}; {run.path} does not fit")
            if given and role in chosen:
                raise UsageError(f"{figure} needs {wanted}; {run.path} is a second one {role}")
            if role is not None:
                chosen.setdefault(role, run)
        for need, preset in self.presets.items():
            if need not in chosen:
                where = "among those given" if given else f"in {OUTPUTS}"
                remedy = f"`symrun train experiment={preset}` makes one"
                raise UsageError(f"{figure} needs {wanted}; there is none {need} {where}: {remedy}")
        return [chosen[need] for need in self.presets]


@dataclass(frozen=True)
class Family:
    """Runs that differ in nothing but `varied`; where two have equal settings, the newest. Those of
    loops of the user's own are left out, since nobody knows all of their settings.

    If no runs are given, the newest family whose members also share their run.name.

    varied: the setting, or the group of settings, in which they may differ.
    fits: whether a run, by its run.json, can be drawn. least: how many it takes.
    preset: what makes such runs.
    """

    varied: str
    fits: Callable[[RunInfo], bool]
    least: int
    preset: str

    def choose(self, figure: str, given: Sequence[RunDirectory]) -> list[RunDirectory]:
        families = self._families(given or _by_default(), share_name=not given)
        if given:
            self._refuse_unlike(figure, given, families)
        for family in families:
            if len(family) >= self.least:
                return list(family.values())
        where = "among those given" if given else f"in {OUTPUTS}"
        count = f"{self.least} run{'s' if self.least > 1 else ''} or more"
        alike = f"that differ in {self.varied} alone" if self.least > 1 else "that fit"
        remedy = f"`{self.preset}` makes them"
        most = max(map(len, families), default=0)
        raise UsageError(f"{figure} needs {count} {alike}; {most} {where}: {remedy}")

    def _families(
        self, runs: Sequence[RunDirectory], share_name: bool
    ) -> list[dict[str, RunDirectory]]:
        """The runs that fit, as families; in each, the value of `varied` -> its first run."""
        families: list[tuple[RunInfo, dict[str, RunDirectory]]] = []
        for run in runs:
            info = run.info()
            if info.loop is not None or not self.fits(info):
                continue
            value = repr(flat({self.varied: info.config.settings[self.varied]}))
            for first, members in families:
                named_alike = first.config.run.name == info.config.run.name
                if (named_alike or not share_name) and self._difference(first, info) is None:
                    members.setdefault(value, run)
                    break
            else:
                families.append((info, {value: run}))
        return [members for _, members in families]

    def _refuse_unlike(
        self, figure: str, given: Sequence[RunDirectory], families: list[dict[str, RunDirectory]]
    ) -> None:
        """Error: UsageError unless every run that the user gave can be drawn."""
        first, drawn = given[0].info(), [run for family in families for run in family.values()]
        for run in given:
            if run not in drawn:
                raise UsageError(f"{figure} cannot draw {run.path}: it {self._misfit(run.info())}")
            if other := self._difference(first, run.info()):
                alike = f"{figure} needs runs that differ in {self.varied} alone"
                raise UsageError(f"{alike}; {run.path} differs in {other}")

    def _misfit(self, info: RunInfo) -> str:
        """Why a run that the user gave is in no family."""
        if info.loop is not None:
            unknown = (
                "was made in a loop of one's own, so nobody knows in what it differs from others"
            )
            return f"{unknown}: symrun plot symmetries draws it alone"
        return f"repeats the {self.varied} of another" if self.fits(info) else "lacks the symmetry"

    def _difference(self, one: RunInfo, other: RunInfo) -> str | None:
        """The first setting in which two runs differ although a family must agree in it."""
        settings, others = one.config.by_name, other.config.by_name
        for name in sorted(settings.keys() | others.keys()):
            free = name.split(".")[0] == self.varied or name.startswith(_FREE)
            if not free and settings.get(name) != others.get(name):
                return name
        if not one.has_images_of(other):
            return "the images of its data set"
        for part, what in _ALIKE.items():
            if getattr(one, part) != getattr(other, part):
                return what
        return None


_FREE = (*WITHOUT_EFFECT, "track.sums", "track.families", "track.dynamics", "deterministic")
"""Settings whose names begin so may differ between runs of one family, whose groups are alike."""

_ALIKE = dict.fromkeys(("model", "layers", "groups"), "its network")
"""The parts of run.json that are equal in a family, and how a message calls each."""
