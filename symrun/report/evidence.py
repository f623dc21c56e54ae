"""The results of a run without its tables, small enough to be published."""

import contextlib
import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symrun.analysis import Agreement, judge
from symrun.analysis.report import json_values
from symrun.errors import UsageError
from symrun.files import write_text
from symrun.runs.directory import RunDirectory, current
from symrun.runs.info import RunInfo, Status
from symrun.runs.reading import parts_of
from symrun.runs.run_json import read_info
from symrun.runs.tables import progress_curves

_SETUP, _CHECK, _SUMMARY, _PROGRESS = "setup.json", "check.json", "summary.csv", "progress.csv"


@dataclass(frozen=True)
class Evidence:
    """The results of one run.

    setup: its run.json without paths. check: the rows of `symrun check --json`. summary: a row for
    each symmetry and law, null laws as well. progress: the rows of that table.
    """

    name: str
    setup: RunInfo
    check: list[dict[str, Any]]
    summary: list[Agreement]
    progress: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Write it into `folder`/`name`. Error: OSError."""
        own = folder / self.name
        write_text(own / _SETUP, json.dumps(self.setup.to_json(), indent=1) + "\n")
        write_text(own / _CHECK, json.dumps({"rows": self.check}, indent=1) + "\n")
        write_text(own / _SUMMARY, csv_text([asdict(row) for row in self.summary]))
        write_text(own / _PROGRESS, csv_text(self.progress))

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """What `save` wrote. Error: UsageError if it cannot be read."""
        try:
            setup = read_info((folder / _SETUP).read_bytes())
            check = json.loads((folder / _CHECK).read_text(encoding="utf-8"))["rows"]
            summary = [Agreement(**row) for row in _read_csv(folder / _SUMMARY)]
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
    groups, symmetries = judge(run)
    check = [json_values(asdict(row)) for row in groups]
    info, status = current(run)
    setup = dataclasses.replace(info.published(), status=Status(status))
    return Evidence(name, setup, check, symmetries, _progress(run))


def _progress(run: RunDirectory) -> list[dict[str, Any]]:
    """The rows of the table `progress` by step; at equal steps training comes first."""
    if not parts_of(run, "progress"):
        return []
    columns = ("epoch", "loss", "top1", "top5", "lr", "images_per_second")
    rows = []
    for split in ("train", "val"):
        curves = progress_curves(run, split, columns)
        values = np.hstack([curves.steps[:, None], *(curves.values[name] for name in columns)])
        for numbers in values.tolist():
            named = zip(("step", *columns), numbers, strict=True)
            row: dict[str, Any] = {
                name: number if number == number else None for name, number in named
            }
            for name in ("step", "epoch"):
                row[name] = None if row[name] is None else int(row[name])
            rows.append(row | {"split": split})
    return sorted(rows, key=lambda row: row["step"])


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line with the names of the first row's values, and a line a row; None is an empty cell.

    Example: csv_text([{"step": 1, "loss": None}]) == "step,loss\\n1,\\n"
    """
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> int | float | bool | str | None:
    """The value that `csv_text` wrote as `text`; an empty cell is None."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return {"True": True, "False": False, "": None}.get(text, text)
