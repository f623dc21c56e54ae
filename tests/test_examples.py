"""The examples in docstrings run as they stand, beside names that speak for themselves."""

import ast
import contextlib
import importlib
import inspect
import math
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import symrun
from symrun.config import Config
from symrun.data import Batches, load
from symrun.data.source import open_source
from symrun.launch import compose
from symrun.laws import SGD
from symrun.runs.directory import RunDirectory
from symrun.runs.info import Status
from symrun.runs.writer import TableWriter
from symrun.symmetry import find_structure
from symrun.tracking import Tracker
from symrun.training.lifecycle import train
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import prepare

ROOT = Path(symrun.__file__).parent
SMALL = ["model=vgg11_bn", "model.width=0.0625", "data=synthetic", "device=cpu"]
SMALL += ["data.train_images=40", "data.val_images=20", "train.batch_size=16", "track.every=1"]


def examples():
    """Of every docstring, the lines behind "Example:", by module and line."""
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(("symrun", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            docstring = ast.get_docstring(node) or ""
            found = re.search(r"^Example:(?: (.+)|\n((?: {4}.*\n?|\n)+))", docstring, re.M)
            if found:
                code = found[1] or textwrap.dedent(found[2])
                slow = [pytest.mark.slow] if module.startswith("symrun.bench.") else []
                name = f"{module}.{getattr(node, 'name', '')}"
                yield pytest.param(module, code, id=name, marks=slow)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    return RunDirectory.open(train(compose([*SMALL, "train.steps=4", f"run.dir={folder}/run"])))


def names(run, folder, source, new, stopped):
    """What examples take as given."""
    config = compose([*SMALL, "train.steps=4"])
    dataset, plan = load(config.data), Plan.of(config)
    training = prepare(plan, dataset)
    model, optimizer, structure = training.model, training.optimizer, training.structure
    images, labels = next(training.batches.epoch(1))
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    return {
        **{name: value for name, value in locals().items() if name != "folder"},
        "batches": list(training.batches.epoch(1)),
        "closing": contextlib.closing,
        "names": ["train/a/images/a_0.JPEG"],
        "SGD": SGD,
        **{"Batches": Batches, "Config": Config, "Path": Path, "RunDirectory": RunDirectory},
        **{"Scores": Scores, "TableWriter": TableWriter, "Tracker": Tracker, "compose": compose},
        **{"find_structure": find_structure, "load": load, "math": math, "np": np, "torch": torch},
        "laws": plan.laws,
        "optim": config.optim,
        "run": RunDirectory.create(folder / "new", "") if new else run,
        "source": source,
        "symrun": symrun,
        "plt": plt,
        "stopped": stopped,
    }


@pytest.mark.parametrize(("module", "code"), list(examples()))
def test_an_example_runs(module, code, small_run, tmp_path, monkeypatch):
    """One that ends in a comparison holds; one that ends in an iterator is read to its end."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(small_run.path, "outputs/mine")
    loaded = importlib.import_module(module)
    here = {name: value for name, value in inspect.getmembers(loaded) if not name.startswith("__")}
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    new = "TableWriter(run)" in code
    stopped = RunDirectory.open("outputs/mine")
    if "stopped" in code:
        stopped.write_info(replace(stopped.info(), status=Status.interrupted))
    Path("train/a/images").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save("train/a/images/a_0.JPEG", "JPEG")
    with open_source(tmp_path) as source:
        given = names(small_run, tmp_path, source, new, stopped)
        scope, name = given | here, f"<example in {module}>"
        exec(compile(tree, name, "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), scope)
            assert value is True or not isinstance(last.value, ast.Compare)
            if isinstance(value, Iterator):
                list(value)
