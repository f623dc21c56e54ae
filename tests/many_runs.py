"""Small run folders made as symrun makes them, each with settings and values of its own."""

import copy
import dataclasses

import numpy as np
import pyarrow as pa

from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.info import SCHEMA, Status
from symrun.runs.network import GroupInfo
from symrun.runs.run_json import info_from
from symrun.runs.tables import MEASUREMENTS, PROGRESS_SCHEMA, units_schema
from symrun.runs.writer import TableWriter
from symrun.symmetry import Symmetry

STEPS, EVERY = 20, 10
GROUPS = (
    GroupInfo(Symmetry.scale, "features.0", 6, ("features.0",), 28),
    GroupInfo(Symmetry.rescale, "features.3 -> features.6", 4, ("features.3", "features.6"), 90),
    GroupInfo(Symmetry.translation, "classifier", 5, ("classifier",), 10),
)
_SCHEMA = units_schema(pa.float32())


def make_runs(folder, count, records=3):
    """`count` runs in `folder`, with `records` records of the groups GROUPS, in pairs of equal
    learning rate."""
    config = compose(["data=synthetic", "model=vgg11_bn"]).to_dict()
    return [_make_run(folder / f"{place:04d}", config, place, records) for place in range(count)]


def _make_run(path, config, place, records):
    run = RunDirectory.create(path, path.name)
    run.write_info(_info(config, place))
    random = np.random.default_rng(place)
    starts = [random.gamma(20, 0.05, group.units) for group in GROUPS]
    with TableWriter(run) as writer:
        for step in range(0, records * EVERY, EVERY):
            rows = _units(random, starts, step)
            writer.put("units", lambda rows=rows: rows)
            row = {
                "step": step,
                "epoch": 1,
                "split": "val",
                "loss": 2 + random.normal(),
                "top1": 0.5,
            }
            scores = pa.Table.from_pylist([row], schema=PROGRESS_SCHEMA)
            writer.put("progress", lambda scores=scores: scores)
    return run


def _info(config, place):
    config = copy.deepcopy(config)
    config["optim"] |= {"lr": 0.1 / (1 + place // 2), "weight_decay": 1e-4 * place}
    config["train"] |= {"steps": STEPS, "batch_size": 64}
    config["track"] |= {"every": EVERY}
    config |= {"seed": place, "precision": "float32"}
    layers = [
        {"layer": name, "kind": "linear", "block": None}
        for group in GROUPS
        for name in group.layers
    ]
    groups = [{**dataclasses.asdict(group), "symmetry": group.symmetry.value} for group in GROUPS]
    return info_from(
        {
            "schema": SCHEMA,
            "status": Status.finished.value,
            "created": f"2026-01-31T12:{place // 60 % 60:02d}:{place % 60:02d}+00:00",
            "last_step": STEPS,
            "steps_per_epoch": STEPS,
            "config": config,
            "device": "cpu",
            "precision": "float32",
            "dataset": {"title": "textures", "synthetic": True, "classes": 10, "image_size": 32},
            "model": {"name": "vgg11_bn", "title": "VGG11 with BN", "family": "VGG11", "width": 1},
            "layers": layers,
            "groups": groups,
            "unpredicted": {},
            "seconds": 1.5 + place,
        }
    )


def _units(random, starts, step):
    tables = []
    for group, start in zip(GROUPS, starts, strict=True):
        values = start * np.exp(-step / 100) + 1e-3 * step * random.random(group.units)
        columns = {
            name: values * (1 + 1e-6 * random.normal(size=group.units)) for name in MEASUREMENTS
        }
        columns |= {"measured": values, "magnitude": np.abs(values) + 1}
        columns = {name: column.astype(np.float32) for name, column in columns.items()}
        columns |= {
            "step": np.full(group.units, step, np.int32),
            "symmetry": _repeated(group.symmetry.value, group.units),
            "group": _repeated(group.group, group.units),
            "unit": np.arange(group.units, dtype=np.int32),
        }
        tables.append(pa.table(columns, schema=_SCHEMA))
    return pa.concat_tables(tables)


def _repeated(name, rows):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int16)), pa.array([name]))
