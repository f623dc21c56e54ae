"""Measure what grows with units, records and runs, and write docs/scaling.md about it.

Each measurement is a process of its own, and its time is the processor's, so that other work on the
machine disturbs it little. What is measured is kept in docs/scaling.json; --page writes the page
anew from that file alone.

Usage: OMP_NUM_THREADS=1 python scripts/scaling.py [--page]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

import symrun
from symrun.analysis import judge
from symrun.cli import exit_code
from symrun.files import write_text
from symrun.launch import compose
from symrun.laws import SGD, laws_of_sgd
from symrun.report.document import Block, Heading, Paragraph, Table, as_markdown
from symrun.runs.directory import RunDirectory
from symrun.runs.info import SCHEMA
from symrun.runs.run_json import info_from
from symrun.runs.tables import MEASUREMENTS, unit_curves, units_schema
from symrun.runs.writer import TableWriter
from symrun.symmetry import Group, Structure, Symmetry, columns, rows
from symrun.tracking import Tracker

DOCS = Path(symrun.__file__).parent.parent / "docs"
UNITS = {10**3: 1000, 10**4: 1000, 10**5: 2500, 10**6: 10_000}
"""How many units there are, and of a group: networks grow in depth and in width."""
FEWEST, FAN_IN, RECORDS, RUNS = 10**3, 16, 100, 1000
"""Units that are measured first, so that all is imported; weights that enter or leave a unit."""
TRANSFORMERS = {"1e9": (20, 2048), "1e11": (80, 10240)}
"""Blocks and width of transformers with 12 blocks width^2 parameters in their blocks."""


def tracker(units: int, folder: Path) -> dict[str, float]:
    """An update with nothing to record, and one with a record, whose rows are made as well."""
    if units > FEWEST:
        tracker(FEWEST, folder)  # which imports what is needed
    model, groups = _network(units)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    laws, _ = laws_of_sgd(SGD(weight_decay=1e-3))
    sink = _Sink()
    before = _resident()
    made = Tracker(model, optimizer, Structure((), groups), laws, sink, 4, 0, 0)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for step in range(25):
        began = time.process_time()
        made.before_update(step, lr=0.1 / (1 + step))  # which changes the laws at every update
        taken[made.due(step)].append(time.process_time() - began)
    update, record = (statistics.median(taken[due]) for due in (False, True))
    return {
        "update_ns": 1e9 * update / units,
        "record_ns": 1e9 * (record - update) / units,
        "bytes": (_peak() - before) / units,
        "waiting_bytes": sink.size_bytes / units,
    }


class _Sink:
    """Takes records, makes their rows and forgets them."""

    size_bytes = 0

    def put(self, table: str, record: Callable[[], pa.Table], size_bytes: int = 0) -> None:
        self.size_bytes = max(self.size_bytes, size_bytes)
        record()


def _network(units: int) -> tuple[nn.Module, tuple[Group, ...]]:
    """Pairs of matrices around the units of rescale of a group each, with gradients."""
    model, width = nn.Module(), UNITS[units]
    groups = []
    for place in range(units // width):
        up, down = f"up{place}", f"down{place}"
        for name, shape in ((up, (width, FAN_IN)), (down, (FAN_IN, width))):
            parameter = nn.Parameter(torch.randn(shape))
            parameter.grad = torch.randn(shape)
            model.register_parameter(name, parameter)
        members = rows(up, (width, FAN_IN), -1), columns(down, (FAN_IN, width), width)
        groups.append(Group(Symmetry.rescale, f"{up} -> {down}", (up, down), members))
    return model, tuple(groups)


def writer(units: int, folder: Path) -> dict[str, float]:
    """Records handed to the writer as fast as it takes them; making them does not count."""
    if units > FEWEST:
        writer(FEWEST, folder.with_name(f"{folder.name}-small"))  # which imports what is needed
    record = _records(units)
    began = time.process_time()
    for step in range(3):
        record(step)
    making = (time.process_time() - began) / 3
    run = _run(folder, units, RECORDS)
    before, began = _resident(), time.process_time()
    with TableWriter(run) as tables:
        for step in range(RECORDS):
            tables.put("units", partial(record, step), 4 * len(MEASUREMENTS) * units)
    seconds = time.process_time() - began - RECORDS * making
    size = sum(part.stat().st_size for part in run.table("units").iterdir())
    return {
        "ns": 1e9 * seconds / units / RECORDS,
        "bytes": size / units / RECORDS,
        "memory": _peak() - before,
    }


def check(units: int, folder: Path) -> dict[str, float]:
    return _reading(units, lambda: judge(RunDirectory(folder)))


def group(units: int, folder: Path) -> dict[str, float]:
    """One group's curves, as a figure reads them."""
    run = RunDirectory(folder)
    last = run.info().groups[-1].group
    return _reading(units, lambda: unit_curves(run, "rescale", last))


