"""Makes full-scale tables without training, and times the commands that read them.

    config = compose(["model=vgg16_bn", *FULL_SCALE])
    run = make_run(Path("made/bn"), config, records_per_part=33)

The keys, run.json, order and parts are those of a real run; the values are smooth random curves.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from symrun.config import Config
from symrun.data import load
from symrun.errors import RunError
from symrun.runs.directory import RunDirectory
from symrun.runs.info import Status
from symrun.runs.writer import Record, write_records
from symrun.tracking import Tracker
from symrun.training.plan import Plan
from symrun.training.provenance import describe
from symrun.training.setup import make_tracker, prepare

Array = NDArray[np.float64]

FULL_SCALE = (
    "data=synthetic",
    "data.classes=200",
    "data.image_size=64",
    "train.steps=39100",
    "track.every=20",
    "device=cpu",
)
"""The paper's classes, images and length, without its data."""

_LAW_ERRORS = {"flow": 1e-3, "discrete": 1e-5, "exact": 1e-8}
"""The error of each law, relative to the motion."""


def make_run(folder: Path, config: Config, records_per_part: int) -> RunDirectory:
    """The run that `config` would leave in `folder`, with made-up values and without `progress`.

    records_per_part: what a run records in writer.FLUSH_SECONDS; the first part holds one record,
    as in every run. The values are drawn from `config.seed`.

    Error: UsageError if `folder` exists.
    Example: make_run(Path("made/bn"), compose(["model=vgg16_bn", *FULL_SCALE]), 33)
    """
    run = RunDirectory.create(folder, "")
    dataset = load(config.data)
    training = prepare(Plan.of(config), dataset)
    steps, info = training.steps, describe(training, dataset)
    run.write_info(dataclasses.replace(info, status=Status.finished, last_step=steps))
    recorded = [*range(0, steps, config.track.every), steps]
    firsts = [0, *range(1, len(recorded), records_per_part)]
    initial = _HeldRows()
    make_tracker(training, initial, Tracker).finish(0)
    random = np.random.default_rng(config.seed)
    units = _Units(initial.rows["units"], random)
    parameters = _Parameters(initial.rows["parameters"], random)
    for number, (first, end) in enumerate(itertools.pairwise([*firsts, len(recorded)])):
        part = recorded[first:end]
        write_records(run, "units", number, [units.rows(step, steps) for step in part])
        write_records(run, "parameters", number, [parameters.rows(step) for step in part])
    return run


@dataclass(frozen=True)
class Timing:
    """The cost of one command, run in its own process. peak_bytes: its peak memory."""

    name: str
    seconds: float
    peak_bytes: int


def time_commands(plain: RunDirectory, bn: RunDirectory) -> Iterator[Timing]:
    """Time fig1 and check of `bn`, and fig5 of both, one after the other.

    Error: RunError with the command's message if it fails.
    """
    commands = {
        "plot fig1": ["plot", "fig1", str(bn.path)],
        "plot fig5": ["plot", "fig5", str(plain.path), str(bn.path)],
        "check": ["check", str(bn.path)],
    }
    for name, arguments in commands.items():
        command = [sys.executable, "-m", "symrun", *arguments]
        # A child's peak counts what its parent held when it forked: a small process starts it.
        process = [sys.executable, "-c", _MEASURE, *command]
        done = subprocess.run(process, capture_output=True, text=True)
        if done.returncode != 0:
            raise RunError(f"symrun {name} failed: {done.stderr.strip()}")
        measured = json.loads(done.stdout)
        yield Timing(name, measured["seconds"], measured["peak_bytes"])


_MEASURE = """
import json, resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
seconds = time.monotonic() - started
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
sys.exit(code)
"""


class _HeldRows:
    """Stands in for a writer and holds the rows of one record."""

    def __init__(self) -> None:
        self.rows: dict[str, pa.Table] = {}

    def put(self, table: str, record: Record, size_bytes: int = 0) -> None:
        self.rows[table] = record()


class _Units:
    """Each unit moves away from where it starts, ever more slowly, with a slow swing on top."""

    def __init__(self, initial: pa.Table, random: np.random.Generator) -> None:
        self._initial, self._random = initial, random
        self._measured, self._magnitude = (
            initial[name].to_numpy().astype(np.float64) for name in ("measured", "magnitude")
        )
        units = initial.num_rows
        self._growth = self._magnitude * random.uniform(0.2, 0.6, units)
        self._rate, self._turns = random.uniform(1, 4, units), random.uniform(2, 12, units)
        self._off = {
            name: size * random.normal(size=units)
            for name, size in _LAW_ERRORS.items()
            if not initial[name].null_count  # null for an optimiser that the laws do not cover
        }

    def rows(self, step: int, steps: int) -> pa.Table:
        time = step / steps
        swing = 0.02 * np.sin(self._turns * time)
        motion = self._growth * (1 - np.exp(-self._rate * time) + swing)
        magnitude = self._magnitude + np.abs(motion)
        columns = {"measured": self._measured + motion, "magnitude": magnitude}
        for name, off in self._off.items():
            columns[name] = self._measured + motion * (1 + off * time)
        if step < steps:  # the last record has no gradient
            noise = self._random.standard_normal((2, len(motion)))
            columns["grad_norm_sq"] = 1e-6 * magnitude * np.exp(0.3 * noise[0])
            columns["defect"] = 1e-9 * magnitude * noise[1]
        return _with_columns(self._initial, step, columns)


class _Parameters:
    """Each parameter walks at random."""

    def __init__(self, initial: pa.Table, random: np.random.Generator) -> None:
        self._initial, self._random = initial, random
        self._value = initial["value"].to_numpy().astype(np.float64)
        self._size = 0.01 * np.abs(self._value)

    def rows(self, step: int) -> pa.Table:
        self._value += self._size * self._random.standard_normal(len(self._size))
        return _with_columns(self._initial, step, {"value": self._value})


def _with_columns(initial: pa.Table, step: int, columns: Mapping[str, Array]) -> pa.Table:
    """`initial` at another step, with some of its columns replaced."""
    table = initial
    values = {"step": np.full(initial.num_rows, step), **columns}
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(value).cast(field.type))
    return table
