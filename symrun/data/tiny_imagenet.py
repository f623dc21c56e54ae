"""Tiny ImageNet: 64x64 photographs of 200 classes, or of some of them, decoded once.

    train/<class>/images/*.JPEG     and train/<class>/<class>_boxes.txt, which lists them
    val/images/*.JPEG               and val/val_annotations.txt: file, class, ...

Source: Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS231n).
"""

import math
import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from symrun.data.dataset import Dataset, Split
from symrun.data.decoding import all_pixels
from symrun.data.download import download
from symrun.data.jpeg import SIDE
from symrun.data.source import SPLITS, Source, open_source
from symrun.display import bar
from symrun.errors import UsageError, in_one_line
from symrun.files import complete_or_absent, locked, sweep_drafts

IMAGE_SHAPE = (3, SIDE, SIDE)

# The name of an image file, and its label.
Sample = tuple[str, int]


def tiny_imagenet(root: Path | None, cache: Path) -> Dataset:
    """The data set from `root`, or downloaded, by way of its decoded copy in `cache`.

    Labels number the classes found in train/ in the order of their names. The images stay on the
    disk, mapped into memory.

    Error: UsageError naming the file that is missing or damaged, or the setting to change.
    """
    with open_source(root or download(cache)) as source:
        decoded = cache / f"tiny_imagenet-{source.key}"
        try:
            if not decoded.exists():
                _decode_once(source, decoded)
        except OSError as error:
            failed = f"data.cache={in_one_line(cache)} cannot be written"
            remedy = "choose a folder to write to with data.cache=DIR (1.4 GB for 200 classes)"
            raise UsageError(f"{failed}: {in_one_line(error)}: {remedy}") from None
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
    )


def _samples(source: Source) -> dict[str, list[Sample]]:
    """Every image of each split."""
    images_of: dict[str, list[str]] = {}
    for name in sorted(source.files):
        split, folder, *rest = name.split("/")
        if split == "train" and rest:
            images = images_of.setdefault(folder, [])
            if name.endswith(".JPEG"):
                images.append(name)
    if len(images_of) < 2:
        found = f"{source.display_name('train')} holds {len(images_of)} classes, but 2 are needed"
        raise UsageError(f"{found}: give the zip or the folder of Tiny ImageNet as data.root")

    labels = {wnid: label for label, wnid in enumerate(sorted(images_of))}
    for wnid in labels:
        boxes = f"train/{wnid}/{wnid}_boxes.txt"
        if boxes in source.files:
            for file, *_ in _rows(source, boxes):
                _require(source, f"train/{wnid}/images/{file}", boxes)
        if not images_of[wnid]:
            empty = source.display_name(f"train/{wnid}")
            raise UsageError(f"{empty} holds no images: fetch them, or remove it")
    train = [(name, label) for wnid, label in labels.items() for name in images_of[wnid]]
    return {"train": train, "val": _val_samples(source, labels)}


def _val_samples(source: Source, labels: dict[str, int]) -> list[Sample]:
    """The validation images of the classes in `labels`.

    All must exist, unless train/ holds only some of the classes.
    """
    annotations = "val/val_annotations.txt"
    rows = _rows(source, annotations)
    if any(len(row) < 2 for row in rows):
        raise UsageError(
            f"{source.display_name(annotations)} has a line without a class: replace it"
        )
    annotated = [(f"val/images/{file}", wnid) for file, wnid, *_ in rows]
    if all(wnid in labels for _, wnid in annotated):
        for name, _ in annotated:
            _require(source, name, annotations)
    samples = [
        (name, labels[wnid]) for name, wnid in annotated if wnid in labels and name in source.files
    ]
    if not samples:
        empty = source.display_name("val/images")
        raise UsageError(f"{empty} holds no image of a class in train/: fetch some")
    return samples


def _require(source: Source, name: str, listing: str) -> None:
    if name not in source.files:
        problem = f"is missing, but {in_one_line(listing)} lists it: fetch the data set again"
        raise UsageError(f"{source.display_name(name)} {problem}")


def _rows(source: Source, name: str) -> list[list[str]]:
    """The columns of each line of a text file."""
    text = source.read(name).decode(errors="replace")
    return [line.split("\t") for line in text.splitlines()]


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
    samples = _samples(source)
    names = [name for split in SPLITS for name, _ in samples[split]]
    with (
        complete_or_absent(folder) as draft,
        closing(all_pixels(source, names)) as images,
        bar("decoding Tiny ImageNet", len(names), " images") as progress,
    ):
        draft.mkdir()
        for split in SPLITS:
            labels = np.array([label for _, label in samples[split]], dtype=np.int64)
            np.save(draft / f"{split}_labels.npy", labels)
            shape = (len(labels), *IMAGE_SHAPE)
            # Not through a memory map: a full disk fails a write, but kills a process with a map.
            with open(draft / f"{split}_images.npy", "wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for image in islice(images, len(labels)):
                    file.write(image)
                    progress.update()


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
        remedy = "remove the folder, and the images are decoded again"
        where = in_one_line(folder)
        raise UsageError(f"{where} cannot be read: {in_one_line(error)}: {remedy}") from None
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


def _damaged(folder: Path, split: str) -> UsageError:
    remedy = "remove it, and the images are decoded again"
    return UsageError(f"{in_one_line(folder)} holds damaged {split} images: {remedy}")
