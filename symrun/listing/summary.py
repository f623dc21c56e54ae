"""What lists and comparisons say of a run, from its run.json and its tables."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from symrun.analysis import Agreement, judge
from symrun.errors import UsageError, in_one_line
from symrun.runs.directory import RunDirectory, current
from symrun.runs.info import Status
from symrun.runs.reading import parts_of, read_part
from symrun.runs.tables import progress_curves

SCORES = ("loss", "top1", "top5", "images_per_second")
"""Columns of the table `progress` that a summary has: the last value, of the speed the median."""

_NAMED = 3
"""Runs that a message names."""


@dataclass(frozen=True)
class Summary:
    """A run in numbers and words; None is what nobody knows.

    planned: updates; None in a loop of the user's own. every: updates between records. settings:
    by name. train, val: the last row of the table `progress` of that split, `SCORES` and `step`.
    groups, laws: the lists of `judge`. unjudged: why numbers of the tables are missing.
    """

    path: Path
    status: str
    name: str
    model: str
    data: str
    created: str
    step: int
    planned: int | None
    every: int
    seconds: float | None
    settings: Mapping[str, object]
    train: Mapping[str, float] = field(default_factory=dict)
    val: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[Agreement, ...] = ()
    laws: tuple[Agreement, ...] = ()
    unjudged: str | None = None

    @property
    def top1(self) -> float | None:
        """Of the validation; of the training where there was none."""
        return self.val.get("top1", self.train.get("top1"))

    @property
    def loss(self) -> float | None:
        """As `top1`."""
        return self.val.get("loss", self.train.get("loss"))

    @property
    def unexplained(self) -> float | None:
        """1 - R^2 that the law `flow` leaves to the median unit, in the worst symmetry."""
        return self._worst[0]

    @property
    def unexplained_symmetry(self) -> str | None:
        """The symmetry of `unexplained`."""
        return self._worst[1]

    @property
    def _worst(self) -> tuple[float, str] | tuple[None, None]:
        flow = [row for row in self.laws if row.law == "flow"]
        shares = [(row.unexplained, row.symmetry) for row in flow if row.unexplained is not None]
        return max(shares, key=lambda pair: pair[0], default=(None, None))

    @property
    def has_ended(self) -> bool:
        """Whether nobody writes to it any more."""
        return self.status != Status.running


def described(run: RunDirectory) -> Summary:
    """What run.json says of a run, without its tables. Error: UsageError as in `current`."""
    info, status = current(run)
    settings = info.config.by_name
    data = "" if info.dataset is None else info.dataset.title
    return Summary(
        run.path,
        status,
        info.config.run.name or "",
        info.model.name,
        str(settings.get("data.name", data)),
        info.created,
        info.last_step,
        info.planned_steps if info.loop is None else None,
        info.updates_between_records,
        info.seconds,
        settings,
    )


def with_tables(run: RunDirectory, one: Summary) -> Summary:
    """`one` with what the tables tell; `unjudged` says which are damaged or too short."""
    readings: list[Callable[[], dict[str, Any]]] = [
        lambda: {"train": last_scores(run, "train")},
        lambda: {"val": last_scores(run, "val")},
        lambda: dict(zip(("groups", "laws"), map(tuple, judge(run)), strict=True)),
    ]
    if one.status in (Status.running, Status.killed):  # run.json holds the step at the start
        readings.append(lambda: {"step": max(one.step, last_recorded(run))})
    told: dict[str, Any] = {}
    refused: dict[str, None] = {}
    for read in readings:
        try:
            with _without_warnings():
                told |= read()
        except UsageError as error:
            refused[str(error)] = None
    return dataclasses.replace(one, **told, unjudged="; ".join(refused) or None)


def missing_numbers(summaries: Sequence[Summary]) -> str | None:
    """Which runs have numbers missing, and why the first has, in one line; None if none has."""
    lacking = [one for one in summaries if one.unjudged is not None]
    if not lacking:
        return None
    named = ", ".join(in_one_line(one.path) for one in lacking[:_NAMED])
    more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
    return f"numbers are missing of {named}{more}: {in_one_line(lacking[0].unjudged)}"


def last_scores(run: RunDirectory, split: str) -> dict[str, float]:
    """The last row of the table `progress` for a split, without what is unknown in it, and the
    median speed.

    Error: UsageError if the table is damaged.
    """
    if not parts_of(run, "progress"):
        return {}
    curves = progress_curves(run, split, SCORES)
    if not curves.steps.size:
        return {}
    values = {name: float(curves.values[name][-1, 0]) for name in SCORES}
    speeds = curves.values["images_per_second"][:, 0]
    speeds = speeds[~np.isnan(speeds)]
    if speeds.size:  # a single epoch may have shared the machine
        values["images_per_second"] = float(np.median(speeds))
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return {"step": int(curves.steps[-1]), **known}


def last_recorded(run: RunDirectory) -> int:
    """The last step that the tables hold; 0 without any. Error: UsageError if one is damaged."""
    last = [parts[-1] for name in ("units", "progress") if (parts := parts_of(run, name))]
    return max((int(read_part(part, ["step"])["step"].max()) for part in last), default=0)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """A diverged run is told by its status, once, and not by a warning for each table too."""
    log = logging.getLogger("symrun.analysis")
    before, log.level = log.level, logging.ERROR
    try:
        yield
    finally:
        log.level = before
