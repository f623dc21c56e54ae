"""Reads the rows of a table, part by part, and only those that are asked for.

The writer lays a table out by name: a symmetry's group, a layer. The footer of a part says which
names each of its row groups holds, so that one group of units is read alone.

A part is a parquet file with a seal in it: a checksum of all its other bytes, between the last row
group and the footer, where readers of parquet do not look. A part is unsealed before anything else
reads it, so a damaged part gives an error and never wrong rows. Parquet's own checksums cover the
values alone, not the footer and the page headers, which say how to decode them.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory
from symrun.runs.run_json import require_schema

SCHEMA_KEY = b"symrun.schema"
"""The key under which the metadata of a part holds the version."""

_SEAL = struct.Struct("<8sI")
_SEALED = b"symcrc32"
_AT_ONCE = 2**20

_FOOTERS = 1024
"""How many footers stay in memory, up to 300 kB each: every group is read from the same parts."""

_UNKNOWN = ("", "\U0010ffff")

_NAN = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(np.full(1, np.nan))])[0]
"""Made without pa.scalar, which imports pandas first, half a second."""

Rows = dict[str, NDArray[Any]]
"""Column -> its values, NaN for null."""

_State = tuple[int, ...]
"""Modification time, size and inode of a file: a replaced part is read again, not from a cache."""


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_NUMBERS = ("floating-point numbers", pa.types.is_floating)
_KINDS: dict[str, tuple[str, Callable[[pa.DataType], bool]]] = {
    **dict.fromkeys(("step", "epoch", "unit", "index"), ("integers", pa.types.is_integer)),
    **dict.fromkeys(("symmetry", "group", "layer", "split"), ("names", _is_text)),
}
"""What a column must hold; _NUMBERS where it is not named here."""


@dataclass(frozen=True)
class _Footer:
    """names: of each row group, for each column of names the least and the greatest in it."""

    metadata: pq.FileMetaData
    names: list[dict[str, tuple[str, str]]]
    types: dict[str, pa.DataType]

    def require(self, columns: Sequence[str]) -> None:
        """Error: ValueError unless all of them are there, and hold what they must."""
        for column in columns:
            what, holds = _KINDS.get(column, _NUMBERS)
            if column not in self.types:
                raise ValueError(f"it has no column {column}")
            if not holds(self.types[column]):
                raise ValueError(f"column {column} holds {self.types[column]}, not {what}")

    def row_groups(self, equal: Mapping[str, str]) -> tuple[list[int], bool]:
        """Those that may hold rows with these names, and whether all of their rows have them."""
        chosen, alone = [], True
        for number, names in enumerate(self.names):
            ranges = [(names.get(column, _UNKNOWN), value) for column, value in equal.items()]
            if all(least <= value <= greatest for (least, greatest), value in ranges):
                chosen.append(number)
                alone &= all(span == (value, value) for span, value in ranges)
        return chosen, alone


def seal(part: Path) -> None:
    """Put into a whole parquet file the checksum that `read_parts` looks for.

    Assumes: nobody else has the file open. Error: OSError if the disk refuses.
    """
    with open(part, "r+b") as file:
        start = _tail_start(file)
        crc = _checksum(file, start, start)
        file.seek(start)
        tail = file.read()
        file.seek(start)
        file.write(_SEAL.pack(_SEALED, crc) + tail)


def read_parts(
    run: RunDirectory, name: str, columns: Sequence[str], **equal: str
) -> Iterator[Rows]:
    """The rows of a table in which each column named in `equal` has that value, part by part.

    Error: UsageError if the run has no complete part of it yet, or a part is damaged, of another
    version, or lacks a column.
    Example: read_parts(run, "units", ["step", "measured"], symmetry="scale", group="features.0")
    """
    for part in _existing_parts(run, name):
        yield read_part(part, columns, **equal)


def _existing_parts(run: RunDirectory, name: str) -> list[Path]:
    """As `parts_of`. Error: UsageError if there are none."""
    parts = parts_of(run, name)
    if not parts:
        where = f"{run.table(name)} holds no part-*.parquet"
        raise UsageError(f"{run.path} has no records yet: {where}")
    return parts


def parts_of(run: RunDirectory, name: str) -> list[Path]:
    """The parts of a table that are complete by now, in order."""
    return sorted(run.table(name).glob("part-*.parquet"))


def read_part(part: Path, columns: Sequence[str], **equal: str) -> Rows:
    """The rows of one part in which each column named in `equal` has that value.

    Error: UsageError as in `read_parts`.
    """
    with _damage_in_one_line(part):
        footer = _checked_footer(part)
        footer.require([*columns, *equal])
        chosen, alone = footer.row_groups(equal)
        needed = list(columns) if alone else [*columns, *equal]
        with pq.ParquetFile(part, metadata=footer.metadata) as file:
            # A row group is a few thousand rows: handing its columns to threads costs more
            table = file.read_row_groups(chosen, columns=needed, use_threads=False)
        if "epoch" in columns:  # null in a loop of the user's own, unlike other integers
            place = table.schema.get_field_index("epoch")
            table = table.set_column(place, "epoch", table["epoch"].cast(pa.float64()))
        rows = {column: _values(table[column]) for column in columns}
        if alone:
            return rows
        wanted = np.ones(table.num_rows, np.bool_)
        for column, value in equal.items():
            wanted &= _is(table[column], value)
        return {column: values[wanted] for column, values in rows.items()}


def require_whole(part: Path) -> None:
    """Error: UsageError unless every byte of the part is as it was when it was written."""
    with _damage_in_one_line(part):
        _unseal(part, _state_of(part))


def read_whole_part(part: Path, **equal: str) -> pa.Table:
    """All columns of the rows that `read_part` reads; what is null stays null.

    Error: UsageError as in `read_parts`.
    """
    with _damage_in_one_line(part):
        footer = _checked_footer(part)
        footer.require(list(equal))
        with pq.ParquetFile(part, metadata=footer.metadata) as file:
            table = file.read_row_groups(footer.row_groups(equal)[0])
        for column, value in equal.items():
            table = table.filter(pa.array(_is(table[column], value)))
        return table


def read_table(run: RunDirectory, name: str, **equal: str) -> pa.Table:
    """All columns of the rows that `read_parts` reads, in one table; what is null stays null.

    A run that went on in another precision has the wider one throughout.

    Error: UsageError as in `read_parts`.
    """
    rows = [read_whole_part(part, **equal) for part in _existing_parts(run, name)]
    return pa.concat_tables(rows, promote_options="permissive").unify_dictionaries()


@contextlib.contextmanager
def _damage_in_one_line(part: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, LookupError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{part.parent} cannot be read: {part.name}: {reason}") from None


def _checked_footer(part: Path) -> _Footer:
    """Error: ValueError if the part is damaged or of another version; OSError."""
    state = _state_of(part)
    _unseal(part, state)
    return _footer(part, state)


def _state_of(part: Path) -> _State:
    status = part.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    array = column.combine_chunks()
    if array.null_count:
        array = array.fill_null(_NAN.cast(array.type))
    # pyarrow's own to_numpy imports pandas first, a tenth of a second
    return np.from_dlpack(array)


def _is(column: pa.ChunkedArray, name: str) -> NDArray[np.bool_]:
    array = column.dictionary_encode().combine_chunks()
    names = array.dictionary.to_pylist()
    codes: NDArray[Any] = np.from_dlpack(array.indices)
    found: NDArray[np.bool_] = codes == (names.index(name) if name in names else -1)
    return found


@lru_cache(2**16)
def _unseal(part: Path, state: _State) -> None:
    """Error: ValueError unless every byte of the part is as it was when it was sealed."""
    with open(part, "rb") as file:
        start = _tail_start(file)
        before = max(start - _SEAL.size, 0)
        file.seek(before)
        found = file.read(_SEAL.size)
        if not found.startswith(_SEALED):
            raise ValueError("damaged, or not written by this version of symrun: it has no seal")
        if found != _SEAL.pack(_SEALED, _checksum(file, before, start)):
            raise ValueError("damaged: it does not have the checksum in its seal")


def _tail_start(file: IO[bytes]) -> int:
    """Where the footer of a parquet file begins; < 0 or anywhere in one that is damaged."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 8, 0))
    return end - 8 - int.from_bytes(file.read(4), "little")


