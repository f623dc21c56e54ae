"""Many runs: which they are, and a row for each."""

import csv
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symrun.analysis.report import aligned, scientific
from symrun.errors import in_one_line
from symrun.listing.cached import Listed, listed
from symrun.listing.filters import KEYS, TABLE_KEYS, Condition, last_part, shown, value_of
from symrun.listing.reading import summaries
from symrun.listing.summary import Summary
from symrun.listing.words import decimal, local_time, of_planned, share
from symrun.places import as_typed
from symrun.runs.differences import differing_settings
from symrun.runs.directory import folders_below

_WIDEST = 24
"""Characters of a setting's value that a table shows."""

_ALIKE = ("model", "data")
"""Columns that are left out where all runs have the same."""

_CONSTANT = 20
"""Added to the rank of a column in which all runs have the same."""

_TOLD = ("model.name", "data.name")
"""Settings that have a column of their own anyway."""

_HEADS = ("run", "status", "model", "data", "steps", "top-1", "loss")


def found_below(folder: Path) -> tuple[list[Listed], list[str]]:
    """The runs in `folder` and below, the one started last first, and why others are unreadable.

    A run comes before its thinned copies, as in `runs_below`.
    """
    runs, refused = listed(folders_below(folder))
    runs.sort(key=lambda one: str(one.described.path))
    runs.sort(key=lambda one: (_moment(one.described), -one.described.every), reverse=True)
    return runs, list(refused.values())


def _moment(one: Summary) -> float:
    """When the run was started, in seconds since the epoch; -inf if nobody knows."""
    at = local_time(one.created)
    return -math.inf if at is None else at.timestamp()


def chosen(runs: Sequence[Listed], conditions: Sequence[Condition]) -> list[Summary]:
    """Those of `runs` of which all conditions hold; the tables of others are not read if run.json
    tells as much. Assumes: whole keys, as `whole_key` gives.
    """
    quick = [one for one in conditions if one.key not in TABLE_KEYS]
    slow = [one for one in conditions if one.key in TABLE_KEYS]
    left = [run for run in runs if _hold(quick, run.described)]
    return [one for one in summaries(left) if _hold(slow, one)]


def _hold(conditions: Sequence[Condition], one: Summary) -> bool:
    return all(condition.holds(value_of(one, condition.key)) for condition in conditions)


def by_key(summaries: Sequence[Summary], key: str) -> list[Summary]:
    """The runs from the least `key` to the greatest, "-key" the other way; unknown ones last.

    Assumes: a whole key, as `whole_key` gives.
    """
    name = key.removeprefix("-")
    known = [one for one in summaries if value_of(one, name) is not None]
    numbers = name == "created" or all(
        isinstance(value_of(one, name), int | float) for one in known
    )

    def rank(one: Summary) -> Any:
        value = _moment(one) if name == "created" else value_of(one, name)
        return value if numbers else shown(value)

    unknown = [one for one in summaries if value_of(one, name) is None]
    return sorted(known, key=rank, reverse=key.startswith("-")) + unknown


_FIELDS = (
    *("path", "status", "model", "data", "name", "created", "step", "planned", "seconds"),
    *("loss", "top1", "unexplained", "unexplained_symmetry", "unjudged"),
)


def columns_of(summaries: Sequence[Summary], keys: Sequence[str] = ()) -> list[str]:
    """All that a filter knows, then the settings that differ, and those of `keys`."""
    return list(dict.fromkeys((*_FIELDS, *keys, *_differing(summaries))))


def as_rows(summaries: Sequence[Summary], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each run. names: of its columns, as in `columns_of`."""
    return [
        {name: getattr(one, name) if name in _FIELDS else one.settings.get(name) for name in names}
        | {"path": as_typed(str(one.path))}
        for one in summaries
    ]


def as_csv(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """The rows under their names; what is unknown is empty, lists are as one types them."""
    lines = [names, *([row[name] for name in names] for row in rows)]
    return "\n".join(map(_csv_line, lines))


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")  # quotes either sign within a value
    table.writerow([shown(one) if isinstance(one, list | bool) else one for one in values])
    return text.getvalue().removesuffix("\r\n")


@dataclass(frozen=True)
class _Column:
    """rank: what does not fit is left out from the highest rank down."""

    head: str
    cells: list[str]
    rank: float

    @property
    def width(self) -> int:
        return max(len(self.head), *map(len, self.cells))


def as_table(summaries: Sequence[Summary], width: int | None = None) -> str:
    """A line for each run, in at most `width` characters unless paths alone take more.

    What tells least is left out first: columns in which all runs have the same, then loss, data,
    model and steps, then settings, of which those with few values go first. A line says what is.
    """
    columns = _columns(summaries)
    shown_columns = columns
    while width is not None and _width(shown_columns) > width and len(shown_columns) > 1:
        last = max(shown_columns, key=lambda column: column.rank)
        shown_columns = [column for column in shown_columns if column is not last]
    lines = [[column.head for column in shown_columns]]
    lines += map(list, zip(*(column.cells for column in shown_columns), strict=True))
    missing = [column.head for column in columns if column not in shown_columns]
    return aligned(lines) + (f"\n\n{_left_out(missing, width)}" if missing else "")


def _left_out(names: list[str], width: int | None) -> str:
    line = f"no room for {', '.join(names)}"
    remedy = ": --csv has all"
    most = (width or len(line) + len(remedy)) - len(remedy)
    return (line if len(line) <= most else line[: most - 3] + "...") + remedy


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _columns(summaries: Sequence[Summary]) -> list[_Column]:
    """Those that tell something: no model that all runs share, no loss where all have a top-1."""

    def column(head: str, rank: float, cell: Callable[[Summary], str]) -> _Column:
        cells = [cell(one) for one in summaries]
        return _Column(head, cells, rank if rank == 0 or len({*cells}) > 1 else rank + _CONSTANT)

    scored = any(one.top1 is not None for one in summaries)
    columns = [
        column("run", 0, lambda one: in_one_line(one.path)),
        column("status", 3, lambda one: one.status),
        column("model", 7, lambda one: one.model),
        column("data", 8, lambda one: one.data),
        *_settings(summaries),
        column("steps", 6, lambda one: of_planned(one.step, one.planned)),
        column("top-1", 2 if scored else 10, lambda one: share(one.top1)),
        column("loss", 9 if scored else 2, lambda one: decimal(one.loss)),
        column("1 - R^2", 1, _unexplained),
    ]
    return [one for one in columns if one.head not in _ALIKE or len({*one.cells}) > 1]


def _unexplained(one: Summary) -> str:
    """ "1.0e+00 translation" """
    return " ".join([scientific(one.unexplained), *filter(None, [one.unexplained_symmetry])])


def _settings(summaries: Sequence[Summary]) -> Iterator[_Column]:
    """Under the last part of their names, unless that is the name of something else too."""
    names = _differing(summaries)
    last = Counter(map(last_part, {name for one in summaries for name in one.settings}))
    for name in names:
        cells = [shown(value_of(one, name)) for one in summaries]
        head = last_part(name)
        few = 1 / len({*cells})
        yield _Column(
            name if last[head] > 1 or head in (*_HEADS, *KEYS) else head,
            [cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 3]}..." for cell in cells],
            4 + few,
        )


def _differing(summaries: Sequence[Summary]) -> list[str]:
    names = differing_settings([one.settings for one in summaries])
    return [name for name in names if name not in _TOLD]
