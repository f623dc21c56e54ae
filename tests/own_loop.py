"""Runs made in a loop of the user's own, written by the package's writer without any training."""

import numpy as np
import pyarrow as pa

from symrun.config import Precision
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo, Status
from symrun.runs.network import GroupInfo, LayerInfo, ModelInfo
from symrun.runs.settings import RecordedConfig
from symrun.runs.tables import MEASUREMENTS, PROGRESS_SCHEMA, parameters_schema, units_schema
from symrun.runs.writer import TableWriter
from symrun.symmetry import Symmetry

STEPS, EVERY = 400, 20
ADAMW = "AdamW moves each parameter at a rate of its own, which breaks every symmetry"
RATES = "its parameters have different learning rates, which break the symmetry"
GROUPS = (
    GroupInfo(Symmetry.scale, "conv1", 8, ("conv1",), 27),
    GroupInfo(Symmetry.scale, "conv2", 6, ("conv2",), 72),
    GroupInfo(Symmetry.rescale, "conv3 -> fc", 6, ("conv3", "fc"), 64),
    GroupInfo(Symmetry.translation, "fc", 5, ("fc",), 10),
)
LAYERS = tuple(
    LayerInfo(name, kind, block)
    for name, kind, block in [
        *(("conv1", "convolution", 0), ("conv2", "convolution", 0), ("conv3", "convolution", 1)),
        ("fc", "linear", None),
    ]
)
KINDS = {
    "sgd": {
        "optim": {"title": "SGD", "lr": 0.1, "weight_decay": 0.01, "momentum": 0.0},
        "columns": ("baseline", "steady", "effective_lr", "angle"),
        "scores": {"loss": True},
    },
    "adamw": {
        "optim": {"title": "AdamW", "lr": 0.001, "weight_decay": 0.01, "momentum": 0.0},
        "columns": ("projection", "discretisation"),
        "unpredicted": {"flow": ADAMW, "discrete": ADAMW},
        "scores": {},
    },
    "mixed": {
        "optim": {"title": "SGD", "lr": 0.1, "weight_decay": 0.01, "momentum": 0.9},
        "columns": ("baseline", "steady"),
        "silent": {"conv2": RATES, "conv3 -> fc": RATES},
        "scores": {"loss": True, "top1": True},
    },
}


def own_loop_run(path, kind):
    """A finished run of a kind in KINDS, of `STEPS` updates with a learning rate that falls."""
    settings = KINDS[kind]
    silent = settings.get("silent", {})
    info = RunInfo(
        status=Status.finished,
        created="2026-01-31T12:00:00+00:00",
        last_step=STEPS,
        config=RecordedConfig.of(
            {
                "optim": {"name": "own", **settings["optim"]},
                "track": {"every": EVERY, "parameters": 10},
                "run": {"name": path.name},
            }
        ),
        device="cpu",
        precision=Precision.float32,
        model=ModelInfo("my_network", "MyNetwork", "MyNetwork", parameters=1234),
        layers=LAYERS,
        groups=tuple(
            GroupInfo(**{**vars(group), "unpredicted": silent.get(group.group)}) for group in GROUPS
        ),
        unpredicted=settings.get("unpredicted", {}),
        versions={"symrun": "0.1.0", "torch": "2.9"},
        loop="tracked in a loop of one's own",
        columns=settings["columns"],
    )
    run = RunDirectory.create(path, path.name)
    run.write_info(info)
    random = np.random.default_rng(0)
    with TableWriter(run) as writer:
        curves = [_curves(random, info, group) for group in info.groups]
        walk = random.normal(size=(STEPS + 1, len(LAYERS) * 10)).cumsum(axis=0)
        for step in range(0, STEPS + 1, EVERY):
            rows = pa.concat_tables(
                units_rows(info, one, step) for one in zip(info.groups, curves, strict=True)
            )
            writer.put("units", lambda rows=rows: rows)
            parameters = _parameters(step, walk[step])
            writer.put("parameters", lambda rows=parameters: rows)
            if settings["scores"] and step:
                scored = _scores(step, settings["scores"])
                writer.put("progress", lambda rows=scored: rows)
    return run


def _curves(random, info, group):
    """Column -> [STEPS + 1, units]: SGD's own recursion with forces that fall as it trains."""
    degree, units, optim = group.symmetry.degree, group.units, info.config.optim
    rates = optim.lr * np.linspace(1, 0.1, STEPS)
    measured = [random.gamma(20, 0.05, units) if degree == 2 else random.normal(0, 1, units)]
    baseline, steady = measured[:], [np.zeros(units)]
    force = random.gamma(3, 1, units) * (degree == 2)
    for step, rate in enumerate(rates):
        kept = (1 - rate * optim.weight_decay) ** degree
        pushed = rate**2 * force * np.exp(-step / 150)
        measured.append(kept * measured[-1] + pushed)
        baseline.append(kept * baseline[-1])
        steady.append(kept * steady[-1] + rate**2)
    measured, baseline, steady = map(np.array, (measured, baseline, steady))
    off = 1e-3 * np.sin(np.arange(STEPS + 1) / 40)[:, None] * np.abs(measured - baseline)
    silent = info.silent(group)
    curves = {
        "measured": measured,
        "magnitude": np.abs(measured) + 1,
        "grad_norm_sq": force + np.exp(-np.arange(STEPS + 1) / 150)[:, None],
        "defect": 1e-9 * measured,
        "exact": measured * (1 + 1e-8),
        "projection": 0.1 * measured,
        "discretisation": 0.01 * measured,
        "effective_lr": np.append(rates, rates[-1])[:, None] / measured,
        "angle": 0.01 / measured,
    }
    if "flow" not in silent:
        curves |= {"flow": measured + off, "discrete": measured + off / 10}
        curves |= {"baseline": baseline, "steady": steady}
    return curves


def units_rows(info, of_group, step):
    group, curves = of_group
    """Records of a group at one step, from the curves of its columns, [STEPS + 1, units] each."""
    value = pa.float64() if info.precision is Precision.float64 else pa.float32()
    schema = units_schema(value, info.columns)
    columns = {
        "step": np.full(group.units, step, np.int32),
        "symmetry": _repeated(group.symmetry.value, group.units),
        "group": _repeated(group.group, group.units),
        "unit": np.arange(group.units, dtype=np.int32),
    }
    last = ("grad_norm_sq", "defect", "projection", "discretisation", "angle")
    for name in (*MEASUREMENTS, *info.columns):
        known = name in curves and not (step == STEPS and name in last)
        columns[name] = pa.nulls(group.units, value)
        if known:
            columns[name] = pa.array(curves[name][step], pa.float64()).cast(value, safe=False)
    return pa.table(columns, schema=schema)


def _parameters(step, values):
    layers = pa.array(np.repeat(np.arange(len(LAYERS), dtype=np.int16), 10))
    columns = {
        "step": np.full(len(values), step, np.int32),
        "layer": pa.DictionaryArray.from_arrays(layers, [layer.layer for layer in LAYERS]),
        "index": np.tile(np.arange(10), len(LAYERS)),
        "value": values.astype(np.float32),
    }
    return pa.table(columns, schema=parameters_schema(pa.float32()))


def _scores(step, known):
    row = {"step": step, "split": "train", "lr": 0.1}
    row |= {"loss": 2.0 / (1 + step / 100)} if "loss" in known else {}
    row |= {"top1": step / 500} if "top1" in known else {}
    return pa.Table.from_pylist([row], schema=PROGRESS_SCHEMA)


def _repeated(name, rows):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int16)), pa.array([name]))
