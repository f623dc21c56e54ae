"""Any folder of images with a folder for each class, decoded once.

train/<class>/.../*.jpg     and the same below val/, valid/ or test/, the first that is there
"""

import dataclasses
import os
from functools import partial
from pathlib import Path

from symrun.data import jpeg
from symrun.data.dataset import ImageDataset
from symrun.data.decoded import decoded_once, digest, mean_and_std, splits
from symrun.data.jpeg import Format
from symrun.data.layout import Sample, say_left_out
from symrun.data.source import Source, is_image, stamps
from symrun.errors import UsageError, in_one_line

_VALIDATION = ("val", "valid", "test")
_MOST_BYTES = 2**26

_EXPECTED = "give as data.root the folder that holds train/<class>/ and val/<class>/"


def image_folder(root: Path, cache: Path, size: int | None, channels: int) -> ImageDataset:
    """The images below `root`, by way of their decoded copy in `cache`.

    Labels number the classes found in train/ in the order of their names. size: pixels along a
    side, to which images are resized and cropped; None if all have one size already.

    Error: UsageError naming the file that is missing or damaged, or the setting to change.
    """
    try:
        source, val = _opened(root)
    except OSError as error:
        reason = in_one_line(error)
        raise UsageError(f"data.root={in_one_line(root)} cannot be read: {reason}") from None
    samples = _samples(source, val)
    side = size or _side(source, samples["train"][0][0])
    form = Format(side, channels, size is not None, _MOST_BYTES)
    if size is None:
        source = dataclasses.replace(source, remedy="replace it, or resize all with data.size=N")
    title = in_one_line(root.resolve().name).replace("$", "")[:100] or "images"
    folder = cache / f"image_folder-{source.key}-{'fit' if size else 'own'}{side}x{channels}"
    images = sum(map(len, samples.values()))
    room = f"{max(images * channels * side**2 // 10**6, 1):,} MB"
    decoded_once(source, folder, lambda _: samples, form, title, room)
    train, validation = splits(folder, form)
    mean, std = mean_and_std(folder, train.inputs)
    return ImageDataset(
        title=title,
        synthetic=False,
        train=train,
        val=validation,
        classes=int(train.labels.max()) + 1,
        mean=mean,
        std=std,
        digest=digest(folder),
    )


def _opened(root: Path) -> tuple[Source, str]:
    """The files below train/ and the folder for validation, and that folder's name."""
    base = f"{root}/"
    val = next((name for name in _VALIDATION if os.path.isdir(base + name)), None)
    if val is None or not os.path.isdir(f"{base}train"):
        lacking = "train/" if val else "val/ (nor a valid/ or test/)"
        raise UsageError(f"data.root={in_one_line(root)} has no {lacking}: {_EXPECTED}")
    files = {name: stamp for split in ("train", val) for name, stamp in stamps(base + split, split)}
    read = partial(jpeg.read, most_bytes=_MOST_BYTES)
    return Source(files, base, lambda name: read(base + name), base, limited=False), val


def _samples(source: Source, val: str) -> dict[str, list[Sample]]:
    """Every image in the folder of a class, "train" and "val".

    Error: UsageError if there are fewer than two classes, or those of validation are others.
    """
    images_of: dict[str, list[tuple[str, str]]] = {"train": [], val: []}
    left_out: dict[str, list[str]] = {"train": [], val: []}
    for name in sorted(source.files):
        split, wnid, *rest = name.split("/")
        if rest and is_image(name):
            images_of[split].append((name, wnid))
        else:
            left_out[split].append(name)
    for split, names in left_out.items():
        say_left_out(source, split, names, "no JPEG or PNG in the folder of a class")
    labels = {wnid: label for label, wnid in enumerate(sorted({c for _, c in images_of["train"]}))}
    if len(labels) < 2:
        where = source.display_name("train")
        found = f"{where} holds images of {len(labels)} classes, but 2 are needed"
        raise UsageError(f"{found}: {_EXPECTED}")
    if not images_of[val]:
        raise UsageError(f"{source.display_name(val)} holds no images of classes: {_EXPECTED}")
    for _, wnid in images_of[val]:
        if wnid not in labels:
            other = f"{source.display_name(f'{val}/{wnid}')} is a class that train/ does not have"
            raise UsageError(f"{other}: remove it, or add train/{in_one_line(wnid)}")
    train, validation = (
        sorted(((name, labels[wnid]) for name, wnid in images_of[split]), key=lambda one: one[1])
        for split in ("train", val)
    )
    return {"train": train, "val": validation}


def _side(source: Source, name: str) -> int:
    """Of the image, from its header. Error: UsageError if it is no image, or not a square."""
    content = source.read(name)
    try:
        width, height = jpeg.size(content)
    except MemoryError:
        raise
    except Exception:  # Pillow meets damage with errors of a dozen types
        raise UsageError(
            f"{source.display_name(name)} is not a JPEG or PNG, or is damaged: replace it"
        ) from None
    if width != height:
        oblong = f"{source.display_name(name)} has {width}x{height} pixels"
        raise UsageError(f"{oblong}: data.size=N resizes and crops all images to squares")
    return width
