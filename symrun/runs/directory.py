"""A run's folder: the one place that names its files."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from symrun.config import Config
from symrun.errors import Busy, UsageError, refusal
from symrun.files import complete_or_absent, is_locked, locked, sweep_drafts
from symrun.models.registry import MODELS
from symrun.places import below, is_url, url_of
from symrun.remote import copies
from symrun.remote.claim import is_renewed
from symrun.remote.store import Store
from symrun.runs.copied import CHECKPOINT, PART, local, step_of
from symrun.runs.copied import TABLES as TABLES
from symrun.runs.info import RunInfo, Status
from symrun.runs.run_json import MOST_BYTES, read_info

OUTPUTS = Path("outputs")
_log = logging.getLogger(__name__)

_FRESH_SECONDS = 5.0
"""How long a copy of a run in a store is not asked for again."""

_SHOWN = 3
"""Runs that are named in place of a path that is none."""


class RunDirectory:
    """The files of one run.

    url: where in a store they go as well while the run is written.
    Example:
        run = RunDirectory.open("outputs/mine")
        run.info().config.optim.lr
    """

    def __init__(self, path: Path, url: str | None = None) -> None:
        self.path, self.url = path, url
        self.run_json = path / "run.json"
        drawn = path if url_of(path) is None else OUTPUTS  # nobody looks for them in a cache
        self.figures = drawn / "figures"
        self.report = drawn / "report.html"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self._lock = path / ".lock"
        self._is_fresh_until, self._is_claimed = 0.0, False

    def table(self, name: str) -> Path:
        return self.path / "tables" / name

    def part(self, table: str, number: int) -> Path:
        return self.table(table) / f"part-{number:06d}.parquet"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step-{step}.pt"

    def parts(self) -> list[Path]:
        """All parts of all tables that are complete by now, in the order of their numbers."""
        found = []
        for folder in map(self.table, TABLES):
            with contextlib.suppress(FileNotFoundError):
                found += [(name, folder) for name in os.listdir(folder) if PART.fullmatch(name)]
        return [folder / name for name, folder in sorted(found)]

    @classmethod
    def create(
        cls, place: Path | str | None, name: str, setting: str = "run.dir"
    ) -> "RunDirectory":
        """Claim a new folder: `place`, or outputs/<name>/<date and time> where it is None. Of a URL
        it is the working copy.

        setting: what the user calls `place`.

        Error: UsageError if there is something in it (a run is never overwritten, never mixed) or
        it cannot be made. `mkdir` is the claim, so two runs started in the same second get two
        folders; of two that take over the same abandoned one, `locked` tells the second.
        """
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        attempt = 0
        path = None if place is None else working_copy(place)
        while True:
            attempt += 1
            suffix = "" if attempt == 1 else f"-{attempt}"
            run = cls(path if path is not None else OUTPUTS / name / (stamp + suffix))
            run.url = str(place) if is_url(place) else None
            try:
                run.path.parent.mkdir(parents=True, exist_ok=True)
                if _claim(run.path) or (path is not None and run._is_abandoned()):
                    for table in TABLES:
                        run.table(table).mkdir(parents=True, exist_ok=True)
                    return run
            except OSError as error:
                run.discard()
                made = f"{setting}={run.path} cannot be made"
                raise UsageError(f"{made}: {refusal(error)}") from None
            if path is not None:
                taken = f"{setting}={place} exists already"
                taken += f" here, in {path}" * (run.url is not None)
                remedy = f"a run is never overwritten: choose another {setting}"
                if run.run_json.exists():
                    remedy += f", or go on with it: symrun resume {shlex.quote(str(path))}"
                raise UsageError(f"{taken}; {remedy}")

    def _is_abandoned(self) -> bool:
        """Whether this is an empty run folder, left by a process killed before its run started."""
        skeleton = {self._lock, self.path / copies.NAME, *map(self.table, TABLES), self.table("")}
        drafts = f".{self.run_json.name}-"
        left = (path for path in self.path.rglob("*") if path not in skeleton)
        return self.table("").is_dir() and all(
            path.relative_to(self.path).parts[0].startswith(drafts) for path in left
        )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this run; a kill leaves it free.

        Error: Busy if another process holds it; UsageError if it cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._lock, wait=False))
            except BlockingIOError:
                raise Busy(f"{self.path} is being written by another process") from None
            except OSError as error:
                raise UsageError(f"{self.path} cannot be written: {refusal(error)}") from None
            yield

    def is_written(self) -> bool:
        """Whether another process writes to this run, or nobody can tell, as on a file system
        without locks. Of a copy: whether somebody renews the claim of the run in its store."""
        self.refresh()
        return is_locked(self._lock) if url_of(self.path) is None else self._is_claimed

    def refresh(self) -> None:
        """Bring a copy of a run in a store up to date, unless it was a moment ago.

        Error: UsageError as in `open`.
        """
        if (url := url_of(self.path)) and time.monotonic() > self._is_fresh_until:
            local(url, one=True)
            self._is_claimed = is_renewed(Store(url))
            self._is_fresh_until = time.monotonic() + _FRESH_SECONDS

    def truncate_to(self, parts: Mapping[str, int], step: int) -> None:
        """Remove what was written after the checkpoint of `step`.

        parts: how many of each table stay. Later checkpoints and unfinished files go too. Parts are
        removed from the last, so that readers find whole tables meanwhile. Assumes: locked.
        Error: UsageError, and nothing is removed, if a part is missing.
        """
        for table in TABLES:
            for number in range(parts[table]):
                if not self.part(table, number).exists():
                    missing = f"{self.part(table, number)} is missing"
                    raise UsageError(f"{missing}: without it the run cannot go on")
        for table in TABLES:
            for number in sorted(_numbers(self.table(table), PART), reverse=True):
                if number >= parts[table]:
                    self.part(table, number).unlink()
            sweep_drafts(self.table(table))
        for later in self.checkpointed():
            if later > step:
                self.checkpoint(later).unlink()
        sweep_drafts(self.checkpoints)
        sweep_drafts(self.path)

    def checkpointed(self) -> list[int]:
        """The steps at which this run has checkpoints, the last first. Of a copy: those in the
        store, fetched or not."""
        steps = set(_numbers(self.checkpoints, CHECKPOINT))
        if url_of(self.path) is not None:
            steps |= {step_of(name) for name in copies.Copies(self.path).listed} - {-1}
        return sorted(steps, reverse=True)

    @classmethod
    def open(cls, path: str | Path, checkpoints: bool = False) -> "RunDirectory":
        """The run in `path`, a folder or a URL. checkpoints: of a URL, fetch them as well.

        Error: UsageError if it holds none that this symrun can read, or a store fails.
        """
        run = cls(local(path, checkpoints, one=True))
        if not run.run_json.exists():
            raise UsageError(f"{path} is not a run folder{_instead_of(run.path)}")
        run.info()
        return run

    def discard(self) -> None:
        """Remove the folder of a run that never started, and of a working copy those above it;
        folders that hold anything stay."""
        with contextlib.suppress(OSError):
            self.run_json.unlink(missing_ok=True)
            self._lock.unlink(missing_ok=True)
            (self.path / copies.NAME).unlink(missing_ok=True)
        tables = [self.table(table) for table in TABLES]
        above = [] if self.url is None else [one for one in self.path.parents if one != OUTPUTS]
        for folder in (*tables, tables[0].parent, self.path, *above):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def info(self) -> RunInfo:
        """The current content of run.json, which a run under way rewrites.

        Error: UsageError if it is missing, unreadable, or something in it is not as it must be.
        """
        try:
            with open(self.run_json, "rb") as file:
                return read_info(file.read(MOST_BYTES + 1))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"{self.path} is not a run folder: it has no run.json") from None
        except OSError as error:
            raise UsageError(f"{self.run_json} cannot be read: {error.strerror}") from None
        except UsageError as error:
            raise UsageError(f"{self.run_json} {error}") from None

    def warn_unless_finished(self) -> None:
        """Say in one line, to whoever reads its results, that a run did not come to its end."""
        info, status = current(self)
        if info.status is Status.running:  # run.json holds the step at the start
            what = "was killed" if status is Status.killed else "is running"
            _log.warning("%s %s: this is what it has so far", self.path, what)
        elif info.status is not Status.finished:
            steps = f"at step {info.last_step:,}{info.of_planned_steps}"
            _log.warning("%s is %s %s", self.path, status, steps)

    def config(self, elsewhere: str = "resume it there") -> Config:
        """The recorded settings, as `symrun train` takes them.

        elsewhere: what to do in the loop of a run that symrun did not train, and cannot build.

        Error: UsageError for such a run; or, naming the file, if this symrun cannot run the
        settings: an unknown model, say.
        """
        info = self.info()
        if info.loop is not None:
            raise UsageError(f"{self.path} was made in a loop of one's own: {elsewhere}")
        try:
            return Config.from_mapping(info.config.settings)
        except UsageError as error:
            reason = f"has settings that this symrun cannot run: {error}"
            raise UsageError(f"{self.run_json} {reason}") from None

    def write_info(self, info: RunInfo) -> None:
        """Replace run.json atomically: a reader sees the old file or the new one, both whole.

        What others have added to it on its highest level stays.
        """
        content = info.to_json()
        with contextlib.suppress(OSError, ValueError, TypeError):
            before = json.loads(self.run_json.read_text(encoding="utf-8"))
            known = {field.name for field in dataclasses.fields(RunInfo)}
            content |= {key: before[key] for key in before if key not in known | {"schema"}}
        with complete_or_absent(self.run_json) as draft:
            draft.write_text(json.dumps(content, indent=2))


def sweep_folder(name: str) -> Path:
    """Where sweeps of runs of this name keep their locks and logs."""
    return OUTPUTS / name / ".sweep"


def working_copy(place: str | Path) -> Path:
    """Where a run that goes to `place` is written: there, or for a URL in outputs.

    Example: working_copy("s3://bucket/mine") == Path("outputs/s3/bucket/mine")
    """
    return below(OUTPUTS, place) if isinstance(place, str) and is_url(place) else Path(place)


def current(run: RunDirectory) -> tuple[RunInfo, Status]:
    """What run.json says now, and the status that the run really has.

    Error: UsageError as in `info`.
    """
    info = run.info()
    if info.status is not Status.running or run.is_written():
        return info, info.status
    info = run.info()  # the run may have ended between the two looks
    return info, Status.killed if info.status is Status.running else info.status


def folders_below(outputs: Path) -> Iterator[RunDirectory]:
    """Every folder in `outputs` and below that holds a run.json, readable or not, in no order.

    A folder whose name begins with a dot holds no whole run yet.
    """
    for run_json in outputs.glob("**/run.json"):
        if not any(part.startswith(".") for part in run_json.relative_to(outputs).parts):
            yield RunDirectory(run_json.parent)


def runs_once(runs: Iterable[RunDirectory]) -> list[RunDirectory]:
    """`runs` without those that are there already, as in a folder and in one above it."""
    found: dict[Path, RunDirectory] = {}
    for run in runs:
        found.setdefault(run.path.resolve(), run)
    return list(found.values())


def runs_below(outputs: Path) -> list[RunDirectory]:
    """The readable runs in `outputs` and below, the one started last first.

    A run comes before its thinned copies, which share its start time; a copy with more records
    comes before one with fewer.
    """
    ranks: dict[RunDirectory, tuple[str, int]] = {}
    for run in folders_below(outputs):
        with contextlib.suppress(UsageError):
            info = run.info()
            ranks[run] = (info.created, -info.thinned.every if info.thinned else 0)
    return sorted(ranks, key=ranks.__getitem__, reverse=True)


def newest_first(outputs: Path = OUTPUTS) -> list[RunDirectory]:
    """The runs of `runs_below` that have records."""
    return [run for run in runs_below(outputs) if any(run.table("units").glob("part-*"))]


def _claim(folder: Path) -> bool:
    """Make `folder`; False if another process, or an earlier run, made it already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _numbers(folder: Path, name: re.Pattern[str]) -> list[int]:
    """The numbers in the file names in `folder` that match `name`, which captures one."""
    names = (name.fullmatch(path.name) for path in folder.glob("*"))
    return [int(found[1]) for found in names if found]


def _instead_of(path: Path) -> str:
    """Why `path` is not the folder of a run, and what to type in its place."""
    owner = next(
        (run.path for run in map(RunDirectory, path.parents) if run.run_json.exists()), None
    )
    if owner is not None and path.exists():
        return f" but lies in one: type {owner}"
    if str(path) in MODELS:
        return f" but a model: type symrun check {path} --constraints"
    state = "it has no run.json" if os.path.lexists(path) else "there is nothing of that name"
    inside = runs_below(path) if path.is_dir() else []
    near = [str(run.path) for run in inside or runs_below(OUTPUTS)][:_SHOWN]
    where = "it holds the runs" if inside else "the newest runs are"
    return f": {state}; " + (f"{where} {', '.join(near)}" if near else "`symrun train` makes one")
