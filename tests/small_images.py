"""A Tiny ImageNet of three classes and 18 images, for tests."""

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from symrun.data import Dataset

WNIDS = ("n03", "n01", "n02")
TRAIN_IMAGES, VAL_IMAGES = 4, 2


def jpeg(seed: int, mode: str = "RGB", size: int = 64) -> bytes:
    """Noise."""
    shape = (size, size, 3) if mode == "RGB" else (size, size)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def make_tree(root: Path) -> Path:
    """Three classes below `root`, as in the official archive."""
    annotations = []
    for number, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        names = [f"{wnid}_{image}.JPEG" for image in range(TRAIN_IMAGES)]
        boxes = "".join(f"{name}\t0\t0\t63\t63\n" for name in names)
        (images.parent / f"{wnid}_boxes.txt").write_text(boxes)
        for image, name in enumerate(names):
            (images / name).write_bytes(jpeg(seed=10 * number + image))
        annotations += [(f"val_{VAL_IMAGES * number + image}.JPEG", wnid) for image in (0, 1)]
    (root / "val" / "images").mkdir(parents=True)
    for image, (name, _) in enumerate(annotations):
        (root / "val" / "images" / name).write_bytes(jpeg(seed=100 + image))
    lines = "".join(f"{name}\t{wnid}\t0\t0\t63\t63\n" for name, wnid in annotations)
    (root / "val" / "val_annotations.txt").write_text(lines)
    return root


def zipped(folder: Path, prefix: str = "tiny-imagenet-200/") -> Path:
    path = folder.parent / "some.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def assert_equal(one: Dataset, other: Dataset) -> None:
    for split, same in ((one.train, other.train), (one.val, other.val)):
        assert torch.equal(split.inputs, same.inputs)
        assert torch.equal(split.labels, same.labels)
