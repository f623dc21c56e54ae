"""Tables written in the background, as parts that are complete or absent."""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from symrun.errors import RunError, refusal
from symrun.files import complete_or_absent
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.reading import seal

_log = logging.getLogger(__name__)

Record = Callable[[], pa.Table]

FLUSH_SECONDS = 10.0
"""A kill loses at most the records of this long."""

MOST_ROWS = 8_000_000
"""A part is written once it has more rows than this."""

_MOST_WAITING = 256
_MOST_WAITING_BYTES = 2**28
"""What records in the queue may take: 256 of a million units would take 7 GB."""
_LEAST_ROWS = 2**12
"""Row groups that end where a name changes have at least so many rows: each costs a kilobyte and
half a millisecond, and a reader of one name reads the others beside it."""
_ZSTD_LEVEL = 6
"""4 % smaller than level 1, for a millisecond more a record of full VGG16-BN."""


class RecordSink(Protocol):
    """Something that accepts records, such as a TableWriter."""

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None: ...


class TableWriter:
    """Appends records to the tables of a run from a thread of its own.

    A record is a function that makes its rows, so that waiting for the device happens in the
    thread as well. The first records are written at once; then a part holds those of up to
    FLUSH_SECONDS. Use it as a context manager: leaving it writes what is left.

    parts: how many parts each table has already; 0 if it is not named. patient: `put` raises
    nothing, so that several processes can end together once `failed` says so.

    Error: RunError from `put` or on leaving, if the disk refused.
    """

    def __init__(
        self, run: RunDirectory, parts: Mapping[str, int] | None = None, patient: bool = False
    ) -> None:
        self._run, self._patient = run, patient
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._waiting_bytes = 0
        self._room = threading.Condition()
        self._buffers: dict[str, list[pa.Table]] = {}
        self._parts = dict.fromkeys(TABLES, 0) | dict(parts or {})
        self._due = 0.0
        self._failure: Exception | None = None
        self._behind = False
        self._saved = threading.Event()
        self._saved.set()
        self._thread = threading.Thread(target=self._work, name="symrun-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:  # else the error that is under way tells more
            self.raise_failure()

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        """Hand over one record of `table`. If the disk is far behind, waits and warns, once, rather
        than lose a record.

        size_bytes: what the record takes while it waits.
        """
        if not self._patient:
            self.raise_failure()
        with self._room:
            if (self._queue.full() or not self._has_room(size_bytes)) and not self._behind:
                self._behind = True
                tables = self._run.path / "tables"
                remedy = "a larger track.every records less"
                _log.warning("%s: training waits for a slow disk; %s", tables, remedy)
            self._room.wait_for(lambda: self._has_room(size_bytes))
            self._waiting_bytes += size_bytes

        def append() -> None:
            self._buffers.setdefault(table, []).append(record())
            with self._room:
                self._waiting_bytes -= size_bytes
                self._room.notify_all()

        self._queue.put(append)

    def _has_room(self, size_bytes: int) -> bool:
        """Whether a record may wait: the only one always may, and any once the disk refused."""
        alone = self._waiting_bytes == 0 or self._failure is not None
        return alone or self._waiting_bytes + size_bytes <= _MOST_WAITING_BYTES

    def checkpoint(self, save: Callable[[dict[str, int]], None]) -> None:
        """Have `save` called in the thread, once every record handed over so far is on the disk,
        with the number of parts of each table. Waits for the one before: they take memory."""
        self._saved.wait()
        if not self._patient:
            self.raise_failure()
        self._saved.clear()

        def flush_and_save() -> None:
            self._flush()
            save(dict(self._parts))
            self._saved.set()

        self._queue.put(flush_and_save)

    @property
    def failed(self) -> bool:
        """Whether the disk refused something since the start."""
        return self._failure is not None

    def raise_failure(self) -> None:
        """Error: RunError, if the disk refused something since the start."""
        if isinstance(self._failure, RunError):
            raise RunError(str(self._failure))
        if self._failure is not None:
            tables = f"{self._run.path}/tables"
            raise RunError(f"{tables} cannot be written: {refusal(self._failure)}")

    def _work(self) -> None:
        while True:
            try:
                wait = max(0.0, self._due - time.monotonic()) if self._rows() else None
                item = self._queue.get(timeout=wait)
            except queue.Empty:
                item = self._flush
            try:
                if self._failure is None:
                    if item is not None:
                        item()
                    late = time.monotonic() >= self._due or self._rows() > MOST_ROWS
                    if late or item is None:
                        self._flush()
            except Exception as error:  # put raises it in the training thread
                with self._room:
                    self._failure = error
                    self._room.notify_all()
                self._buffers.clear()
            if self._failure is not None:
                self._saved.set()
            if item is None:
                return

    def _rows(self) -> int:
        return sum(table.num_rows for buffer in self._buffers.values() for table in buffer)

    def _flush(self) -> None:
        if not self._rows():
            return
        for name, records in self._buffers.items():
            write_records(self._run, name, self._parts[name], records)
            self._parts[name] += 1
        self._buffers.clear()
        self._due = time.monotonic() + FLUSH_SECONDS


class NoWriter:
    """Takes what a TableWriter takes, where another process writes it."""

    failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        pass

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        pass

    def checkpoint(self, save: Callable[[dict[str, int]], None]) -> None:
        pass

    def raise_failure(self) -> None:
        pass


def write_records(run: RunDirectory, table: str, number: int, records: list[pa.Table]) -> None:
    """Write part `number` of a table, which holds `records`. Error: as in `write_part`.

    Records have the same rows in the same order, save in `progress`. From rows ordered by step they
    become rows ordered by unit, then step, a row group at a time: a unit's curve then lies together
    where values beside each other are alike, which packs better and is read faster.
    """
    path = run.part(table, number)
    if len({record.num_rows for record in records}) != 1:
        write_part(path, pa.concat_tables(records))
        return
    spans = _row_groups(records[0], len(records))
    pieces = (
        _units_first([record.slice(start, end - start) for record in records])
        for start, end in spans
    )
    _write_pieces(path, records[0].schema, pieces)


def _units_first(records: list[pa.Table]) -> pa.Table:
    together = pa.concat_tables(records)
    if len(records) == 1:
        return together
    positions = np.arange(together.num_rows).reshape(len(records), -1)
    return together.take(pa.array(positions.T.reshape(-1)))


def write_part(path: Path, table: pa.Table) -> None:
    """Write a parquet part, in row groups that a reader can tell apart by the names in them.

    Error: OSError, and no part, if the disk refuses.
    """
    pieces = (table.slice(start, end - start) for start, end in _row_groups(table))
    _write_pieces(path, table.schema, pieces)


def _write_pieces(path: Path, schema: pa.Schema, pieces: Iterable[pa.Table]) -> None:
    """A part with a row group for each piece, which knows its own names alone: parquet writes all
    that a column knows into each."""
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    names = _names(schema)
    with complete_or_absent(path) as draft:
        with pq.ParquetWriter(
            draft,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=names,
            use_byte_stream_split=floats,
            write_statistics=[name for name in schema.names if name not in floats],
            write_page_checksum=True,  # for other readers: ours checks the seal
        ) as part:
            for piece in pieces:
                for name in names:
                    place = schema.get_field_index(name)
                    piece = piece.set_column(place, schema.field(name), _own_names(piece[name]))
                part.write_table(piece)
        seal(draft)


def _names(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_dictionary(field.type)]


def _row_groups(table: pa.Table, records: int = 1) -> Iterator[tuple[int, int]]:
    """Where `table` is cut: where a name changes, but not into pieces that would be tiny once the
    rows of `records` such tables lie together."""
    changes = np.zeros(max(table.num_rows - 1, 0), np.bool_)
    for name in _names(table.schema):
        code = table[name].combine_chunks().indices.to_numpy()
        changes |= code[1:] != code[:-1]
    ends = [0]
    for end in (*(np.flatnonzero(changes) + 1).tolist(), table.num_rows):
        if records * (end - ends[-1]) >= _LEAST_ROWS or end == table.num_rows:
            ends.append(end)
    return itertools.pairwise(ends)


def _own_names(column: pa.ChunkedArray) -> pa.DictionaryArray:
    """`column` without the names that none of its rows has."""
    array = column.combine_chunks()
    codes = array.indices.to_numpy()
    used = np.bincount(codes, minlength=len(array.dictionary)) > 0
    numbers = pa.array((np.cumsum(used, dtype=codes.dtype) - 1)[codes])
    return pa.DictionaryArray.from_arrays(numbers, array.dictionary.filter(pa.array(used)))
