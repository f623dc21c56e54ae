"""The same run with fewer records: a copy that every command reads, and that says what it is.

    thin(RunDirectory.open("outputs/mine"), Path("small"), every=400)
    thin_to_size(RunDirectory.open("outputs/mine"), Path("smaller"), most_bytes=14_000_000)

The first and the last record stay, and those whose step is a multiple of `every`, each value with
the bits that it had. `progress` stays whole; checkpoints and figures are not copied.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from symrun.errors import RunError, UsageError, refusal
from symrun.files import complete_or_absent
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import RunInfo, Status, ThinningInfo
from symrun.runs.reading import parts_of, read_part, read_whole_part
from symrun.runs.settings import MOST_STEPS
from symrun.runs.writer import MOST_ROWS, write_part, write_records
from symrun.typed import require

Steps = NDArray[np.int64]


def thin(run: RunDirectory, target: Path, every: int) -> RunDirectory:
    """A copy of `run` in the new folder `target`, with a record every `every` updates.

    Of a run under way it holds what is on the disk by now, and says that it was interrupted there.

    Error: UsageError, with nothing written, if `every` does not fit the run, `target` exists or
    lies in the run, or a table is damaged; RunError if the disk refuses.
    Example: thin(RunDirectory.open("outputs/mine"), Path("small"), every=400)
    """
    _require_new(target, run)
    original = _Original.of(run)
    between = original.info.updates_between_records
    require("--every", 1 <= every <= MOST_STEPS, f"in [1, {MOST_STEPS}]", every)
    what = f"a multiple of {between}, the updates between the run's records"
    require("--every", every % between == 0, what, every)
    with _draft_of(target) as draft:
        original.write(draft, every)
    return RunDirectory(target)


def thin_to_size(run: RunDirectory, target: Path, most_bytes: float) -> RunDirectory:
    """A copy of `run` in the new folder `target`, with as many evenly spaced records as fit into
    `most_bytes`, the sizes of all its files together.

    Error: as in `thin`; UsageError if not even the first and the last record fit.
    Example: thin_to_size(RunDirectory.open("outputs/mine"), Path("small"), 14e6)
    """
    require("--max-mb", 0 < most_bytes < math.inf, "a number > 0", most_bytes / 1e6)
    _require_new(target, run)
    original = _Original.of(run)
    with _draft_of(target) as draft:
        _largest_that_fits(original, draft.parent, most_bytes).rename(draft)
    return RunDirectory(target)


def size_bytes(folder: Path) -> int:
    """Of all files in `folder` and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


Parts = dict[Path, Steps]
"""Part of a table -> the steps of the records that have rows in it, rising; empty without rows."""


@dataclass(frozen=True)
class _Original:
    """A run as it lay on the disk at one moment; what it records later is not copied.

    parts: those of each table of records. steps: of the records that all of these tables hold.
    """

    info: RunInfo
    parts: dict[str, Parts]
    progress: list[Path]
    steps: Steps

    @classmethod
    def of(cls, run: RunDirectory) -> "_Original":
        """Error: UsageError if it has no records yet, or a part is damaged."""
        info = run.info()  # first: a run that is finished by now has written all of its parts
        parts = {name: {part: _steps(part) for part in parts_of(run, name)} for name in _RECORDS}
        steps = _common_steps(parts.values())
        if not steps.size:
            raise UsageError(f"{run.path} has no records yet: there is nothing to thin")
        return cls(info, parts, parts_of(run, "progress"), steps)

    @property
    def bytes(self) -> int:
        """The size of its tables."""
        paths = itertools.chain(*self.parts.values(), self.progress)
        return sum(path.stat().st_size for path in paths)

    def write(self, folder: Path, every: int) -> int:
        """Write the thinned run into `folder`, which does not exist yet, and return its bytes.

        Error: UsageError if a part is damaged; OSError.
        """
        copy, kept = RunDirectory(folder), self._kept(every)
        for name in TABLES:
            copy.table(name).mkdir(parents=True)
        for name in _RECORDS:
            for number, records in enumerate(_by_part(self._records(name, kept))):
                write_records(copy, name, number, records)
                records.clear()  # they would lie beside those of the next part
        for number, rows in enumerate(_by_part(map(read_whole_part, self.progress))):
            write_part(copy.part("progress", number), pa.concat_tables(rows))
        copy.write_info(self._description(every, kept))
        return size_bytes(folder)

    def _kept(self, every: int) -> Steps:
        stays = self.steps % every == 0
        stays[[0, -1]] = True
        kept: Steps = self.steps[stays]
        return kept

    def _records(self, name: str, kept: Steps) -> Iterator[pa.Table]:
        """The rows of each record in `kept`. A part without rows is copied as it is."""
        for part, steps in self.parts[name].items():
            if not steps.size:
                yield read_whole_part(part)
            elif np.isin(steps, kept).any():
                yield from _records_of(read_whole_part(part), kept)

    def _description(self, every: int, kept: Steps) -> RunInfo:
        """run.json of the copy, which is never running, since nobody goes on writing to it."""
        info = self.info
        if info.status is Status.running:
            last_step = int(self.steps[-1])
            info = dataclasses.replace(info, status=Status.interrupted, last_step=last_step)
        of = info.thinned.of if info.thinned else len(self.steps)
        return dataclasses.replace(info, thinned=ThinningInfo(every, len(kept), of))


