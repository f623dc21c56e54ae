"""The tables of a run: their schemas, and how they are read.

    units       step, symmetry, group, unit, measured, magnitude, flow, discrete, exact,
                grad_norm_sq, defect; and those of `OPTIONAL` that run.json lists in `columns`
    parameters  step, layer, index, value
    progress    step, epoch, split, loss, top1, top5, lr, images_per_second

A table is a folder of parquet parts, each complete or absent, so
`pandas.read_parquet(RUN/tables/units)` works at any time, also during the run and after a kill.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from symrun.errors import UsageError
from symrun.laws import kinds_of_sgd
from symrun.runs.directory import RunDirectory
from symrun.runs.info import SCHEMA
from symrun.runs.reading import SCHEMA_KEY, Rows, read_parts

LAWS = tuple(kinds_of_sgd(momentum=False))
MEASUREMENTS = ("measured", "magnitude", *LAWS, "grad_norm_sq", "defect")
UPDATE = ("projection", "discretisation")
"""Of the update that follows a record: B(theta, u), or the sum of u; and eta^2 B(u, u)."""
BASELINE = ("baseline", "steady")
"""Where no settings tell the schedule: the quantity under gradient flow, and the motion that
gradients of a constant norm would cause, up to a factor."""
DYNAMICS = ("effective_lr", "angle")
"""Of units of scale: eta / |A|^2, and the angle in radians by which the next update turns A."""
SOURCE = ("source",)
"""Of homogeneity: h times the sum of z dl/dz over the outputs z; 0 in all other families."""
OPTIONAL = (*UPDATE, *BASELINE, *DYNAMICS, *SOURCE)
"""Columns that a run has only where its run.json names them."""

_NAME = pa.dictionary(pa.int16(), pa.string())
_VERSION = {SCHEMA_KEY: str(SCHEMA).encode()}
"""Metadata of the schemas, which the writer copies into each part."""


def units_schema(value: pa.DataType, more: Sequence[str] = ()) -> pa.Schema:
    """`value`: float32; float64 in float64 runs. A law that makes no prediction is null. more: of
    `OPTIONAL`."""
    keys = [("step", pa.int32()), ("symmetry", _NAME), ("group", _NAME), ("unit", pa.int32())]
    return pa.schema(keys + [(column, value) for column in (*MEASUREMENTS, *more)], _VERSION)


def parameters_schema(value: pa.DataType) -> pa.Schema:
    """`index`: position in the layer's flattened weight."""
    return pa.schema(
        [("step", pa.int32()), ("layer", _NAME), ("index", pa.int64()), ("value", value)],
        _VERSION,
    )


def unpacked_bytes(
    records: int, units: int, parameters: int, value_bytes: int, more: Sequence[str] = ()
) -> int:
    """The size of the numbers in `records` records. Compressed on the disk they take less, unless
    a network is so small that the footers of the parts count.

    Example: unpacked_bytes(1956, 11521, 1600, 4) / 1e9   # 0.64, the paper's VGG16 with BN
    """
    return records * (units * len((*MEASUREMENTS, *more)) + parameters) * value_bytes


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
    ],
    _VERSION,
)


@dataclass(frozen=True)
class Curves:
    """One group over time.

    steps [records]; values: column -> float64 [records, units], NaN for null.
    """

    steps: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]

    def at_records(self, places: NDArray[np.intp]) -> "Curves":
        """The same curves at some of the records, by their places among `steps`."""
        values = {name: value[places] for name, value in self.values.items()}
        return Curves(self.steps[places], values)

    def of_units(self, places: NDArray[np.intp] | slice) -> "Curves":
        """The same curves of some of the units, by their columns."""
        return Curves(self.steps, {name: value[:, places] for name, value in self.values.items()})


def unit_curves(
    run: RunDirectory, symmetry: str, group: str, columns: Sequence[str] = MEASUREMENTS
) -> Curves:
    """Every unit of one group over time.

    Error: UsageError as in `read_parts`, or unless each record holds each unit once.
    """
    rows = read_parts(run, "units", ["step", "unit", *columns], symmetry=symmetry, group=group)
    return _curves(rows, "unit", columns, f"{run.path}, {group}")


def parameter_curves(run: RunDirectory, layer: str) -> Curves:
    """The sampled parameters of one layer over time: column `value`, [records, sample].

    Error: UsageError as in `unit_curves`.
    """
    rows = read_parts(run, "parameters", ["step", "index", "value"], layer=layer)
    return _curves(rows, "index", ["value"], f"{run.path}, {layer}")


def progress_curves(
    run: RunDirectory, split: str, columns: Sequence[str] = ("loss", "top1", "top5")
) -> Curves:
    """The rows of `progress` for `split`, "train" or "val", over time; each column [records, 1].

    There are no records if the run has written none for this split yet.

    Error: UsageError as in `read_parts`, or if a record is doubled.
    """
    parts = list(read_parts(run, "progress", ["step", *columns], split=split))
    steps = np.concatenate([rows["step"] for rows in parts]).astype(np.int64)
    if not _rises(steps):
        raise _incomplete(f"{run.path}, {split}")
    values = {name: np.concatenate([rows[name] for rows in parts])[:, None] for name in columns}
    return Curves(steps, values)


def _curves(parts: Iterable[Rows], unit: str, columns: Sequence[str], what: str) -> Curves:
    """Error: UsageError unless each record holds each unit once, and is whole in one part."""
    blocks = [_block(rows, unit, what) for rows in parts if rows["step"].size]
    steps = np.concatenate([np.empty(0, np.int64), *(block.steps for block in blocks)])
    alike = all(np.array_equal(block.units, blocks[0].units) for block in blocks)
    if not (blocks and alike and _rises(steps)):
        raise _incomplete(what)
    units = len(blocks[0].units)
    values = {
        column: np.concatenate(
            [block.rows[column].reshape(units, -1).T for block in blocks],
            out=np.empty((len(steps), units)),
        )
        for column in columns
    }
    return Curves(steps, values)


@dataclass(frozen=True)
class _Block:
    """A part's rows of one group, by unit, then step. steps [records], units [units], rising."""

    steps: NDArray[np.int64]
    units: NDArray[np.int64]
    rows: Rows


def _block(rows: Rows, unit: str, what: str) -> _Block:
    """Error: UsageError unless there is one row for each unit at each step."""
    block = _block_in_order(rows, unit)
    if block is None:  # written by something other than a TableWriter
        order = np.lexsort((rows["step"], rows[unit]))
        block = _block_in_order({name: values[order] for name, values in rows.items()}, unit)
    if block is None:
        raise _incomplete(what)
    return block


def _block_in_order(rows: Rows, unit: str) -> _Block | None:
    """None unless the rows are in order, one for each unit at each step."""
    step, place = rows["step"], rows[unit]
    records = np.count_nonzero(place == place[0])
    if len(step) % records:
        return None
    step, place = step.reshape(-1, records), place.reshape(-1, records)
    steps, units = step[0].astype(np.int64), place[:, 0].astype(np.int64)
    whole = (step == step[0]).all() and (place == place[:, :1]).all()
    return _Block(steps, units, rows) if whole and _rises(steps) and _rises(units) else None


def _rises(numbers: NDArray[np.int64]) -> bool:
    return bool((np.diff(numbers) > 0).all())


def _incomplete(what: str) -> UsageError:
    return UsageError(f"{what}: the table has missing or doubled records")
