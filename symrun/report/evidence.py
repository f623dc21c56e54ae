"""The results of a run without its tables, small enough to be published."""

import contextlib
import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symrun.analysis import Comparison, agreement, comparisons
from symrun.analysis.report import json_values
from symrun.errors import UsageError
from symrun.files import complete_or_absent
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo, read_info
from symrun.runs.tables import LAWS, progress_curves

_SETUP, _CHECK, _SUMMARY, _PROGRESS = "setup.json", "check.json", "summary.csv", "progress.csv"


@dataclass(frozen=True)
class Summary:
    """How well one law predicts one symmetry of a run, over all the units that moved.

    explained: the median. explained_by_99: the law explains at least this share for 99 in 100
    units. worst_group: the least of the groups' medians. residual: the largest. motion: the largest
    of any unit, relative to its magnitude. None if the law makes no prediction; the three shares
    are also None if no unit moved.
    """

    symmetry: str
    law: str
    units: int
    moved: int
    residual: float | None
    motion: float
    explained: float | None
    explained_by_99: float | None
    worst_group: float | None


@dataclass(frozen=True)
class Evidence:
    """The results of one run.

    setup: its run.json without paths. check: the rows of `symrun check --json`. summary: a row for
    each symmetry and law. progress: the rows of that table.
    """

    name: str
    setup: RunInfo
    check: list[dict[str, Any]]
    summary: list[Summary]
    progress: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Write it into `folder`/`name`. Error: OSError."""
        with complete_or_absent(folder / self.name / _SETUP) as path:
            path.write_text(json.dumps(self.setup.to_json(), indent=1) + "\n", encoding="utf-8")
        with complete_or_absent(folder / self.name / _CHECK) as path:
            path.write_text(json.dumps({"rows": self.check}, indent=1) + "\n", encoding="utf-8")
        with complete_or_absent(folder / self.name / _SUMMARY) as path:
            _write_csv(path, [asdict(row) for row in self.summary])
        with complete_or_absent(folder / self.name / _PROGRESS) as path:
            _write_csv(path, self.progress)

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """What `save` wrote. Error: UsageError if it cannot be read."""
        try:
            setup = read_info((folder / _SETUP).read_bytes())
            check = json.loads((folder / _CHECK).read_text(encoding="utf-8"))["rows"]
            summary = [Summary(**row) for row in _read_csv(folder / _SUMMARY)]
            return cls(folder.name, setup, check, summary, _read_csv(folder / _PROGRESS))
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None
        except (ValueError, LookupError, TypeError):
            raise UsageError(f"{folder} does not hold what was saved of a run") from None


def evidence(name: str, run: RunDirectory) -> Evidence:
    """The evidence of `run`, under `name`.

    Error: UsageError if it has fewer than two records.
    Example: evidence("fig1", RunDirectory.open("outputs/mine")).save(Path("docs/results"))
    """
    check = [json_values(asdict(row)) for row in agreement(run)]
    summary = list(_summaries(comparisons(run)))
    return Evidence(name, run.info().published(), check, summary, _progress(run))


def _progress(run: RunDirectory) -> list[dict[str, Any]]:
    """The rows of the table `progress` by step; at equal steps training comes first."""
    if not any(run.table("progress").iterdir()):
        return []
    columns = ("epoch", "loss", "top1", "top5", "lr", "images_per_second")
    rows = []
    for split in ("train", "val"):
        curves = progress_curves(run, split, columns)
        values = np.hstack([curves.steps[:, None], *(curves.values[name] for name in columns)])
        for numbers in values.tolist():
            named = zip(("step", *columns), numbers, strict=True)
            row = {name: None if number != number else number for name, number in named}
            rows.append(row | {"step": int(numbers[0]), "epoch": int(numbers[1]), "split": split})
    return sorted(rows, key=lambda row: row["step"])


def _summaries(groups: Iterator[Comparison]) -> Iterator[Summary]:
    pooled: dict[str, list[_Group]] = {}
    for group in groups:
        pooled.setdefault(group.symmetry, []).append(_Group.of(group))
        del group  # the next one would lie beside it
    for symmetry, parts in pooled.items():
        for law in LAWS:
            yield _summary(symmetry, law, parts)


@dataclass(frozen=True)
class _Group:
    """What a summary needs of a group; unexplained[law] is [moved], residual[law] the largest."""

    units: int
    moved: int
    motion: float
    unexplained: dict[str, np.ndarray[Any, np.dtype[np.float64]]]
    residual: dict[str, float]

    @classmethod
    def of(cls, group: Comparison) -> "_Group":
        laws = group.predicted
        return cls(
            group.moved.size,
            int(group.moved.sum()),
            float(group.motion.max()),
            {law: group.unexplained_by_unit(law) for law in laws},
            {law: float(group.residual(law).max()) for law in laws},
        )


def _summary(symmetry: str, law: str, parts: list[_Group]) -> Summary:
    units, moved = sum(part.units for part in parts), sum(part.moved for part in parts)
    motion = max(part.motion for part in parts)
    known = [part.unexplained[law] for part in parts if law in part.unexplained]
    residuals = [part.residual[law] for part in parts if law in part.residual]
    residual = float(np.max(residuals)) if residuals else None  # max() alone can pass over NaN
    explained: list[float | None] = [None, None, None]
    if known and moved:
        unexplained = np.concatenate(known)
        of_99 = np.quantile(unexplained, 0.99, method="inverted_cdf")
        worst = np.max([np.median(one) for one in known if one.size])
        explained = [1 - float(share) for share in (np.median(unexplained), of_99, worst)]
    return Summary(symmetry, law, units, moved, residual, motion, *explained)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0] if rows else [], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> int | float | str | None:
    """The value that `_write_csv` wrote as `text`; an empty cell is None."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text or None
