"""A run under way, as far as its tables go: each look reads only the parts that are new."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.listing.words import local_time
from symrun.runs.directory import TABLES, RunDirectory, current
from symrun.runs.info import RunInfo, Status
from symrun.runs.reading import Rows, read_part
from symrun.runs.tables import LAWS

Array = NDArray[np.float64]
Curve = list[tuple[int, float]]
"""Step and value, by step."""

_LOOK_SECONDS = 0.3
"""How long one look reads; the first looks at a long run show a part of it each."""

_RATE_PARTS = 6
"""The parts of the table `units` from which the speed is measured."""

_SCORES = ("loss", "top1", "images_per_second")


@dataclass
class _Folder:
    """The parts of one table. changed: the folder's time of change when it was listed last."""

    path: Path
    changed: int = 0
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name -> size in bytes, time of writing in ns."""
    read: int = 0
    """Parts that were read, in the order of their names."""

    def list_parts(self, again: bool) -> bool:
        """Look which parts there are; whether those that were there before still are as they were.

        again: even if the folder's time of change is as it was.
        """
        try:
            changed = os.stat(self.path).st_mtime_ns
            if changed == self.changed and not again:
                return True
            with os.scandir(self.path) as entries:
                parts = sorted(
                    (one for one in entries if one.name.endswith(".parquet")),
                    key=lambda one: one.name,
                )
        except FileNotFoundError:
            return not self.sizes
        before, self.changed, self.sizes = self.sizes, changed, {}
        for one in parts:
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                status = one.stat()
                self.sizes[one.name] = (status.st_size, status.st_mtime_ns)
        return all(self.sizes.get(name) == state for name, state in before.items())

    def unread(self) -> Iterator[Path]:
        """The parts to read, each counted as read once it is handed out."""
        for name in list(self.sizes)[self.read :]:
            self.read += 1
            yield self.path / name


class LiveState:
    """What is known of a run, which another process may be writing.

    residuals: (symmetry, law) -> the largest relative error of any unit at each record, as
    `Comparison.residual` has it; infinite where a weight is not finite. train, val: column of the
    table `progress` -> its values by step.

    Error: UsageError from `look` if the run cannot be read, or is gone.
    Example:
        state = LiveState(RunDirectory.open("outputs/mine"))
        while state.look() and state.under_way:
            time.sleep(1)
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.info, self.status = current(run)
        self._info_changed = 0
        self._start_over()

    def _start_over(self) -> None:
        self._folders = {name: _Folder(self.run.table(name)) for name in TABLES}
        self.residuals: dict[tuple[str, str], Curve] = {}
        self.train: dict[str, Curve] = {}
        self.val: dict[str, Curve] = {}
        self.step = 0
        self._reached: list[tuple[float, int]] = []
        """When each part of `units` was written, in seconds since the epoch, and its last step."""

    @property
    def under_way(self) -> bool:
        return self.status == Status.running

    @property
    def whole(self) -> bool:
        """Whether all parts there are were read."""
        return all(one.read == len(one.sizes) for one in self._read_folders)

    @property
    def planned(self) -> int | None:
        """Updates; None in a loop of the user's own."""
        return self.info.planned_steps if self.info.loop is None else None

    @property
    def size_bytes(self) -> int:
        """Of the tables."""
        return sum(size for one in self._folders.values() for size, _ in one.sizes.values())

    @property
    def parts(self) -> int:
        return sum(len(one.sizes) for one in self._folders.values())

    @property
    def written(self) -> float | None:
        """When the last part was written, in seconds since the epoch."""
        times = [when for one in self._folders.values() for _, when in one.sizes.values()]
        return max(times) / 1e9 if times else None

    @property
    def _read_folders(self) -> list[_Folder]:
        return [self._folders["progress"], self._folders["units"]]

    def look(self) -> bool:
        """Read what is new, for a fraction of a second; whether there was anything."""
        before = (self.status, self.parts, self.written, self.step)
        self.run.refresh()
        self._look_at_info()
        read = self._look_at_tables()
        return read or before != (self.status, self.parts, self.written, self.step)

    def _look_at_info(self) -> None:
        """run.json is read again if it was replaced, and if the writer may be gone."""
        try:
            changed = os.stat(self.run.run_json).st_mtime_ns
        except OSError:
            changed = -1  # current says what is wrong
        if changed != self._info_changed or (self.under_way and not self.run.is_written()):
            self._info_changed = changed
            self.info, self.status = current(self.run)

    def _look_at_tables(self) -> bool:
        ended = not self.under_way  # a part of the same instant leaves no trace in a folder's time
        kept = [one.list_parts(ended) for one in self._folders.values()]
        if not all(kept):  # resumed from a checkpoint before them
            self._start_over()
            for one in self._folders.values():
                one.list_parts(again=True)
        until, read = time.monotonic() + _LOOK_SECONDS, False
        for folder, take in zip(
            self._read_folders, (self._take_scores, self._take_units), strict=True
        ):
            for part in folder.unread():
                try:
                    take(part)
                except (FileNotFoundError, UsageError):
                    if part.exists():
                        raise
                    # It was removed: the next look starts over
                read = True
                if time.monotonic() > until:
                    break
        self.step = max(self.step, 0 if self.under_way else self.info.last_step)
        return read

    def _take_scores(self, part: Path) -> None:
        for split, curves in (("train", self.train), ("val", self.val)):
            rows = read_part(part, ["step", *_SCORES], split=split)
            for name in _SCORES:
                _extend(curves.setdefault(name, []), rows["step"], rows[name])
            self.step = max([self.step, *rows["step"].tolist()])

    def _take_units(self, part: Path) -> None:
        last = 0
        for symmetry, laws in _predicting_laws(self.info).items():
            columns = ["step", "measured", "magnitude", *laws]
            rows = read_part(part, columns, symmetry=symmetry)
            if not rows["step"].size:
                continue
            steps, place = np.unique(rows["step"], return_inverse=True)
            for law in laws:
                worst = np.full(len(steps), -1.0)
                np.fmax.at(worst, place, _relative_error(rows, law))
                curve = self.residuals.setdefault((symmetry, law), [])
                _extend(curve, steps, np.where(worst < 0, np.nan, worst))
            last = int(steps[-1])
        self.step = max(self.step, last)
        self._reached.append((part.stat().st_mtime, last))

    def steps_per_second(self) -> float | None:
        """Over the last parts of the table `units`; None while there are too few."""
        since = self.started or 0.0
        reached = [one for one in self._reached[-_RATE_PARTS:] if one[0] >= since]
        if not self.under_way or not self.whole or len(reached) < 2:
            return None
        (first, least), (last, most) = reached[0], reached[-1]
        return (most - least) / (last - first) if last > first and most > least else None

    def seconds_left(self, now: float) -> float | None:
        """Until the last planned step at the present speed; None if nobody knows."""
        speed, planned = self.steps_per_second(), self.planned
        if speed is None or planned is None:
            return None
        since = now - self._reached[-1][0]
        return max((planned - self.step) / speed - since, 0.0)

    @property
    def started(self) -> float | None:
        """When the process that writes it started or went on, in seconds since the epoch."""
        at = self.info.resumed[-1].at if self.info.resumed else None
        started = local_time(at or self.info.created)
        return None if started is None else started.timestamp()


def _predicting_laws(info: RunInfo) -> dict[str, list[str]]:
    """For each symmetry the laws that predict any of its groups."""
    found: dict[str, list[str]] = {}
    for group in info.groups:
        silent, laws = info.silent(group), found.setdefault(group.symmetry.value, [])
        laws += [law for law in LAWS if law not in silent and law not in laws]
    return found


def _relative_error(rows: Rows, law: str) -> Array:
    """Of each row; infinite where the measurement is not finite, NaN where nothing is predicted."""
    measured, magnitude = (rows[name].astype(np.float64) for name in ("measured", "magnitude"))
    error = np.abs(measured - rows[law].astype(np.float64))
    relative = np.divide(error, magnitude, out=np.zeros_like(error), where=error != 0)
    found: Array = np.where(np.isfinite(measured), relative, np.inf)
    return found


def _extend(curve: Curve, steps: NDArray[np.int64], values: Array) -> None:
    known = ~np.isnan(values)
    curve += zip(steps[known].tolist(), values[known].tolist(), strict=True)
