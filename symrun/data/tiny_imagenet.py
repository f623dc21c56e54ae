"""Tiny ImageNet: 64x64 photographs of 200 classes, or of some of them, decoded once.

    train/<class>/images/*.JPEG     and train/<class>/<class>_boxes.txt, which lists them
    val/images/*.JPEG               and val/val_annotations.txt: file, class, ...

Source: Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS231n).
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from symrun.config import TinyImageNetConfig
from symrun.data.dataset import Dataset, Split
from symrun.data.source import SPLITS, Source, download, open_source
from symrun.errors import UsageError
from symrun.files import complete_or_absent

IMAGE_SHAPE = (3, 64, 64)

# The name of an image file, and its label.
Sample = tuple[str, int]


def tiny_imagenet(config: TinyImageNetConfig) -> Dataset:
    """The data set from `config.root`, or downloaded, by way of its decoded copy in the cache.

    Labels number the classes found in train/ in the order of their names. The images stay on the
    disk, mapped into memory.

    Error: UsageError naming the file that is missing or damaged, or the setting to change.
    """
    source = open_source(config.root or download(config.cache))
    decoded = config.cache / f"tiny_imagenet-{source.key}"
    try:
        if not decoded.exists():
            _decode(source, decoded)
    except OSError as error:
        remedy = "choose a folder to write to with data.cache=DIR (1.4 GB for 200 classes)"
        raise UsageError(
            f"data.cache={config.cache} cannot be written: {error}: {remedy}"
        ) from None
    train, val = (_decoded(decoded, split) for split in SPLITS)
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
        found = f"{source.where}train holds {len(images_of)} classes, but 2 are needed"
        raise UsageError(f"{found}: give the zip or the folder of Tiny ImageNet as data.root")

    labels = {wnid: label for label, wnid in enumerate(sorted(images_of))}
    for wnid in labels:
        _require_listed(source, wnid)
        if not images_of[wnid]:
            raise UsageError(
                f"{source.where}train/{wnid} holds no images: fetch them, or remove it"
            )
    train = [(name, label) for wnid, label in labels.items() for name in images_of[wnid]]
    return {"train": train, "val": _val_samples(source, labels)}


def _require_listed(source: Source, wnid: str) -> None:
    boxes = f"train/{wnid}/{wnid}_boxes.txt"
    if boxes in source.files:
        for file, *_ in _rows(source, boxes):
            _require(source, f"train/{wnid}/images/{file}", boxes)


def _val_samples(source: Source, labels: dict[str, int]) -> list[Sample]:
    """The validation images of the classes in `labels`.

    All of them, unless only some of the classes are there: then only some of their validation
    images may be there, too.
    """
    annotations = "val/val_annotations.txt"
    rows = _rows(source, annotations)
    if any(len(row) < 2 for row in rows):
        raise UsageError(f"{source.where}{annotations} has a line without a class: replace it")
    annotated = [(f"val/images/{file}", wnid) for file, wnid, *_ in rows]
    if all(wnid in labels for _, wnid in annotated):
        for name, _ in annotated:
            _require(source, name, annotations)
    samples = [
        (name, labels[wnid]) for name, wnid in annotated if wnid in labels and name in source.files
    ]
    if not samples:
        raise UsageError(
            f"{source.where}val/images holds no image of a class in train/: fetch some"
        )
    return samples


def _require(source: Source, name: str, listing: str) -> None:
    if name not in source.files:
        remedy = "fetch the data set again"
        raise UsageError(f"{source.where}{name} is missing, but {listing} lists it: {remedy}")


def _rows(source: Source, name: str) -> list[list[str]]:
    """The columns of each line of a text file."""
    text = source.read(name).decode(errors="replace")
    return [line.split("\t") for line in text.splitlines()]


def _decode(source: Source, folder: Path) -> None:
    """Write <split>_images.npy, uint8 [images, 3, 64, 64], and <split>_labels.npy, int64."""
    samples = _samples(source)
    count = sum(map(len, samples.values()))
    with (
        complete_or_absent(folder) as draft,
        tqdm(total=count, desc="decoding Tiny ImageNet", unit=" images") as progress,
    ):
        draft.mkdir()
        for split in SPLITS:
            labels = np.array([label for _, label in samples[split]], dtype=np.int64)
            np.save(draft / f"{split}_labels.npy", labels)
            shape = (len(labels), *IMAGE_SHAPE)
            # Written in order, not through a memory map: a full disk is an error in a write, but
            # kills the process when a page of a map finds no place.
            with open(draft / f"{split}_images.npy", "wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for name, _ in samples[split]:
                    file.write(_pixels(source, name))
                    progress.update()


def _pixels(source: Source, name: str) -> bytes:
    """One image, decoded: uint8 [3, 64, 64] as bytes; a grey one gets three equal channels."""
    try:
        with Image.open(BytesIO(source.read(name)), formats=["JPEG"]) as image:
            # Known before it is decoded: a few bytes can claim an image that fills the memory.
            if image.size == IMAGE_SHAPE[1:]:
                return np.asarray(image.convert("RGB")).transpose(2, 0, 1).tobytes()
    except (OSError, SyntaxError, Image.DecompressionBombError):
        pass
    what = "is not a JPEG of 64x64 pixels, or is damaged or cut short"
    raise UsageError(f"{source.where}{name} {what}: replace it")


def _decoded(folder: Path, split: str) -> Split:
    try:
        # Copy on write, since torch wants an array that it may write to.
        images = np.load(folder / f"{split}_images.npy", mmap_mode="c")
        labels = np.load(folder / f"{split}_labels.npy")
    except (OSError, EOFError, ValueError):
        remedy = "remove it, and the images are decoded again"
        raise UsageError(f"{folder} holds damaged {split} images: {remedy}") from None
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
