"""Run folders made of a seeded generator and the analytic laws, for figures to draw."""

import json
from functools import cache
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from symrun.figures import select_runs, selection
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.info import SCHEMA
from symrun.runs.tables import MEASUREMENTS, parameters_schema, units_schema
from symrun.runs.writer import write_part

BLOCKS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
CHANNELS = (64, 128, 256, 512, 512)
PAPER = {"depth": 16, "width": 1.0, "classes": 200, "synthetic": False, "steps": 39_100}
NO_LAW = "the paper's oscillator does not describe Nesterov's look-ahead"


@pytest.fixture
def write_run(tmp_path):
    """A function that writes a run of `run_info(batch_norm, **settings)` below `tmp_path`."""

    def write(batch_norm, name="run", records=12, sample=5, scale=1.0, **settings):
        info = run_info(batch_norm, **settings)
        return make_run(tmp_path / name, info, records, sample, scale)

    return write


@pytest.fixture(scope="session")
def paper():
    """The settings of `write_run` that are the paper's, but for the figure's own weight decay."""
    return PAPER


@pytest.fixture(scope="session")
def overlaps():
    return overlapping_texts


def run_info(
    batch_norm,
    depth=11,
    width=0.125,
    classes=10,
    synthetic=True,
    steps=600,
    last_step=None,
    seed=0,
    run_name="made",
    **optim,
):
    """run.json of a VGG that trained for `last_step` of `steps`."""
    layers, filters, position = [], [], 0
    for block, convolutions in enumerate(BLOCKS[depth]):
        for _ in range(convolutions):
            name = f"features.{position}"
            layers.append({"layer": name, "kind": "convolution", "block": block})
            filters.append(round(CHANNELS[block] * width))
            position += 3 if batch_norm else 2
        position += 1
    names = [layer["layer"] for layer in layers]
    linear = ["classifier.0", "classifier.3", "classifier.6"]
    layers += [{"layer": name, "kind": "linear", "block": None} for name in linear]
    if batch_norm:
        paths = [[name] for name in names]
    else:
        paths = list(zip(names, [*names[1:], linear[0]], strict=True))
    symmetry = "scale" if batch_norm else "rescale"
    groups = [_group(symmetry, path, n) for path, n in zip(paths, filters, strict=True)]
    groups.append(_group("translation", ["classifier.6"], 1) | {"group": "classifier.6.bias"})
    groups.append(_group("translation", ["classifier.6"], round(1024 * width)))
    train_images = 2000 if synthetic else 500 * classes
    still = {"name": "sgd", "weight_decay": 0.0, "schedule": "constant", "momentum": 0.0}
    still |= {"dampening": 0.0, "nesterov": False, "milestones": None, "gamma": None}
    still |= {"warmup": None}
    name = f"vgg{depth}{'_bn' if batch_norm else ''}"
    default = default_config("synthetic" if synthetic else "tiny_imagenet")
    return {
        "created": "2026-01-31T12:00:00+00:00",
        "config": default
        | {
            "model": default["model"] | {"name": name, "width": width},
            "data": default["data"] | ({"classes": classes} if synthetic else {}),
            "run": default["run"] | {"name": run_name},
            "precision": "float32",
            "device": "cpu",
            "seed": seed,
            "optim": {"lr": 0.1} | still | optim,
            "train": default["train"] | {"epochs": 100, "steps": steps, "batch_size": 256},
            "track": default["track"] | {"every": 10, "parameters": 100},
        },
        "status": "finished",
        "device": "cpu",
        "precision": "float32",
        "last_step": steps if last_step is None else last_step,
        "steps_per_epoch": -(-train_images // 256),
        "dataset": {
            "title": "synthetic textures" if synthetic else "Tiny ImageNet",
            "synthetic": synthetic,
            "classes": classes,
            "image_size": 32 if synthetic else 64,
        },
        "model": {
            "name": name,
            "title": f"VGG{depth} {'with' if batch_norm else 'without'} BN",
            "width": width,
        },
        "layers": layers,
        "groups": groups,
        "schema": SCHEMA,
        "unpredicted": {"flow": NO_LAW} if optim.get("nesterov") else {},
    }


@cache  # composing takes a tenth of a second
def default_config(data):
    return compose([f"data={data}"]).to_dict()


def _group(symmetry, layers, units):
    group = " -> ".join(layers)
    return {"symmetry": symmetry, "group": group, "units": units, "layers": list(layers)}


def make_run(folder, info, records, sample, scale=1.0):
    """A run folder with `records` records; `scale` multiplies what the units table measures."""
    random = np.random.default_rng(0)
    run = RunDirectory(folder)
    for table in ("units", "parameters"):
        run.table(table).mkdir(parents=True)
    run.run_json.write_text(json.dumps(info))
    if records == 0:
        return run
    steps = np.linspace(0, info["last_step"] if records > 1 else 0, records).astype(int)
    units, parameters = [], []
    for group in info["groups"]:
        measured, flow = (scale * curve for curve in _curves(random, info, group, steps))
        units.append(_unit_rows(group, steps, measured, None if info["unpredicted"] else flow))
    for layer in info["layers"]:
        fan_out = 9 * CHANNELS[layer["block"] or 0] * info["model"]["width"]
        walk = random.normal(size=(records, sample)).cumsum(axis=0) / records**0.5
        values = (2 / fan_out) ** 0.5 * (random.normal(size=sample) + walk)
        parameters.append(_parameter_rows(layer["layer"], steps, values))
    _write_parts(run.table("units"), pa.concat_tables(units), steps)
    _write_parts(run.table("parameters"), pa.concat_tables(parameters), steps)
    return run


def _curves(random, info, group, steps):
    """One group's measurement and law 1, each [records, units]."""
    optim, units = info["config"]["optim"], group["units"]
    degree = 1 if group["symmetry"] == "translation" else 2
    time = (optim["lr"] * steps)[:, None]
    end = max(optim["lr"] * steps[-1], 1.0)
    rate, rise = degree * optim["weight_decay"], 0.3 * end
    # eta S(t) = growth / rise * e^(-t / rise)
    driven = (np.exp(-rate * time) - np.exp(-time / rise)) / (1 - rate * rise)
    if group["symmetry"] == "scale":
        blocks = [row["block"] for row in info["layers"]]
        place = [row["layer"] for row in info["layers"]].index(group["layers"][0])
        doubles = 0 < place and blocks[place - 1] < blocks[place] < 4
        initial = 0.09 if place == 0 else 1.0 if doubles else 2.0
        start = initial * random.chisquare(200, units) / 200
        growth = 0.4 * random.gamma(8, 1 / 8, units)
    else:
        start = random.normal(0, 0.15, units)
        growth = random.normal(0, 0.3, units) * (degree == 2)
    flow = np.exp(-rate * time) * start + growth * driven
    return flow + 0.01 * growth * np.sin(6 * time / end), flow


def _unit_rows(group, steps, measured, flow):
    records, units = measured.shape
    rows = records * units
    columns = dict.fromkeys(MEASUREMENTS, pa.nulls(rows, pa.float32()))
    columns["measured"] = measured.reshape(-1).astype(np.float32)
    if flow is not None:
        columns["flow"] = flow.reshape(-1).astype(np.float32)
    columns |= {
        "step": np.repeat(steps, units).astype(np.int32),
        "symmetry": _repeated(group["symmetry"], rows),
        "group": _repeated(group["group"], rows),
        "unit": np.tile(np.arange(units, dtype=np.int32), records),
    }
    return pa.table(columns, schema=units_schema(pa.float32()))


def _parameter_rows(layer, steps, values):
    records, sample = values.shape
    columns = {
        "step": np.repeat(steps, sample).astype(np.int32),
        "layer": _repeated(layer, records * sample),
        "index": np.tile(7 * np.arange(sample), records),
        "value": values.reshape(-1).astype(np.float32),
    }
    return pa.table(columns, schema=parameters_schema(pa.float32()))


def _repeated(name, rows):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int16)), pa.array([name]))


