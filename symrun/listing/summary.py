"""A run in numbers and words: what run.json says, and what its tables come to."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symrun.analysis import Agreement, judge
from symrun.errors import UsageError
from symrun.runs.directory import KILLED, RunDirectory, current
from symrun.runs.info import Status
from symrun.runs.reading import parts_of, read_part
from symrun.runs.tables import progress_curves

SCORES = ("loss", "top1", "top5", "images_per_second")
"""The columns of the table `progress` of which the last value is told."""


@dataclass(frozen=True)
class Summary:
    """What lists and comparisons say of a run; None is what nobody knows.

    planned: updates; None in a loop of the user's own. every: updates between records. settings:
    by name. train, val: the last row of the table `progress` of that split, `SCORES` and `step`.
    laws: the second list of `judge`; if it is empty, `unjudged` says why.
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
        shares = [row.unexplained for row in self.laws if row.law == "flow"]
        return max((share for share in shares if share is not None), default=None)

    @property
    def has_ended(self) -> bool:
        """Whether nobody writes to it any more."""
        return self.status != Status.running.value


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
    """`one` with what the tables tell; if they are damaged, or too short, `unjudged` says so."""
    told: dict[str, Any] = {}
    try:
        told |= {split: last_scores(run, split) for split in ("train", "val")}
        if one.status in (Status.running.value, KILLED):  # run.json holds the step at the start
            told["step"] = max(one.step, last_recorded(run))
        with _without_warnings():
            told["laws"] = tuple(judge(run)[1])
    except UsageError as error:
        told["unjudged"] = str(error)
    return dataclasses.replace(one, **told)


def last_scores(run: RunDirectory, split: str) -> dict[str, float]:
    """The last row of the table `progress` for a split, without what is unknown in it.

    Error: UsageError if the table is damaged.
    """
    if not parts_of(run, "progress"):
        return {}
    curves = progress_curves(run, split, SCORES)
    if not curves.steps.size:
        return {}
    values = {name: float(curves.values[name][-1, 0]) for name in SCORES}
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
