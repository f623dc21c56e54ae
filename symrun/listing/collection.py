"""Many runs as one table: a row for each run, symmetry, group and law, with every setting."""

import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from symrun.analysis import Agreement
from symrun.analysis.report import json_values
from symrun.errors import UsageError, in_one_line, refusal
from symrun.files import complete_or_absent
from symrun.listing.cached import Listed, listed
from symrun.listing.filters import shown
from symrun.listing.reading import summaries
from symrun.listing.summary import Summary
from symrun.runs.directory import RunDirectory, folders_below, runs_once

Values = Mapping[str, object]

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_SCORES = [(split, name) for split in ("train", "val") for name in ("loss", "top1", "top5")]
_OF_RUN: dict[str, type] = {
    **dict.fromkeys(("path", "status", "name", "model", "data", "created"), str),
    **dict.fromkeys(("step", "planned", "every"), int),
    "seconds": float,
    **{f"{split}_{name}": float for split, name in _SCORES},
    "unjudged": str,
}
"""The columns of a run that are no settings, and their types."""


def _type(hint: type) -> pa.DataType:
    """The type of a column for values of `hint`, which may allow None."""
    (kind,) = {*(typing.get_args(hint) or (hint,))} - {type(None)}
    return _TYPES[kind]


_LAWS = pa.schema(
    [("scope", pa.string())]
    + [(name, _type(hint)) for name, hint in typing.get_type_hints(Agreement).items()]
)
"""scope: "group" for the rows of a group, "symmetry" for those of all its groups together."""

_CONVERTED: dict[pa.DataType, Callable[[Any], object]] = {pa.string(): shown, pa.float64(): float}
"""How the values of a column of this type are converted to it."""

_ROWS = 2**16
"""Rows of a row group."""


@dataclass(frozen=True)
class Collected:
    """What a collection holds.

    runs: all that have a row. kept: those that were as when they were last read. under_way: those
    that go on, and lack numbers so far. unreadable: why nothing is known of others, by path.
    unjudged: why those that have ended lack numbers.
    """

    runs: int
    kept: int
    rows: int
    under_way: int
    unreadable: Mapping[str, str]
    unjudged: Mapping[str, str]


def collect(folders: Sequence[Path], out: Path) -> Collected:
    """Write all runs in `folders` and below to the parquet file `out`, which is complete or absent.

    A folder that is a run counts as that run, and a run in two folders is there once. Rows are in
    the order of the paths; those of a run are the lists of `judge`. A run that cannot be judged has
    one row, which says why. A setting that is named like another column is left out.
    Error: UsageError if there is no run or the file cannot be written.
    Example: collect([Path("outputs")], Path("outputs/collected.parquet"))
    """
    runs, unreadable = _listed(folders)
    if not runs and not unreadable:
        where = ", ".join(map(in_one_line, folders))
        raise UsageError(f"there is no run in {where}: `symrun train` makes one")
    told: list[tuple[Values, Values, pa.Table]] = [
        ({"path": path, "unjudged": reason}, {}, _nothing()) for path, reason in unreadable.items()
    ]
    read = list(summaries(runs))
    told += [(_of_run(one), one.settings, _laws(one)) for one in read]
    lacking = [one for one in read if one.unjudged is not None]
    unjudged = {str(one.path): str(one.unjudged) for one in lacking if one.has_ended}
    told.sort(key=lambda run: str(run[0]["path"]))
    columns, settings, laws = zip(*told, strict=True)
    try:
        rows = _write(_runs(columns), _settings(settings), laws, out)
    except OSError as error:  # it names the draft, which nobody knows
        raise UsageError(f"{in_one_line(out)} cannot be written: {refusal(error)}") from None
    kept = sum(one.is_known for one in runs)
    return Collected(len(told), kept, rows, len(lacking) - len(unjudged), unreadable, unjudged)


def _listed(folders: Sequence[Path]) -> tuple[list[Listed], dict[str, str]]:
    """The runs, and why others are unreadable, by path."""
    found: list[RunDirectory] = []
    for folder in folders:
        itself = RunDirectory(folder)
        found += [itself] if itself.run_json.exists() else folders_below(folder)
    return listed(runs_once(found))


def _of_run(one: Summary) -> Values:
    scores = {f"{split}_{name}": getattr(one, split).get(name) for split, name in _SCORES}
    return {name: getattr(one, name, None) for name in _OF_RUN} | scores


def _laws(one: Summary) -> pa.Table:
    """The numbers of `symrun check --json`, or one empty row."""
    rows = [
        {"scope": scope, **json_values(vars(row))}
        for scope, some in (("group", one.groups), ("symmetry", one.laws))
        for row in some
    ]
    return pa.Table.from_pylist(rows, _LAWS) if rows else _nothing()


def _nothing() -> pa.Table:
    return pa.Table.from_pylist([{}], _LAWS)


def _runs(runs: Sequence[Values]) -> pa.Table:
    """The columns `_OF_RUN`, a row a run."""
    return pa.table(
        {
            name: _array([run.get(name) for run in runs], _TYPES[kind])
            for name, kind in _OF_RUN.items()
        }
    )


def _settings(runs: Sequence[Values]) -> pa.Table:
    """Every setting of any run, a row a run; null where a run lacks it."""
    names = dict.fromkeys(name for run in runs for name in run)
    columns = {}
    for name in names:
        if name not in _OF_RUN and name not in _LAWS.names:
            values = [run.get(name) for run in runs]
            columns[name] = _array(values, _type_of(values))
    return pa.table(columns)


def _type_of(values: Sequence[object]) -> pa.DataType:
    """For one setting of all runs: text unless all values are numbers, or all true or false."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int, float}:
        return pa.float64()
    return _TYPES.get(kinds.pop(), pa.string()) if len(kinds) == 1 else pa.string()


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if kind in _CONVERTED:
        values = [None if value is None else _CONVERTED[kind](value) for value in values]
    return pa.array(values, kind)


def _write(runs: pa.Table, settings: pa.Table, laws: Sequence[pa.Table], out: Path) -> int:
    """How many rows were written. laws: those of each run, which stand beside its columns."""
    of_run = np.repeat(np.arange(len(laws)), [len(one) for one in laws])
    table = pa.concat_tables(laws)
    schema = pa.schema([*runs.schema, *_LAWS, *settings.schema])
    with (
        complete_or_absent(out) as draft,
        pq.ParquetWriter(draft, schema, compression="zstd") as file,
    ):
        for start in range(0, len(table), _ROWS):  # all settings of all rows would take memory
            place = pa.array(of_run[start : start + _ROWS])
            parts = (runs.take(place), table.slice(start, _ROWS), settings.take(place))
            columns = [column for part in parts for column in part.columns]
            file.write_table(pa.Table.from_arrays(columns, schema=schema))
    return len(table)