def _reading(units: int, read: Callable[[], object]) -> dict[str, float]:
    before, began = _resident(), time.process_time()
    read()
    seconds = time.process_time() - began
    return {"seconds": seconds, "ns": 1e9 * seconds / units / RECORDS, "memory": _peak() - before}


def runs(count: int, folder: Path) -> dict[str, float]:
    """`symrun collect` of many runs, then again, and `symrun runs`: wall time of whole commands."""
    for place in range(count):
        run, record = _run(folder / str(place), FEWEST, 3, seed=place), _records(FEWEST)
        with TableWriter(run) as tables:
            for step in range(3):
                tables.put("units", partial(record, step))
    found, memory = {}, 0
    for name, command in (("first", "collect"), ("again", "collect"), ("list", "runs")):
        began = time.monotonic()
        words = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "symrun", command]
        printed = subprocess.run([*words, str(folder)], check=True, stdout=subprocess.PIPE).stdout
        found[name] = time.monotonic() - began
        memory = max(memory, int(printed.splitlines()[-1]))
    return found | {"memory": memory}


LAUNCHER = """import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"""
"""A small process, since the memory of the one that starts a command counts as the command's."""


def _records(units: int) -> Callable[[int], pa.Table]:
    """A function that makes the rows of a step: curves with noise in the fifth digit."""
    random, schema = np.random.default_rng(0), units_schema(pa.float32())
    width = UNITS[units]
    groups = units // width
    of_group = np.repeat(np.arange(groups, dtype=np.int16), width)
    keys = (
        pa.DictionaryArray.from_arrays(np.zeros(units, np.int16), ["rescale"]),
        pa.DictionaryArray.from_arrays(of_group, [f"up{n} -> down{n}" for n in range(groups)]),
        pa.array(np.tile(np.arange(width, dtype=np.int32), groups)),
    )
    start = random.gamma(20, 0.05, units).astype(np.float32)

    def record(step: int) -> pa.Table:
        grown = start * np.float32(1 + 1e-3 * step)
        noise = np.float32(1e-5) * random.standard_normal((len(MEASUREMENTS), units), np.float32)
        values = map(pa.array, grown * (1 + noise))
        steps = pa.array(np.full(units, step, np.int32))
        return pa.Table.from_arrays([steps, *keys, *values], schema=schema)

    return record


@cache  # composing takes a tenth of a second
def _settings() -> dict[str, Any]:
    return compose(["data=synthetic", "model=mlp"]).to_dict()