_RECORDS = ("units", "parameters")


def _steps(part: Path) -> Steps:
    return np.unique(read_part(part, ["step"])["step"]).astype(np.int64)


def _common_steps(tables: Iterable[Parts]) -> Steps:
    """The steps that every table holds: a kill can leave a record in one table and not in another.

    A table whose parts have no rows does not count, since nothing was sampled for it.
    """
    none = np.empty(0, np.int64)
    recorded = [(parts, np.concatenate([none, *parts.values()])) for parts in tables]
    counted = [steps for parts, steps in recorded if steps.size or not parts]
    return functools.reduce(np.intersect1d, counted) if counted else none


def _records_of(part: pa.Table, kept: Steps) -> list[pa.Table]:
    """The records of a part whose steps are in `kept`, by step, each with its rows in order."""
    step = np.from_dlpack(part["step"].combine_chunks())
    places = np.flatnonzero(np.isin(step, kept))
    places = places[np.argsort(step[places], kind="stable")]
    rows = part.take(pa.array(places))
    _, firsts, lengths = np.unique(step[places], return_index=True, return_counts=True)
    return [rows.slice(*place) for place in zip(firsts.tolist(), lengths.tolist(), strict=True)]


def _by_part(pieces: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """`pieces` in turn, grouped into as many as a writer puts into one part.

    A run that went on in another precision has parts of two schemas, which stay apart.
    """
    together: list[pa.Table] = []
    rows = 0
    for piece in pieces:
        if together and (rows > MOST_ROWS or piece.schema != together[0].schema):
            yield together
            together, rows = [], 0
        together.append(piece)
        rows += piece.num_rows
    if together:
        yield together


def _largest_that_fits(original: _Original, scratch: Path, most_bytes: float) -> Path:
    """The copy with the most records that fits, in a folder in `scratch`.

    Each candidate is written and measured; a straight line through the two that enclose the limit
    says which to try next.

    Error: UsageError if the smallest does not fit; else as in `_Original.write`.
    """

    def write(place: int) -> tuple[Path, int]:
        folder = scratch / f"every-{spacings[place]}"
        return folder, original.write(folder, int(spacings[place]))

    spacings, counts = _candidates(original)
    fits, over, over_bytes = len(spacings) - 1, -1, original.bytes
    best, best_bytes = write(fits)
    if best_bytes > most_bytes:
        least = (
            f">= {math.ceil(best_bytes / 1e4) / 100:g}, which the first and the last record take"
        )
        require("--max-mb", False, least, f"{most_bytes / 1e6:g}")
    while fits - over > 1:
        more = counts[max(over, 0)] - counts[fits]
        bytes_per_record = max((over_bytes - best_bytes) / more, 1)
        most_records = counts[fits] + (most_bytes - best_bytes) / bytes_per_record
        guess = int(np.searchsorted(-counts, -most_records))
        place = min(max(guess, over + 1), fits - 1)
        folder, found_bytes = write(place)
        if found_bytes <= most_bytes:
            shutil.rmtree(best)
            fits, best, best_bytes = place, folder, found_bytes
        else:
            shutil.rmtree(folder)
            over, over_bytes = place, found_bytes
    return best


def _candidates(original: _Original) -> tuple[Steps, Steps]:
    """Spacings to try, rising, and the number of records that each keeps.

    They are multiples of the run's own. Of those that keep equally many records only the least is
    listed; the last keeps the first and the last record alone.
    """
    between = original.info.updates_between_records
    gaps = max(-(-int(original.steps[-1]) // between), 1)
    multiples = np.unique(-(-gaps // np.arange(1, gaps + 1)))
    return between * multiples, -(-gaps // multiples) + 1


def _require_new(target: Path, run: RunDirectory) -> None:
    """Error: UsageError if `target` exists, or lies in the run."""
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already; a run is never overwritten: name a new folder")
    if run.path.resolve() in target.resolve().parents:
        raise UsageError(f"{target} lies in the run itself: name a folder elsewhere")


@contextlib.contextmanager
def _draft_of(target: Path) -> Iterator[Path]:
    """As `complete_or_absent`, but a refusal of the disk is a RunError."""
    try:
        with complete_or_absent(target) as draft:
            yield draft
    except OSError as error:
        raise RunError(f"{target} cannot be written: {refusal(error)}") from None
