"""The tables of a run: their schemas, and how they are read.

    units       step, symmetry, group, unit, measured, magnitude, flow, discrete, exact,
                grad_norm_sq, defect
    parameters  step, layer, index, value
    progress    step, epoch, split, loss, top1, top5, lr, images_per_second

A table is a folder of parquet parts, each complete or absent, so
`pandas.read_parquet(RUN/tables/units)` works at any time, also during the run and after a kill.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.runs.directory import RunDirectory

LAWS = ("flow", "discrete", "exact")
MEASUREMENTS = ("measured", "magnitude", *LAWS, "grad_norm_sq", "defect")

_NAME = pa.dictionary(pa.int16(), pa.string())


def units_schema(value: pa.DataType) -> pa.Schema:
    """`value`: float32; float64 in float64 runs. A law that makes no prediction is null."""
    keys = [("step", pa.int32()), ("symmetry", _NAME), ("group", _NAME), ("unit", pa.int32())]
    return pa.schema(keys + [(column, value) for column in MEASUREMENTS])


def parameters_schema(value: pa.DataType) -> pa.Schema:
    """`index`: position in the layer's flattened weight."""
    return pa.schema(
        [("step", pa.int32()), ("layer", _NAME), ("index", pa.int64()), ("value", value)]
    )


PROGRESS_SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("epoch", pa.int32()),
        ("split", _NAME),
        ("loss", pa.float64()),
        ("top1", pa.float64()),
        ("top5", pa.float64()),
        ("lr", pa.float64()),
        ("images_per_second", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Curves:
    """One group over time.

    steps [records]; values: column -> float64 [records, units], NaN for null.
    """

    steps: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]


def read_table(run: RunDirectory, name: str, columns: Sequence[str], **equal: str) -> pa.Table:
    """The rows of a table in which each column named in `equal` has that value.

    Error: UsageError if the run has no complete part of it yet, or a part is damaged.
    Example: read_table(run, "units", ["step", "measured"], symmetry="scale", group="features.0")
    """
    folder = run.table(name)
    parts = sorted(str(part) for part in folder.glob("part-*.parquet"))
    if not parts:
        raise UsageError(f"{run.path} has no records yet: {folder} holds no part-*.parquet")
    condition = None
    for column, value in equal.items():
        term = pyarrow.dataset.field(column) == value
        condition = term if condition is None else condition & term
    try:
        dataset = pyarrow.dataset.dataset(parts, format="parquet")
        return dataset.to_table(columns=list(columns), filter=condition)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{folder} cannot be read: {str(error).splitlines()[0]}") from None


def _pivot(table: pa.Table, unit: str, columns: Sequence[str], what: str) -> Curves:
    """Error: UsageError unless each record holds each unit once."""
    order = [("step", "ascending"), (unit, "ascending")]
    table = table.sort_by(order)
    steps = np.unique(table["step"].to_numpy())
    units = len(np.unique(table[unit].to_numpy()))
    if table.num_rows == 0 or table.num_rows != len(steps) * units:
        raise UsageError(f"{what}: the table has missing or doubled records")
    values = {}
    for column in columns:
        flat = table[column].to_numpy().astype(np.float64)
        values[column] = flat.reshape(len(steps), units)
    return Curves(steps.astype(np.int64), values)


def unit_curves(
    run: RunDirectory, symmetry: str, group: str, columns: Sequence[str] = MEASUREMENTS
) -> Curves:
    """Every unit of one group over time. Error: UsageError as in `read_table`."""
    table = read_table(run, "units", ["step", "unit", *columns], symmetry=symmetry, group=group)
    return _pivot(table, "unit", columns, f"{run.path}, {group}")


def parameter_curves(run: RunDirectory, layer: str) -> Curves:
    """The sampled parameters of one layer over time: column `value`, [records, sample]."""
    table = read_table(run, "parameters", ["step", "index", "value"], layer=layer)
    return _pivot(table, "index", ["value"], f"{run.path}, {layer}")
