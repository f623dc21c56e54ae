"""Tables written in the background, as parts that are complete or absent."""

import itertools
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from symrun.errors import RunError
from symrun.files import complete_or_absent
from symrun.runs.directory import TABLES, RunDirectory

Record = Callable[[], pa.Table]

FLUSH_SECONDS = 10.0
"""What a kill can cost at most: the records of this long."""

_NOTHING: tuple[str, Record] = ("", lambda: pa.table({}))
_MOST_WAITING = 256
_MOST_ROWS = 2_000_000
_LEAST_ROWS = 1024
"""In a row group, on average: each costs a kilobyte."""
_ZSTD_LEVEL = 6
"""4 % smaller than level 1, for a millisecond more a record of full VGG16-BN."""


class RecordSink(Protocol):
    """What takes records, such as a TableWriter."""

    def put(self, table: str, record: Record) -> None: ...


class TableWriter:
    """Appends records to the tables of a run from a thread of its own.

    A record is a function that makes its rows, so that waiting for the device happens in the
    thread as well. The first records are written at once; then a part holds those of up to
    FLUSH_SECONDS. Use it as a context manager: leaving it writes what is left.

    Error: RunError from `put` or on leaving, if the disk refused.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._queue: queue.Queue[tuple[str, Record] | None] = queue.Queue(_MOST_WAITING)
        self._buffers: dict[str, list[pa.Table]] = {}
        self._parts = dict.fromkeys(TABLES, 0)
        self._failure: Exception | None = None
        self._behind = False
        self._thread = threading.Thread(target=self._work, name="symrun-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:  # else the error that is under way tells more
            self._raise_failure()

    def put(self, table: str, record: Record) -> None:
        """Hand over one record of `table`. If the disk is far behind, waits and warns, once, rather
        than lose a record."""
        self._raise_failure()
        if self._queue.full() and not self._behind:
            self._behind = True
            tables = self._run.path / "tables"
            remedy = "a larger track.every records less"
            warnings.warn(f"{tables}: training waits for a slow disk; {remedy}", stacklevel=2)
        self._queue.put((table, record))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            reason = getattr(self._failure, "strerror", None) or self._failure
            raise RunError(f"{self._run.path}/tables cannot be written: {reason}")

    def _work(self) -> None:
        due = 0.0
        item: tuple[str, Record] | None
        while True:
            try:
                wait = max(0.0, due - time.monotonic()) if self._rows() else None
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                item = _NOTHING
            try:
                if self._failure is None:
                    self._append(item)
                    late = time.monotonic() >= due or self._rows() > _MOST_ROWS
                    if self._rows() and (late or item is None):
                        self._flush()
                        due = time.monotonic() + FLUSH_SECONDS
            except Exception as error:  # put raises it in the training thread
                self._failure = error
                self._buffers.clear()
            if item is None:
                return

    def _rows(self) -> int:
        return sum(table.num_rows for buffer in self._buffers.values() for table in buffer)

    def _append(self, item: tuple[str, Record] | None) -> None:
        if item is not None and item is not _NOTHING:
            name, record = item
            self._buffers.setdefault(name, []).append(record())

    def _flush(self) -> None:
        for name, records in self._buffers.items():
            write_records(self._run, name, self._parts[name], records)
            self._parts[name] += 1
        self._buffers.clear()


def write_records(run: RunDirectory, table: str, number: int, records: list[pa.Table]) -> None:
    """Write part `number` of a table, which holds `records`. Error: as in `write_part`."""
    write_part(run.table(table) / f"part-{number:06d}.parquet", _units_first(records))


def _units_first(records: list[pa.Table]) -> pa.Table:
    """Records of one table, from rows ordered by step to rows ordered by unit, then step.

    A unit's curve then lies together: values beside each other are alike, which packs better
    and is read faster. Records have the same rows in the same order, save in `progress`.
    """
    together = pa.concat_tables(records)
    lengths = {record.num_rows for record in records}
    if len(lengths) != 1:
        return together
    positions = np.arange(together.num_rows).reshape(len(records), -1)
    return together.take(pa.array(positions.T.reshape(-1)))


def write_part(path: Path, table: pa.Table) -> None:
    """Write a parquet part, in row groups that a reader can tell apart by the names in them.

    Error: OSError, and no part, if the disk refuses.
    """
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    names = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    with (
        complete_or_absent(path) as draft,
        pq.ParquetWriter(
            draft,
            table.schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=names,
            use_byte_stream_split=floats,
            write_statistics=[name for name in table.column_names if name not in floats],
        ) as part,
    ):
        for rows in _row_groups(table, names):
            part.write_table(rows)


def _row_groups(table: pa.Table, names: list[str]) -> Iterator[pa.Table]:
    """`table`, cut where a name changes; whole if it is so short that the pieces would be tiny."""
    changes = np.zeros(max(table.num_rows - 1, 0), np.bool_)
    for name in names:
        code = table[name].combine_chunks().indices.to_numpy()
        changes |= code[1:] != code[:-1]
    ends = [*(np.flatnonzero(changes) + 1), table.num_rows]
    if table.num_rows < _LEAST_ROWS * len(ends):
        ends = ends[-1:]
    for start, end in itertools.pairwise([0, *ends]):
        yield table.slice(start, end - start)