def _write_parts(folder, table, steps):
    """Two parts, the earlier records and the later, as a run writes them."""
    late = table["step"].to_numpy() > steps[len(steps) // 2]
    for number, rows in enumerate((~late, late)):
        write_part(folder / f"part-{number:06d}.parquet", table.filter(pa.array(rows)))


def overlapping_texts(figure):
    """Pairs of drawn texts whose boxes cross; a text that leaves the page is paired with it."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    beyond = {  # matplotlib keeps ticks outside the limits, and does not draw them
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    boxes = [
        (text.get_text(), text.get_window_extent(renderer))
        for text in figure.findobj(lambda artist: isinstance(artist, Text))
        if text.get_visible() and text.get_text().strip() and text not in beyond
    ]
    assert len(boxes) > 10, "the texts of the figure were not found"
    page = figure.bbox.padded(1)
    leaving = [
        (text, "the page")
        for text, box in boxes
        if not (page.x0 <= box.x0 <= box.x1 <= page.x1 and page.y0 <= box.y0 <= box.y1 <= page.y1)
    ]
    return leaving + [(a[0], b[0]) for a, b in combinations(boxes, 2) if a[1].overlaps(b[1])]


@pytest.fixture
def select_from(monkeypatch):
    """Which runs a figure draws where none are given and outputs/ holds `runs`, newest first."""

    def select(figure, runs):
        with monkeypatch.context() as patched:
            patched.setattr(selection, "newest_first", lambda folder: runs)
            return select_runs(figure, [])

    return select
