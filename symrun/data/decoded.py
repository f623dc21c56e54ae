"""The decoded copy of a set of images: made once, kept in the cache, mapped into memory."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symrun.data.dataset import Split
from symrun.data.decoding import all_pixels
from symrun.data.jpeg import Format
from symrun.data.layout import Sample
from symrun.data.source import SPLITS, Source
from symrun.display import bar
from symrun.errors import UsageError, in_one_line, refusal
from symrun.files import complete_or_absent, make_once

# Memory: the pixels whose values are counted at a time.
_PIXELS = 2**24


def decoded_once(
    source: Source,
    folder: Path,
    samples: Callable[[Source], dict[str, list[Sample]]],
    form: Format,
    title: str,
    room: str,
) -> None:
    """Decode the images that `samples` finds into `folder` in the cache, unless it exists.

    folder: <data set>-<key>, where the key tells all that decides the pixels. One lock serves all
    sources of a data set. room: how much of the disk it takes, for messages.

    Error: UsageError if an image or the cache cannot be used.
    """
    data_set = folder.name.partition("-")[0]
    try:
        make_once(folder, data_set, lambda: _decode(source, folder, samples(source), form, title))
    except OSError as error:
        failed = f"data.cache={in_one_line(folder.parent)} cannot be written: {refusal(error)}"
        raise UsageError(f"{failed}: data.cache=DIR names another folder ({room})") from None


def _decode(
    source: Source, folder: Path, found: dict[str, list[Sample]], form: Format, title: str
) -> None:
    """Write <split>_images.npy, uint8 [images, channels, side, side], and <split>_labels.npy."""
    names = [name for split in SPLITS for name, _ in found[split]]
    with (
        complete_or_absent(folder) as draft,
        closing(all_pixels(source, names, form)) as images,
        bar(f"decoding {title}", len(names), " images") as progress,
    ):
        draft.mkdir()
        for split in SPLITS:
            labels = np.array([label for _, label in found[split]], dtype=np.int64)
            np.save(draft / f"{split}_labels.npy", labels)
            shape = (len(labels), *_shape(form))
            # Not through a memory map: a full disk fails a write, but kills a process with a map.
            with open(draft / f"{split}_images.npy", "wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for image in islice(images, len(labels)):
                    file.write(image)
                    progress.update()


def digest(folder: Path) -> str:
    """A digest of the decoded images and labels, the same wherever they came from.

    Error: as `splits`.
    """

    def computed() -> str:
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.npy")):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    return _kept(folder, "digest", computed)[:64]


def mean_and_std(folder: Path, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of the training images in `folder`, in [0, 1], to four digits.

    images: uint8 [images, channels, height, width]. Error: as `splits`.
    """
    kept = _kept(folder, "mean_and_std", lambda: json.dumps(statistics(images)))
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in json.loads(kept))
        if not len(mean) == len(std) == images.shape[1]:
            raise ValueError("mean_and_std is of other channels")
        return mean, std
    except (ValueError, TypeError) as error:
        raise _unreadable(folder, error) from None


def statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of images in [0, 1], to four digits.

    They come from how often each of the 256 values occurs, which no order of sums can change.
    """
    count, channels, height, width = images.shape
    counts = np.zeros((channels, 256), dtype=np.int64)
    step = max(1, _PIXELS // (height * width))
    for first in range(0, count, step):
        for channel, values in enumerate(images[first : first + step].movedim(1, 0)):
            counts[channel] += np.bincount(values.numpy().reshape(-1), minlength=256)
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    std = np.sqrt((share * (value - mean[:, None]) ** 2).sum(1))
    return mean.round(4).tolist(), std.round(4).tolist()


def _kept(folder: Path, name: str, computed: Callable[[], str]) -> str:
    """A line about the images, which is kept beside them, since it means reading all of them."""
    kept = folder / name
    try:
        if kept.exists():
            return in_one_line(kept.read_text()[:500])
        line = computed()
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None
    with suppress(OSError), complete_or_absent(kept) as draft:  # it may be somebody else's folder
        draft.write_text(line)
    return line


def splits(folder: Path, form: Format) -> tuple[Split, Split]:
    """train/ and val/ as `decoded_once` left them, mapped into memory.

    It does not check the pixels, which would mean reading all of them at every start.

    Error: UsageError if anything else is damaged.
    """
    train, val = (_split(folder, split, form) for split in SPLITS)
    # In train/, where no class is empty, the labels count upwards.
    steps = train.labels.diff(prepend=train.labels.new_zeros(1))
    if train.labels[0] != 0 or not ((steps == 0) | (steps == 1)).all():
        raise _damaged(folder, "train")
    if val.labels.min() < 0 or val.labels.max() > train.labels[-1]:
        raise _damaged(folder, "val")
    return train, val


def _shape(form: Format) -> tuple[int, int, int]:
    return form.channels, form.side, form.side


def _split(folder: Path, split: str, form: Format) -> Split:
    try:
        images = _array(folder / f"{split}_images.npy", np.uint8, _shape(form))
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


def _array(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> Tensor:
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