def _run(folder: Path, units: int, records: int, seed: int = 0) -> RunDirectory:
    """A run that says that it has finished, without records."""
    config = _settings() | {"seed": seed, "precision": "float32"}
    config |= {"train": config["train"] | {"steps": records - 1}}
    config |= {"track": config["track"] | {"every": 1}}
    names = [(f"up{place}", f"down{place}") for place in range(units // UNITS[units])]
    groups = [{"symmetry": "rescale", "group": " -> ".join(pair), "units": UNITS[units],
               "layers": pair}
              for pair in names]  # fmt: skip
    values = {
        "schema": SCHEMA, "status": "finished", "created": "2026-01-31T12:00:00+00:00",
        "last_step": records - 1, "steps_per_epoch": records, "config": config, "device": "cpu",
        "precision": "float32", "layers": [], "groups": groups, "unpredicted": {},
        "dataset": {"title": "made", "synthetic": True, "classes": 10, "image_size": 32},
        "model": {"name": "mlp", "title": "MLP", "family": "MLP"},
    }  # fmt: skip
    run = RunDirectory.create(folder, folder.name)
    run.write_info(info_from(json.loads(json.dumps(values))))
    return run


def _resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    """Bytes of memory that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MEASURES = {one.__name__: one for one in (tracker, writer, check, group, runs)}


def measured(name: str, size: int, folder: Path) -> dict[str, float]:
    """What a measure finds in a process of its own."""
    words = [sys.executable, __file__, "--measure", name, str(size), str(folder)]
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    print(name, size, json.dumps(found), flush=True)
    return found


def everything() -> dict[str, Any]:
    found: dict[str, Any] = {name: {} for name in MEASURES}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/cache"
        for units in list(UNITS)[1:]:
            for name in ("tracker", "writer", "check", "group"):
                found[name][str(units)] = measured(name, units, Path(scratch) / str(units))
        found["runs"] = measured("runs", RUNS, Path(scratch) / "runs")
    return found


def transformer(blocks: int, width: int, relu: bool = False) -> int:
    """The units of a transformer whose MLP is four times as wide as its stream, as the search finds
    them: of rescale 4 width + 1 in all, and those of the MLP if ReLU is there; of translation
    5 width + 2. A few for positions and the last normalisation are left out.

    Example: transformer(20, 2048, relu=True) == 532_520
    """
    return blocks * ((13 if relu else 9) * width + 2)


def page(found: dict[str, Any]) -> str:
    """The page in Markdown."""
    blocks: list[Block] = [Heading("What grows how", 1), Paragraph(INTRODUCTION)]
    blocks += [Heading("Units and records"), _units(found), Paragraph(FLAT)]
    blocks += [Heading("Memory"), Paragraph(MEMORY)]
    blocks += [Heading("A thousand runs"), Paragraph(_thousand(found["runs"]))]
    blocks += [Heading("Large transformers"), Paragraph(LARGE), _transformers(found)]
    blocks += [Paragraph(BEYOND)]
    return as_markdown(blocks)


INTRODUCTION = (
    "Written by `scripts/scaling.py` from `scaling.json`: measured on 2 CPU cores without a GPU, "
    "one thread; times are the processor's. To measure it on another "
    "machine: `OMP_NUM_THREADS=1 python scripts/scaling.py`. Groups have 1,000, 2,500 and 10,000 "
    "units of rescale, a unit has 32 weights, a run 100 records of float32."
)
FLAT = (
    "Time and bytes grow as the number of units times the number of records, and no faster. "
    "*Tracker* is SGD without momentum with a learning rate that changes at every update; its sums "
    "read each weight and its gradient once. *Writer* compresses what it is handed. *Check* holds "
    "every law against every unit, one group at a time; *one group* is what a figure of one layer "
    "reads. A row group costs half a millisecond to write and a millisecond to read, so that small "
    "groups share one of 4,096 rows or more, and thousands of small groups cost more than this."
)
MEMORY = (
    "The tracker holds some float64 numbers a unit: the laws' state, 3 (6 with momentum), their "
    "inputs, 2 (4), and the index of each. Records that wait for the disk hold 7 float32 numbers a "
    "unit and take at most 256 MiB together, or one record if it is larger; then training waits, "
    "and says so. The writer gathers rows for 10 seconds or up to 8,000,000, of 40 bytes each: 320 "
    "MB, or one record if it is larger. Readers hold one group of one run: records × units of the "
    "group × 8 bytes for each column and law. `symrun.open_run(...).units()` without a group holds "
    "all rows, 40 bytes each."
)
LARGE = (
    "Computed from the table above, not measured. symrun's `gpt`, and any transformer of its form, "
    "has in each block of width d rescale units in front of and within attention and in front of "
    "the MLP, 4d together, translation units of what is written to the stream, 5d + 2, and with "
    "ReLU in place of GELU 4d more: units = blocks × (9d + 2), or blocks × (13d + 2). The number "
    "of heads does not matter, since each dimension of a head is a unit. Units grow as the square "
    "root of the parameters at a given depth, so that a record shrinks beside a checkpoint."
)
BEYOND = (
    "The columns: *tracker* = units × bytes a unit; *a record* = units × bytes a unit on the disk; "
    "*1,000 records* are such as 100,000 updates at `track.every=100` make; *writer* = units "
    "× ns of the writer, in a thread of its own. The sums read all weights and gradients at every "
    "update, also at those without a record: 2 × 4 bytes a parameter, 8 GB and 800 GB, which a GPU "
    "with 3 TB/s reads in 3 ms and 0.3 s. No single GPU holds 10¹¹ parameters. "
    "The search takes about 0.1 ms a unit, once: with 10⁷ units, a quarter of an hour."
)


def _units(found: dict[str, Any]) -> Table:
    head = ["units", "tracker: ns a unit and update", "more for a record", "bytes a unit"]
    head += ["writer: ns a unit and record", "bytes on disk", "memory, MiB"]
    head += ["check: ns a unit and record", "seconds", "memory, MiB", "one group: seconds"]
    lines = []
    for units in list(UNITS)[1:]:
        one = {name: found[name][str(units)] for name in ("tracker", "writer", "check", "group")}
        lines.append(
            [f"{units:,}"]
            + [f"{one['tracker'][key]:,.0f}" for key in ("update_ns", "record_ns", "bytes")]
            + [f"{one['writer']['ns']:,.0f}", f"{one['writer']['bytes']:.1f}"]
            + [f"{one['writer']['memory'] / 2**20:,.0f}", f"{one['check']['ns']:,.0f}"]
            + [f"{one['check']['seconds']:.1f}", f"{one['check']['memory'] / 2**20:,.0f}"]
            + [f"{one['group']['seconds']:.2f}"]
        )
    return Table(head, lines)


def _thousand(one: dict[str, float]) -> str:
    return (
        f"{RUNS:,} runs of a group and three records each, whole commands by the clock: `symrun "
        f"collect` {one['first']:.1f} s, {one['again']:.1f} s when nothing changed; then `symrun "
        f"runs` {one['list']:.1f} s. The largest process took {one['memory'] / 2**20:,.0f} MiB."
    )


def _transformers(found: dict[str, Any]) -> Table:
    largest = str(max(UNITS))
    tracked, written = found["tracker"][largest], found["writer"][largest]
    head = ["parameters", "blocks, width", "MLP", "units", "tracker", "a record", "1,000 records"]
    lines = []
    for name, (blocks, width) in TRANSFORMERS.items():
        for relu in (False, True):
            units = transformer(blocks, width, relu)
            size = units * written["bytes"]
            lines.append(
                [name, f"{blocks}, {width:,}", "ReLU" if relu else "GELU", f"{units:,}"]
                + [f"{units * tracked['bytes'] / 1e9:.2f} GB", f"{size / 1e6:,.0f} MB"]
                + [f"{size / 1e6:,.0f} GB", f"{units * written['ns'] / 1e9:.2f} s"]
            )
    return Table([*head, "writer, a record"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "SIZE", "FOLDER"))
    options = parser.parse_args()
    if options.measure:
        name, size, folder = options.measure
        print(json.dumps(MEASURES[name](int(size), Path(folder))))
        return 0
    store = DOCS / "scaling.json"
    found = json.loads(store.read_text(encoding="utf-8")) if options.page else everything()
    write_text(store, json.dumps(found, indent=1) + "\n")
    write_text(DOCS / "scaling.md", page(found))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("scaling", main))
