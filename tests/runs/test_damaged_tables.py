"""Damaged parts: refused in one line, whatever is damaged, and never read as something else.

The damage is done in a process of its own. Without the seal, pyarrow aborts the process on some of
these parts, and that must fail this test, not end it.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from mutations import mutated

from symrun.errors import UsageError
from symrun.runs import writer
from symrun.runs.directory import RunDirectory
from symrun.runs.reading import read_parts
from symrun.runs.tables import (
    MEASUREMENTS,
    PROGRESS_SCHEMA,
    parameter_curves,
    parameters_schema,
    unit_curves,
    units_schema,
)
from symrun.runs.writer import write_records

GROUPS = {"a": ("scale", 7), "b": ("scale", 5), "a -> b": ("rescale", 6), "c": ("translation", 1)}
LAYERS = {"a": 4, "b": 3}
MOST_BYTES = 2**32
"""Of addresses that reading may take, most of them for the libraries; so a damaged size is noticed
that leads to as much memory."""
MOST_SECONDS = 5.0
"""For reading one small part: it takes milliseconds, on a busy machine a hundred times as long."""
UNDAMAGED = 10
"""One input in so many is as it was written, to see that such are read."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with parts of a few kilobytes, of several row groups each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_LEAST_ROWS", 1)
        return written(tmp_path_factory.mktemp("small") / "run", [1, 3, 2], 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run with parts of up to half a megabyte."""
    return written(tmp_path_factory.mktemp("large") / "run", [1, 20], 60)


def written(path, sizes, factor):
    """A run with parts of so many records; `factor` times the units of GROUPS."""
    run = RunDirectory.create(path, "")
    random, step = np.random.default_rng(0), 0
    for number, size in enumerate(sizes):
        steps = range(step, step + size)
        for table, rows in (("units", unit_rows), ("parameters", parameter_rows)):
            records = [rows(random, one, factor) for one in steps]
            write_records(run, table, number, records)
        write_records(run, "progress", number, [progress_row(random, one) for one in steps])
        step += size
    return run


def unit_rows(random, step, factor):
    rows = [(kind, name, unit) for name, (kind, units) in GROUPS.items()
            for unit in range(units * factor)]  # fmt: skip
    kinds, names, units = zip(*rows, strict=True)
    columns = {"step": [step] * len(rows), "symmetry": kinds, "group": names, "unit": units}
    columns |= {name: random.normal(size=len(rows)) for name in MEASUREMENTS}
    columns["exact"] = [None] * len(rows)
    return table_of(columns, units_schema(pa.float32()))


def parameter_rows(random, step, factor):
    rows = [(layer, 3 * place) for layer, count in LAYERS.items()
            for place in range(count * factor)]  # fmt: skip
    layers, places = zip(*rows, strict=True)
    columns = {"step": [step] * len(rows), "layer": layers, "index": places}
    columns["value"] = random.normal(size=len(rows))
    return table_of(columns, parameters_schema(pa.float32()))


def progress_row(random, step):
    columns = {name: random.normal(size=1) for name in PROGRESS_SCHEMA.names[3:]}
    return table_of({"step": [step], "epoch": [1], "split": ["train"]} | columns, PROGRESS_SCHEMA)


def table_of(columns, schema):
    return pa.table([pa.array(columns[f.name]).cast(f.type) for f in schema], schema=schema)


def readings(run, table):
    """What there is to read of a table: functions that give arrays by name."""
    if table == "units":
        for name, (kind, _) in GROUPS.items():
            yield lambda kind=kind, name=name: arrays(unit_curves(run, kind, name))
    if table == "parameters":
        for name in LAYERS:
            yield lambda name=name: arrays(parameter_curves(run, name))
    if table == "progress":
        columns = ["step", "epoch", "loss", "top1", "lr"]

        def progress():
            parts = list(read_parts(run, "progress", columns, split="train"))
            return {name: np.concatenate([part[name] for part in parts]) for name in columns}

        yield progress


def arrays(curves):
    return {"steps": curves.steps, **curves.values}


def with_flipped(content, place):
    """`content` with the bit flipped that is `place` bits from its start."""
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    return bytes(flipped)


def damage_and_read(path, kind, first, count, stride):
    """Damage a part of the run in `path` in `count` ways, each in its turn; how many were refused.

    kind: "any" damage to any part, or "bits": one bit of byte `first`, of the one `stride` bytes
    further, and so on, in the first part of the units.
    """
    run, outcomes, slowest = RunDirectory(Path(path)), Counter(), 0.0
    parts = sorted(run.table("").rglob("part-*.parquet"))
    contents = {part: part.read_bytes() for part in parts}
    expected = {
        part.parent.name: [read() for read in readings(run, part.parent.name)] for part in parts
    }
    for seed in range(first, first + stride * count, stride):
        print(f"seed {seed}", file=sys.stderr, flush=True)  # the last one, if the process crashes
        random = Random(seed)
        part = run.part("units", 0) if kind == "bits" else random.choice(parts)
        table, content = part.parent.name, contents[part]
        intact = seed % UNDAMAGED == 0 and kind == "any"
        if not intact:
            bit = 8 * seed + random.randrange(8)
            damaged = with_flipped(content, bit) if kind == "bits" else mutated(content, random)
            part.write_bytes(damaged)
        os.utime(part, ns=(seed, seed))  # as if written at another time: else it is still known
        started = time.monotonic()
        found = [outcome(read, like) for read, like in
                 zip(readings(run, table), expected[table], strict=True)]  # fmt: skip
        slowest = max(slowest, time.monotonic() - started)
        assert len(set(found)) == 1, f"seed {seed}: {found}"
        outcomes[found[0]] += 1
        part.write_bytes(content)
    return {**outcomes, "slowest": slowest}


def outcome(read, expected):
    try:
        found = read()
    except UsageError as error:
        assert "cannot be read: part-" in str(error) and str(error).isprintable(), error
        return "refused"
    same = found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and np.array_equal(found[name], expected[name], equal_nan=True)
        for name in expected
    )
    return "as written" if same else "otherwise"


def in_a_process(run, kind, first, count, stride=1):
    """`damage_and_read` where neither a crash nor its memory does harm."""
    command = [sys.executable, __file__, str(run.path), kind, *map(str, (first, count, stride))]
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, f"exit {done.returncode} after:\n{done.stderr[-2000:]}"
    outcomes = json.loads(done.stdout)
    assert outcomes.pop("slowest") < MOST_SECONDS
    return outcomes


def expected_outcomes(count):
    undamaged = count // UNDAMAGED
    return {"as written": undamaged, "refused": count - undamaged}


def test_damaged_parts_are_refused(small, large):
    assert in_a_process(small, "any", 0, 270) == expected_outcomes(270)
    assert in_a_process(large, "any", 0, 30) == expected_outcomes(30)


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_noticed_in_whatever_byte_it_is(small, stride):
    """Also in footers and headers of pages, where parquet itself has no checksums."""
    count = -(-small.part("units", 0).stat().st_size // stride)
    assert in_a_process(small, "bits", 0, count, stride) == {"refused": count}


@pytest.mark.slow
def test_thousands_of_damaged_parts_are_refused(small, large):
    for first in range(0, 3600, 600):
        assert in_a_process(small, "any", first, 600) == expected_outcomes(600)
    assert in_a_process(large, "any", 0, 400) == expected_outcomes(400)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    path, kind, *numbers = sys.argv[1:]
    print(json.dumps(damage_and_read(path, kind, *map(int, numbers))))
