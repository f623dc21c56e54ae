"""A run whose heads, products of two matrices, were fitted by SGD in numpy, not tracked by symrun.

It also has a group of homogeneity, and one of rescale without matrices.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from own_loop import units_rows

from symrun.config import Precision
from symrun.runs.directory import RunDirectory
from symrun.runs.info import RunInfo, Status
from symrun.runs.network import GroupInfo, LayerInfo, ModelInfo
from symrun.runs.settings import RecordedConfig
from symrun.runs.tables import parameters_schema
from symrun.runs.writer import TableWriter
from symrun.symmetry import Symmetry

STEPS, EVERY, RATE, DECAY = 200, 10, 0.05, 0.01
HEADS, SIZE, WIDTH = 2, 4, 7
BLOCKS = ((0, 1, 2, 3), (4, 5, 6, 7))
EVERY_PAIR = tuple((a, b) for block in BLOCKS for a in block for b in block if a < b)
SAMPLE = ((0, 1), (0, 3), (1, 2), (2, 3), (4, 5), (4, 7), (5, 6), (5, 7))
OFF = 1e-3
"""The law `flow` is off by so much of the motion."""
_BLOCKED = "q -> k"
GROUPS = {
    "rescale": GroupInfo(Symmetry.rescale, _BLOCKED, 8, ("q", "k"), 2 * WIDTH, blocks=BLOCKS),
    "plain": GroupInfo(Symmetry.rescale, "up -> down", 3, ("up", "down"), 20),
    "homogeneity": GroupInfo(Symmetry.homogeneity, "outputs", 1, ("q", "k"), 16 * WIDTH),
    "full": GroupInfo(Symmetry.general_linear, _BLOCKED, 12, ("q", "k"), 4 * WIDTH, blocks=BLOCKS),
    "sample": GroupInfo(
        *(Symmetry.general_linear, _BLOCKED, 8, ("q", "k"), 4 * WIDTH),
        blocks=BLOCKS,
        pairs=SAMPLE,
    ),
}


def fitted(seed=0):
    """The weights q and k and their gradients, at each step: [STEPS + 1, heads, size, width]."""
    random = np.random.default_rng(seed)
    q, k = random.normal(0, 0.5, (2, HEADS, SIZE, WIDTH))
    target = random.normal(0, 1, (HEADS, WIDTH, WIDTH))
    path = []
    for _ in range(STEPS + 1):
        error = q.swapaxes(1, 2) @ k - target
        gradients = k @ error.swapaxes(1, 2), q @ error
        path.append((q, k, *gradients))
        q, k = (
            (1 - RATE * DECAY) * one - RATE * gradient
            for one, gradient in zip((q, k), gradients, strict=True)
        )
    return [np.array(one) for one in zip(*path, strict=True)]


def matrices(q, k):
    """[..., heads, size, width] of both -> what is conserved, [..., heads, size, size]."""
    return q @ q.swapaxes(-1, -2) - k @ k.swapaxes(-1, -2)


def heads_run(path, entries="full", silent=None, names=(_BLOCKED,)):
    """A finished run. entries: "diagonal", "sample" or "full". silent: why no law predicts it.
    names: of groups of heads, all with the same weights."""
    groups = [replace(GROUPS["rescale"], group=name) for name in names]
    groups += [GROUPS["plain"], GROUPS["homogeneity"]]
    if entries != "diagonal":
        groups += [replace(GROUPS[entries], group=name) for name in names]
    layers = [LayerInfo(name, "linear", None) for name in ("q", "k", "up", "down")]
    optim = {"name": "own", "title": "SGD", "lr": RATE, "weight_decay": DECAY, "momentum": 0.0}
    info = RunInfo(
        status=Status.finished,
        created="2026-01-31T12:00:00+00:00",
        last_step=STEPS,
        config=RecordedConfig.of(
            {
                "optim": optim,
                "track": {"every": EVERY, "parameters": 0},
                "run": {"name": path.name},
            }
        ),
        device="cpu",
        precision=Precision.float64,
        model=ModelInfo("heads", "Heads", "Heads", parameters=2 * HEADS * SIZE * WIDTH),
        layers=tuple(layers),
        groups=tuple(replace(group, unpredicted=silent) for group in groups),
        unpredicted={},
        versions={"symrun": "0.2.0", "torch": "2.9"},
        loop="tracked in a loop of one's own",
        columns=("baseline", "steady"),
    )
    run = RunDirectory.create(path, path.name)
    run.write_info(info)
    curves = [_curves(group, info) for group in info.groups]
    with TableWriter(run) as writer:
        for step in range(0, STEPS + 1, EVERY):
            of_step = zip(info.groups, curves, strict=True)
            rows = pa.concat_tables(units_rows(info, one, step) for one in of_step)
            writer.put("units", lambda rows=rows: rows)
            writer.put("parameters", parameters_schema(pa.float64()).empty_table)
    return run


def _curves(group, info):
    """Column -> [STEPS + 1, units]."""
    q, k, of_q, of_k = fitted()
    if group.symmetry is Symmetry.homogeneity or not group.blocks:
        measured = np.square(q).sum(axis=(1, 2, 3))[:, None] + np.arange(group.units)
        forces, magnitude = np.zeros_like(measured), measured + 1
    else:
        pairs = group.matrix_entries if group.symmetry is Symmetry.general_linear else None
        places = [(unit, unit) for unit in range(group.units)] if pairs is None else pairs
        measured, forces = (_entries(matrices(*one), places) for one in ((q, k), (of_q, of_k)))
        sizes = q @ q.swapaxes(-1, -2) + k @ k.swapaxes(-1, -2)
        first, second = (_entries(sizes, [(one[i], one[i]) for one in places]) for i in (0, 1))
        magnitude = (first + second) / 2
    discrete, steady = [measured[0]], [np.zeros(group.units)]
    baseline = measured[0] * (1 - RATE * DECAY) ** (2 * np.arange(STEPS + 1))[:, None]
    for force in forces[:-1]:
        discrete.append((1 - RATE * DECAY) ** 2 * discrete[-1] + RATE**2 * force)
        steady.append((1 - RATE * DECAY) ** 2 * steady[-1] + RATE**2)
    discrete = np.array(discrete) if forces.any() else measured
    curves = {
        "measured": measured,
        "magnitude": magnitude,
        "exact": measured,
        "grad_norm_sq": magnitude,
        "defect": 0 * measured,
        "baseline": baseline,
        "steady": np.array(steady),
    }
    if info.silent(group).get("flow") is None:
        curves |= {"discrete": discrete, "flow": discrete + OFF * (discrete - baseline)}
    return curves


def _entries(of_heads, places):
    """[steps, heads, size, size] -> [steps, entries], for places among the units of all heads."""
    return np.stack(
        [of_heads[:, a // SIZE, a % SIZE, b % SIZE] for a, b in places],
        axis=1,
    )
