"""Tiny ImageNet: 64x64 photographs of 200 classes, or of some of them, decoded once.

Source: Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge (CS231n).
"""

from pathlib import Path

from symrun.data.dataset import ImageDataset
from symrun.data.decoded import decoded_once, digest, splits
from symrun.data.download import download
from symrun.data.jpeg import TINY_IMAGENET
from symrun.data.layout import samples, say_what_is_left_out
from symrun.data.source import open_source

TITLE = "Tiny ImageNet"


def tiny_imagenet(root: Path | None, cache: Path) -> ImageDataset:
    """The data set from `root`, or downloaded, by way of its decoded copy in `cache`.

    Labels number the classes found in train/ in the order of their names. The images stay on the
    disk, mapped into memory.

    Error: UsageError naming the file that is missing or damaged, or the setting to change.
    """
    with open_source(root or download(cache)) as source:
        say_what_is_left_out(source)
        folder = cache / f"tiny_imagenet-{source.key}"
        decoded_once(source, folder, samples, TINY_IMAGENET, TITLE, room="1.4 GB for 200 classes")
    train, val = splits(folder, TINY_IMAGENET)
    return ImageDataset(
        title=TITLE,
        synthetic=False,
        train=train,
        val=val,
        classes=int(train.labels.max()) + 1,
        mean=(0.480, 0.448, 0.397),
        std=(0.276, 0.269, 0.282),
        digest=digest(folder),
    )
