"""A run as pandas tables, for notebooks and whatever else has no command."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symrun.errors import UsageError, in_one_line
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo
from symrun.runs.matrices import matrix_table
from symrun.runs.reading import read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run on the disk: what it was, and its tables, each read when it is asked for.

    Tables have the columns that `symrun.runs.tables` lists, and a row a unit, parameter or split at
    each record; a law that makes no prediction is NaN.

    Error: UsageError from each table if it has no records yet, or a part of it is damaged.
    Example:
        run = open_run("outputs/mine")
        units = run.units(group="features.0")
        units.pivot(index="step", columns="unit", values="measured")
    """

    path: Path
    info: RunInfo

    def units(self, symmetry: str | None = None, group: str | None = None) -> "pd.DataFrame":
        """What was measured and predicted of each unit, of one symmetry or one group if named.

        Error: UsageError also if the run has no such group.
        """
        wanted = {"symmetry": symmetry, "group": group}
        equal = {name: value for name, value in wanted.items() if value is not None}
        groups = [(one.symmetry.value, one.group) for one in self.info.groups]
        if not any(symmetry in (None, one) and group in (None, name) for one, name in groups):
            there = ", ".join(" ".join(one) for one in groups) or "none"
            asked = in_one_line(" ".join(equal.values())) or "at all"
            raise UsageError(f"{self.path} has no group {asked}: it has {there}")
        return self._table("units", **equal)

    def parameters(self) -> "pd.DataFrame":
        """The sampled parameters of each layer; without rows if none were sampled."""
        return self._table("parameters")

    def progress(self) -> "pd.DataFrame":
        """Loss and accuracies of training and validation."""
        return self._table("progress")

    def matrices(self) -> "pd.DataFrame":
        """Each conserved matrix at each record: its trace, its norm, its change, and how far each
        law is off, as `symrun.runs.matrices.matrix_table` says.

        Error: UsageError also if the run has no matrix, or recorded the diagonal alone.
        """
        return matrix_table(RunDirectory(self.path))

    def _table(self, name: str, **equal: str) -> "pd.DataFrame":
        table = read_table(RunDirectory(self.path), name, **equal)
        # Column by column, each freed once it is copied: else all would be there twice
        rows: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
        return rows


def open_run(path: str | Path) -> Run:
    """The run in the folder `path`, whatever model and data set it had.

    Error: UsageError if there is none that this symrun can read.
    Example: open_run("outputs/mine").info.config.optim.lr
    """
    run = RunDirectory.open(path)
    return Run(run.path, run.info())
