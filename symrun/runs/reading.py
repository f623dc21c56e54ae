"""The rows of a table, read part by part and without those that nobody asked for.

The writer lays a table out by name: a symmetry's group, a layer. The footer of a part says which
names each of its row groups holds, so that one group of units is read alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory

_FOOTERS = 1024
"""Kept in memory, up to 300 kB each: groups are read one by one, from the same parts."""

_UNKNOWN = ("", "\U0010ffff")

Rows = dict[str, NDArray[Any]]
"""Column -> its values, NaN for null."""


@dataclass(frozen=True)
class _Footer:
    """names: of each row group, for each column of names the least and the greatest in it."""

    metadata: pq.FileMetaData
    names: list[dict[str, tuple[str, str]]]

    def row_groups(self, equal: Mapping[str, str]) -> tuple[list[int], bool]:
        """Those that may hold rows with these names, and whether all of their rows have them."""
        chosen, alone = [], True
        for number, names in enumerate(self.names):
            ranges = [(names.get(column, _UNKNOWN), value) for column, value in equal.items()]
            if all(least <= value <= greatest for (least, greatest), value in ranges):
                chosen.append(number)
                alone &= all(span == (value, value) for span, value in ranges)
        return chosen, alone


def read_parts(
    run: RunDirectory, name: str, columns: Sequence[str], **equal: str
) -> Iterator[Rows]:
    """The rows of a table in which each column named in `equal` has that value, part by part.

    Error: UsageError if the run has no complete part of it yet, or a part is damaged.
    Example: read_parts(run, "units", ["step", "measured"], symmetry="scale", group="features.0")
    """
    folder = run.table(name)
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise UsageError(f"{run.path} has no records yet: {folder} holds no part-*.parquet")
    for part in parts:
        try:
            yield _rows(part, columns, equal)
        except (pa.ArrowException, OSError, LookupError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"{folder} cannot be read: {part.name}: {reason}") from None


def _rows(part: Path, columns: Sequence[str], equal: Mapping[str, str]) -> Rows:
    footer = _footer(part, part.stat().st_mtime_ns)
    chosen, alone = footer.row_groups(equal)
    needed = list(columns) if alone else [*columns, *equal]
    with pq.ParquetFile(part, metadata=footer.metadata) as file:
        # A row group is a few thousand rows: handing its columns to threads costs more
        table = file.read_row_groups(chosen, columns=needed, use_threads=False)
    rows = {column: _values(table[column]) for column in columns}
    if alone:
        return rows
    wanted = np.ones(table.num_rows, np.bool_)
    for column, value in equal.items():
        wanted &= _is(table[column], value)
    return {column: values[wanted] for column, values in rows.items()}


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    array = column.combine_chunks()
    if array.null_count:
        array = array.fill_null(np.nan)
    # pyarrow's own to_numpy imports pandas first, a tenth of a second
    return np.from_dlpack(array)


def _is(column: pa.ChunkedArray, name: str) -> NDArray[np.bool_]:
    array = column.dictionary_encode().combine_chunks()
    names = array.dictionary.to_pylist()
    codes: NDArray[Any] = np.from_dlpack(array.indices)
    found: NDArray[np.bool_] = codes == (names.index(name) if name in names else -1)
    return found


@lru_cache(_FOOTERS)
def _footer(part: Path, written: int) -> _Footer:
    """written: when; a part that was replaced is another one."""
    metadata = pq.read_metadata(part)
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
    return _Footer(metadata, names)
