"""CIFAR and MNIST, which torchvision downloads, verifies and reads."""

import hashlib
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from symrun.data.dataset import ImageDataset, Split
from symrun.errors import UsageError, in_one_line, refusal
from symrun.files import complete_or_absent, make_once


@dataclass(frozen=True)
class _Published:
    """kind: torchvision's class. shape: of an image. folder: where torchvision has the files, below
    its root. mean, std: of the training images in [0, 1]."""

    kind: str
    title: str
    classes: int
    shape: tuple[int, int, int]
    folder: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CIFAR, _MNIST = (3, 32, 32), (1, 28, 28)
_SETS = {
    "cifar10": _Published(
        *("CIFAR10", "CIFAR-10", 10, _CIFAR, "cifar-10-batches-py"),
        *((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "cifar100": _Published(
        *("CIFAR100", "CIFAR-100", 100, _CIFAR, "cifar-100-python"),
        *((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ),
    "mnist": _Published("MNIST", "MNIST", 10, _MNIST, "MNIST/raw", (0.1307,), (0.3081,)),
    "fashion_mnist": _Published(
        "FashionMNIST", "Fashion-MNIST", 10, _MNIST, "FashionMNIST/raw", (0.2860,), (0.3530,)
    ),
}


def torchvision_set(name: str, root: Path | None, cache: Path) -> ImageDataset:
    """The data set `name` from `root`, or downloaded once to `cache`; its test images validate.

    Error: UsageError if torchvision is missing, the download fails, or the files are not those.
    """
    one = _SETS[name]
    kind = _kind(name, one)
    where = root or _downloaded(name, one, kind, cache)
    given = f"data.root={in_one_line(where)}" if root else in_one_line(where)
    again = "leave data.root out to download it" if root else "remove the folder, and run again"
    try:
        with warnings.catch_warnings(action="ignore"):  # numpy's, of how old pickles were written
            train, val = (_split(kind(where, train=split)) for split in (True, False))
        for split in (train, val):
            _require_fit(split, one)
    except MemoryError:
        raise
    except Exception as error:  # torchvision meets damage with errors of a dozen types
        reason = in_one_line(str(error).partition(" You can use")[0] or type(error).__name__)
        expected = f"does not hold {one.title} in {one.folder}/ as torchvision has it"
        raise UsageError(f"{given} {expected} ({reason}): {again}") from None
    return ImageDataset(
        title=one.title,
        synthetic=False,
        train=train,
        val=val,
        classes=one.classes,
        mean=one.mean,
        std=one.std,
        digest=_digest(train, val),
    )


def _kind(name: str, one: _Published) -> Any:
    """torchvision's class. Error: UsageError if it cannot be imported."""
    try:
        from torchvision import datasets  # an optional package
    except (ImportError, RuntimeError) as error:  # the second if it was built for another torch
        reason = in_one_line(error)
        failed = f"data={name} needs torchvision, which cannot be imported ({reason})"
        raise UsageError(f"{failed}: pip install torchvision") from None
    return getattr(datasets, one.kind)


def _downloaded(name: str, one: _Published, kind: Any, cache: Path) -> Path:
    """The folder in `cache` that torchvision downloads to, complete or absent.

    Error: UsageError if it cannot be fetched or stored.
    """
    folder = cache / name
    try:
        make_once(folder, name, lambda: _download(kind, folder))
    except (URLError, HTTPException, ConnectionError, TimeoutError, RuntimeError) as error:
        reason = in_one_line(" ".join(str(error).split()) or type(error).__name__)
        remedy = f"run again, or give data.root=DIR with {one.folder}/ in it"
        raise UsageError(f"the download of {one.title} failed ({reason}): {remedy}") from None
    except OSError as error:
        failed = f"{one.title} cannot be stored in data.cache={in_one_line(cache)}"
        raise UsageError(f"{failed}: {refusal(error)}: data.cache=DIR names another") from None
    return folder


def _download(kind: Any, folder: Path) -> None:
    """Keep what the archives hold, which torchvision verified, and not the archives."""
    with complete_or_absent(folder) as draft:
        draft.mkdir()
        with warnings.catch_warnings(action="ignore"):
            kind(draft, download=True)
        for archive in draft.rglob("*.gz"):
            archive.unlink()


def _split(data: Any) -> Split:
    """What torchvision read: [images, height, width], or with the channels last."""
    images = torch.as_tensor(data.data)
    images = images[:, None] if images.ndim == 3 else images.movedim(-1, 1)
    return Split(images.contiguous(), torch.as_tensor(data.targets, dtype=torch.int64))


def _require_fit(split: Split, one: _Published) -> None:
    """Error: ValueError for another shape or other labels."""
    images, labels = split.inputs, split.labels
    if images.dtype != torch.uint8 or images.shape[1:] != one.shape or not len(images):
        raise ValueError(f"images {list(images.shape)}")
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= one.classes:
        raise ValueError(f"{len(labels)} labels that do not fit {len(images)} images")


def _digest(*splits: Split) -> str:
    digest = hashlib.sha256()
    values: list[Tensor] = [each for split in splits for each in (split.inputs, split.labels)]
    for each in values:
        digest.update(each.numpy().data)
    return digest.hexdigest()[:16]
