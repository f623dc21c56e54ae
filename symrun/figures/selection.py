"""Which runs a figure draws: those that were given, else the newest in a folder that fit, where a
finished run comes before any other. The folder is outputs/, or a sweep's that was given."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from symrun.config import WITHOUT_EFFECT, flat
from symrun.errors import UsageError, in_one_line
from symrun.runs.directory import (
    OUTPUTS,
    RunDirectory,
    folders_below,
    newest_first,
    runs_once,
)
from symrun.runs.info import RunInfo, Status
from symrun.runs.reading import parts_of, read_part, require_whole

_log = logging.getLogger(__name__)


def _by_default(folders: Sequence[Path]) -> list[RunDirectory]:
    """The whole runs in `folders` that have two records, or those in outputs/ that have any; the
    finished ones first, each newest first."""
    runs = [run for folder in folders or [OUTPUTS] for run in newest_first(folder)]
    if folders:
        below = runs_once([run for folder in folders for run in folders_below(folder)])
        whole = {run.path.resolve() for run in below if _is_whole(run)}
        runs = [run for run in runs_once(runs) if run.path.resolve() in whole]
        runs = [run for run in runs if _shows_motion(run)]
    return sorted(runs, key=lambda run: run.info().status is not Status.finished)


def _is_whole(run: RunDirectory) -> bool:
    """Whether run.json and all parts are undamaged; a warning says which is not."""
    try:
        run.info()
        for part in run.parts():
            require_whole(part)
    except UsageError as error:
        _log.warning("left out: %s", error)
        return False
    return True


def _shows_motion(run: RunDirectory) -> bool:
    """Whether it has two records."""
    first = [read_part(part, ["step"])["step"] for part in parts_of(run, "units")[:2]]
    return len(np.unique(np.concatenate(first))) > 1


def holds_runs(path: Path) -> bool:
    """Whether `path` is no run, but a folder of some, as of a sweep."""
    itself = RunDirectory(path)
    return not itself.run_json.exists() and next(folders_below(path), None) is not None


def _where(given: Sequence[RunDirectory], folders: Sequence[Path]) -> str:
    """Where the runs are that a figure chooses from, in words."""
    return "among those given" if given else f"in {named(folders or [OUTPUTS])}"


def named(folders: Sequence[Path]) -> str:
    """Folders as a message names them."""
    return ", ".join(map(in_one_line, folders))


class Selection(Protocol):
    def choose(
        self, figure: str, given: Sequence[RunDirectory], folders: Sequence[Path]
    ) -> list[RunDirectory]:
        """The runs that `figure` draws, in its order.

        given: by the user, in any order; if there are none, those in `folders` are the choice,
        or those in outputs/.

        Error: UsageError for runs that do not fit, are missing or left over.
        """
        ...


@dataclass(frozen=True)
class NoRuns:
    """For a figure that is drawn from equations alone."""

    def choose(
        self, figure: str, given: Sequence[RunDirectory], folders: Sequence[Path]
    ) -> list[RunDirectory]:
        if given or folders:
            raise UsageError(f"{figure} is drawn from equations and takes no runs")
        return []


@dataclass(frozen=True)
class AnyRuns:
    """Whatever runs are given, in their order; of folders all that fit, without thinned copies;
    without either the newest that is finished and fits.

    preset: what makes a run. fits: whether a run, by its run.json, can be drawn.
    """

    preset: str
    fits: Callable[[RunInfo], bool] = lambda _: True

    def choose(
        self, figure: str, given: Sequence[RunDirectory], folders: Sequence[Path]
    ) -> list[RunDirectory]:
        seen = set()
        for run in given:
            folder = run.path.resolve()
            if folder in seen:
                raise UsageError(f"{figure} takes each run once; {run.path} is given twice")
            seen.add(folder)
        if given:
            return list(given)
        runs = without_copies([run for run in _by_default(folders) if self.fits(run.info())])
        if not runs:
            remedy = f"`symrun train experiment={self.preset}` makes one"
            where = _where(given, folders)
            raise UsageError(f"{figure} needs a run; there is none {where}: {remedy}")
        return runs if folders else runs[:1]


@dataclass(frozen=True)
class Roles:
    """One run for each role.

    presets: for each role, the preset that makes such a run. fits: whether the run that this
    run.json describes can play the role; a run plays the first that fits.
    """

    presets: dict[str, str]
    fits: Callable[[RunInfo, str], bool]

    def choose(
        self, figure: str, given: Sequence[RunDirectory], folders: Sequence[Path]
    ) -> list[RunDirectory]:
        wanted = " and ".join(f"a run {need}" for need in self.presets)
        chosen: dict[str, RunDirectory] = {}
        for run in given or _by_default(folders):
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
                where = f"{need} {_where(given, folders)}"
                remedy = f"`symrun train experiment={preset}` makes one"
                raise UsageError(f"{figure} needs {wanted}; there is none {where}: {remedy}")
        return [chosen[need] for need in self.presets]


@dataclass(frozen=True)
class Family:
    """Runs that differ in nothing but `varied`; where two have equal settings, the newest. Those of
    loops of the user's own are left out, since nobody knows all of their settings.

    In folders that are given, the largest family; if nothing is given, the newest in outputs/ whose
    members also share their run.name.

    varied: the setting, or the group of settings, in which they may differ.
    fits: whether a run, by its run.json, can be drawn. least: how many it takes.
    preset: what makes such runs.
    """

    varied: str
    fits: Callable[[RunInfo], bool]
    least: int
    preset: str

    def choose(
        self, figure: str, given: Sequence[RunDirectory], folders: Sequence[Path]
    ) -> list[RunDirectory]:
        families = self._families(given or _by_default(folders), share_name=not (given or folders))
        if given:
            self._refuse_unlike(figure, given, families)
        if folders:
            families.sort(key=len, reverse=True)
        for family in families:
            if len(family) >= self.least:
                return list(family.values())
        where = _where(given, folders)
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


def runs_in(paths: Sequence[Path]) -> list[RunDirectory]:
    """The runs that `paths` are, and of those that are folders of runs all with two records, the
    finished ones first, without thinned copies.

    Error: UsageError for a path that is neither, or a folder without such a run.
    Example: runs_in([Path("outputs")])
    """
    runs = []
    for path in paths:
        found = (
            without_copies(_by_default([path])) if holds_runs(path) else [RunDirectory.open(path)]
        )
        if not found:
            raise UsageError(f"no run in {in_one_line(path)} has two records so far")
        runs += found
    return runs_once(runs)


def without_copies(runs: Sequence[RunDirectory]) -> list[RunDirectory]:
    """`runs` without the thinned copies of a run among them, which comes before them."""
    kept, seen = [], set()
    for run in runs:
        info = run.info()
        which = info.created, repr(info.config.settings)
        if info.thinned is None or which not in seen:
            kept.append(run)
        seen.add(which)
    return kept


_RECORDED = ("families", "dynamics", "matrices", "homogeneity")
_FREE = (*WITHOUT_EFFECT, "track.sums", *(f"track.{one}" for one in _RECORDED), "deterministic")
"""Settings whose names begin so may differ between runs of one family, whose groups are alike."""

_ALIKE = dict.fromkeys(("model", "layers", "groups"), "its network")
"""The parts of run.json that are equal in a family, and how a message calls each."""
