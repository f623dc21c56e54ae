"""Tiny ImageNet: 64x64 photographs of 200 classes, or of some of them, decoded once.

Source: Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS231n).
"""

import hashlib
import math
import warnings
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from symrun.data.dataset import Dataset, Split
from symrun.data.decoding import all_pixels
from symrun.data.download import download
from symrun.data.jpeg import SIDE
from symrun.data.layout import samples, say_what_is_left_out
from symrun.data.source import SPLITS, Source, open_source
from symrun.display import bar
from symrun.errors import UsageError, in_one_line, refusal
from symrun.files import complete_or_absent, locked, sweep_drafts

IMAGE_SHAPE = (3, SIDE, SIDE)


def tiny_imagenet(root: Path | None, cache: Path) -> Dataset:
    """The data set from `root`, or downloaded, by way of its decoded copy in `cache`.

    Labels number the classes found in train/ in the order of their names. The images stay on the
    disk, mapped into memory.

    Error: UsageError naming the file that is missing or damaged, or the setting to change.
    """
    with open_source(root or download(cache)) as source:
        say_what_is_left_out(source)
        decoded = cache / f"tiny_imagenet-{source.key}"
        try:
            if not decoded.exists():
                _decode_once(source, decoded)
        except OSError as error:
            failed = f"data.cache={in_one_line(cache)} cannot be written: {refusal(error)}"
            remedy = "data.cache=DIR names another folder (1.4 GB for 200 classes)"
            raise UsageError(f"{failed}: {remedy}") from None
    train, val = _splits(decoded)
    return Dataset(
        title="Tiny ImageNet",
        synthetic=False,
        train=train,
        val=val,
        classes=int(train.labels.max()) + 1,
        mean=(0.480, 0.448, 0.397),
        std=(0.276, 0.269, 0.282),
        crop_padding=4,
        flip=True,
        digest=_digest(decoded),
    )


def _decode_once(source: Source, folder: Path) -> None:
    """Decode the images, unless another process has done so by the time of the lock."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # One lock serves all sources, so every draft that its holder finds is from a killed process.
    with locked(folder.parent / ".tiny_imagenet.lock", wait=True):
        if not folder.exists():
            sweep_drafts(folder.parent, "tiny_imagenet-*")
            _decode(source, folder)


def _decode(source: Source, folder: Path) -> None:
    """Write <split>_images.npy, uint8 [images, 3, 64, 64], and <split>_labels.npy, int64."""
    found = samples(source)
    names = [name for split in SPLITS for name, _ in found[split]]
    with (
        complete_or_absent(folder) as draft,
        closing(all_pixels(source, names)) as images,
        bar("decoding Tiny ImageNet", len(names), " images") as progress,
    ):
        draft.mkdir()
        for split in SPLITS:
            labels = np.array([label for _, label in found[split]], dtype=np.int64)
            np.save(draft / f"{split}_labels.npy", labels)
            shape = (len(labels), *IMAGE_SHAPE)
            # Not through a memory map: a full disk fails a write, but kills a process with a map.
            with open(draft / f"{split}_images.npy", "wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for image in islice(images, len(labels)):
                    file.write(image)
                    progress.update()


def _digest(folder: Path) -> str:
    """A digest of the decoded images and labels, the same wherever they came from.

    It is kept in the folder, since computing it means reading 1.4 GB. Error: as `_splits`.
    """
    kept = folder / "digest"
    try:
        if kept.exists():
            return in_one_line(kept.read_text()[:64])
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.npy")):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    with suppress(OSError), complete_or_absent(kept) as draft:  # it may be somebody else's folder
        draft.write_text(digest.hexdigest()[:16])
    return digest.hexdigest()[:16]


def _splits(folder: Path) -> tuple[Split, Split]:
    """train/ and val/ as `_decode` left them.

    It does not check the pixels, which would mean reading 1.4 GB at every start.

    Error: UsageError if anything else is damaged.
    """
    train, val = (_split(folder, split) for split in SPLITS)
    # In train/, where no class is empty, the labels count upwards.
    steps = train.labels.diff(prepend=train.labels.new_zeros(1))
    if train.labels[0] != 0 or not ((steps == 0) | (steps == 1)).all():
        raise _damaged(folder, "train")
    if val.labels.min() < 0 or val.labels.max() > train.labels[-1]:
        raise _damaged(folder, "val")
    return train, val


def _split(folder: Path, split: str) -> Split:
    try:
        images = _array(folder / f"{split}_images.npy", np.uint8, IMAGE_SHAPE)
        labels = _array(folder / f"{split}_labels.npy", np.int64, ())
    except OSError as error:
        raise _unreadable(folder, error) from None
    except MemoryError:
        raise
    except Exception:  # numpy meets damage with errors of some types
        raise _damaged(folder, split) from None
    if len(images) != len(labels):
        raise _damaged(folder, split)
    return Split(images, labels)


def _array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> torch.Tensor:
    """The array [images, *shape] in a .npy file, mapped into memory.

    It accepts only what `_decode` writes: no objects, which unpickling would run, and no headers of
    version 2, which may claim any length.

    Error: ValueError and others for any other content.
    """
    # numpy warns of headers that it could mend.
    with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the header")
        claimed, fortran_order, found = np.lib.format.read_array_header_1_0(file)
        offset = file.tell()
    if claimed[1:] != shape or fortran_order or found != dtype or claimed[0] < 1:
        raise ValueError("another kind of array")
    if path.stat().st_size != offset + math.prod(claimed) * found.itemsize:
        raise ValueError("too short or too long")
    # Copy on write, since torch wants an array that it may write to.
    return torch.from_numpy(np.memmap(path, dtype, "c", offset, claimed))


def _unreadable(folder: Path, error: Exception) -> UsageError:
    remedy = "remove the folder, and the images are decoded again"
    return UsageError(f"{in_one_line(folder)} cannot be read: {in_one_line(error)}: {remedy}")


def _damaged(folder: Path, split: str) -> UsageError:
    remedy = "remove it, and the images are decoded again"
    return UsageError(f"{in_one_line(folder)} holds damaged {split} images: {remedy}")
