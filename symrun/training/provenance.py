"""What run.json says of a run: enough to read its tables, to draw its figures, to repeat it."""

import ast
import contextlib
import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import symrun
from symrun import ranks
from symrun.data import Dataset, ImageDataset
from symrun.errors import in_one_line
from symrun.models import MODELS, entry_of
from symrun.runs.info import DatasetInfo, HardwareInfo, LossInfo, RunInfo, Status
from symrun.runs.network import GroupInfo, LayerInfo, ModelInfo
from symrun.runs.settings import RecordedConfig
from symrun.tasks import TASKS
from symrun.training.device import device_title
from symrun.training.setup import Training

_PACKAGES = ("torch", "numpy", "pyarrow", "pillow", "hydra-core")


def describe(training: Training, dataset: Dataset) -> RunInfo:
    """The content of run.json at the start of a run."""
    plan, structure = training.plan, training.structure
    config, device, model = plan.config, plan.device, plan.config.model
    task = TASKS[config.task.name]
    return RunInfo(
        status=Status.running,
        created=datetime.now().astimezone().isoformat(),
        last_step=0,
        steps_per_epoch=training.batches.steps_per_epoch,
        config=RecordedConfig.of(config.to_dict()),
        **describe_machine(device),
        precision=config.precision,
        dataset=describe_dataset(dataset),
        model=ModelInfo(
            model.name,
            *MODELS[entry_of(model.name)].titles(model),
            width=model.relative_width,
            parameters=sum(parameter.numel() for parameter in training.model.parameters()),
        ),
        loss=LossInfo(task.title, *task.chance(dataset.classes)),
        layers=tuple(LayerInfo(layer.name, layer.kind, layer.block) for layer in structure.layers),
        groups=tuple(map(GroupInfo.of, structure.groups)),
        unpredicted=plan.unpredicted,
        columns=training.columns,
        ranks=ranks.count(),
    )


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What run.json says of the machine and of the code, by field of RunInfo."""
    used = ("torchvision",) if "torchvision" in sys.modules else ()  # by the network
    return {
        "versions": {
            "symrun": symrun.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in (*_PACKAGES, *used)},
            **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
        },
        "revision": source_revision(),
        "source": source_digest(),
        "threads": torch.get_num_threads(),
        "device": device_title(device),
        "hardware": HardwareInfo(processor()),
        "cudnn_benchmark": device.type == "cuda" and torch.backends.cudnn.benchmark,
    }


def describe_dataset(dataset: Dataset) -> DatasetInfo:
    """What run.json says of the data."""
    images = isinstance(dataset, ImageDataset)
    return DatasetInfo(
        dataset.title,
        dataset.synthetic,
        dataset.classes,
        image_size=dataset.shape[-1] if images else None,
        train_images=len(dataset.train.labels),
        val_images=len(dataset.val.labels),
        **({"channels": dataset.shape[0]} if images else {"length": dataset.shape[0]}),
        digest=dataset.digest,
    )


def processor() -> str:
    """The model of the CPU; its architecture where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def source_digest() -> str:
    """A short SHA-256 of the code that computes and records a run: all of `symrun.training`, what
    that imports, and what is imported in turn."""
    root, digest = Path(symrun.__file__).parent, hashlib.sha256()
    training = (f"symrun.training.{path.stem}" for path in (root / "training").glob("*.py"))
    for path in _with_imports(root, training):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _with_imports(root: Path, modules: Iterable[str]) -> list[Path]:
    """The files of these modules of symrun, and of those that they import, in order of path.

    Assumes: absolute imports, as everywhere here. root: where the package lies.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        waiting += [module.rpartition(".")[0]] if "." in module else []
        path = root.joinpath(*module.split(".")[1:])
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in found or not path.exists():
            continue
        found[module] = path
        waiting += _imports(path.read_bytes())
    return sorted(found.values())


@functools.cache  # each member of a sweep asks for all files, which takes half a second
def _imports(source: bytes) -> tuple[str, ...]:
    """The modules of symrun that this source imports, and the names that it takes from them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [name for name in names if name.split(".")[0] == "symrun"]
    return tuple(found)


def changed_code(info: RunInfo) -> list[str]:
    """The differences in code and torch between that run and now, in words."""
    changed = []
    if info.source != source_digest():
        then, now = info.revision, source_revision()
        changed.append(f"symrun's own code (revision {then} then, {now} now)")
    then, now = info.versions.get("torch"), version("torch")
    if then != now:
        changed.append(f"torch {then} -> {now}")
    return changed


def source_revision() -> str:
    """What symrun's own source is: its Git commit, with "-dirty" if something was changed.

    A copy without Git has what SYMRUN_REVISION says, or else the digest of its code; which of the
    two it is stands behind it in brackets.
    """
    root = Path(symrun.__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        # A package installed inside somebody else's repository must not report theirs.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == root.resolve():
            return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    if given := in_one_line(os.environ.get("SYMRUN_REVISION", "").strip()):
        return f"{given:.100} (SYMRUN_REVISION)"
    return f"{source_digest()} (digest of the code)"