def _checksum(file: IO[bytes], end: int, start: int) -> int:
    """Of all bytes before `end` and all from `start`, between which the seal lies."""
    crc = 0
    file.seek(0)
    for place in range(0, end, _AT_ONCE):
        crc = zlib.crc32(file.read(min(_AT_ONCE, end - place)), crc)
    file.seek(start)
    return zlib.crc32(file.read(), crc)


@lru_cache(_FOOTERS)
def _footer(part: Path, state: _State) -> _Footer:
    """Error: ValueError if another version wrote the part."""
    metadata = pq.read_metadata(part)
    version = (metadata.metadata or {}).get(SCHEMA_KEY, b"none")
    require_schema(int(version) if version.isdigit() else version.decode())
    types = {field.name: field.type for field in metadata.schema.to_arrow_schema()}
    places = [
        place
        for place, column in enumerate(metadata.schema)
        if column.physical_type == "BYTE_ARRAY"
    ]
    names = []
    for number in range(metadata.num_row_groups):
        row_group = metadata.row_group(number)
        spans = {}
        for chunk in map(row_group.column, places):
            if chunk.statistics is not None and chunk.statistics.has_min_max:
                spans[chunk.path_in_schema] = (chunk.statistics.min, chunk.statistics.max)
        names.append(spans)
    return _Footer(metadata, names, types)
