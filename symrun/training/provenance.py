"""What run.json says of a run: enough to read its tables, to draw its figures, to repeat it."""

import contextlib
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import symrun
from symrun.config import Config
from symrun.data import Dataset
from symrun.errors import in_one_line
from symrun.runs.info import (
    DatasetInfo,
    GroupInfo,
    HardwareInfo,
    LayerInfo,
    ModelInfo,
    RunInfo,
    Status,
)
from symrun.runs.settings import RecordedConfig
from symrun.symmetry import Structure
from symrun.training.precision import device_title

_COMPUTES = (
    *("config", "typed", "schedule", "symmetry", "laws", "models", "data", "tracking", "training"),
)
_PACKAGES = ("torch", "numpy", "pyarrow", "pillow", "hydra-core")


def describe(
    config: Config,
    dataset: Dataset,
    model: nn.Module,
    structure: Structure,
    device: torch.device,
    steps_per_epoch: int,
    unpredicted: Mapping[str, str],
) -> RunInfo:
    """The content of run.json at the start of a run. unpredicted: why a law is silent in it."""
    name = config.model.name
    depth, _, norm = name.removeprefix("vgg").partition("_")
    return RunInfo(
        status=Status.running,
        created=datetime.now().astimezone().isoformat(),
        last_step=0,
        steps_per_epoch=steps_per_epoch,
        config=RecordedConfig.of(config.to_dict()),
        versions={
            "symrun": symrun.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
            **({"cuda": str(torch.version.cuda)} if device.type == "cuda" else {}),
        },
        revision=source_revision(),
        source=source_digest(),
        threads=torch.get_num_threads(),
        device=device_title(device),
        hardware=HardwareInfo(processor()),
        precision=config.precision,
        cudnn_benchmark=device.type == "cuda" and torch.backends.cudnn.benchmark,
        dataset=DatasetInfo(
            dataset.title,
            dataset.synthetic,
            dataset.classes,
            dataset.image_size,
            train_images=len(dataset.train.labels),
            val_images=len(dataset.val.labels),
        ),
        model=ModelInfo(
            name,
            title=f"VGG{depth} with BN" if norm else f"VGG{depth} without BN",
            family=f"VGG{depth}",
            width=config.model.width,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        ),
        layers=tuple(LayerInfo(layer.name, layer.kind, layer.block) for layer in structure.layers),
        groups=tuple(
            GroupInfo(group.symmetry, group.name, group.units, group.layers, group.entries)
            for group in structure.groups
        ),
        unpredicted=unpredicted,
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
    """Of the code that has a part in what a run computes and records, SHA-256 in short."""
    root = Path(symrun.__file__).parent
    digest = hashlib.sha256()
    for part in _COMPUTES:
        for path in sorted((root / part).rglob("*.py")) or [root / f"{part}.py"]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def changed_code(info: RunInfo) -> list[str]:
    """What computes something else now than in the run of this run.json; empty if nothing does."""
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
