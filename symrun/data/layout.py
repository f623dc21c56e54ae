"""Where the images of Tiny ImageNet lie, in the layouts that people have, and their classes.

    train/<class>/images/*.JPEG     or train/<class>/*.JPEG; <class>_boxes.txt, if there, lists them
    val/images/*.JPEG               or val/*.JPEG, with val/val_annotations.txt: file, class, ...
    val/<class>/images/*.JPEG       or val/<class>/*.JPEG

Every layout gives the same images and labels in the same order, that of the official archive.
"""

import logging
import re

from symrun.data.source import ANNOTATIONS, Source, is_image, is_listing
from symrun.errors import UsageError, in_one_line

_log = logging.getLogger(__name__)

# The name of an image file, and its label.
Sample = tuple[str, int]

_EXPECTED = (
    "give as data.root the zip or the folder that holds train/<class>/images/ and val/images/"
)


def samples(source: Source) -> dict[str, list[Sample]]:
    """Every image of each split; labels number the classes in the order of their names.

    Error: UsageError naming the file or the folder that is missing or holds something else.
    """
    images_of: dict[str, list[str]] = {}
    for name in sorted(source.files):
        split, folder, *rest = name.split("/")
        if split == "train" and rest:
            images = images_of.setdefault(folder, [])
            if is_image(name):
                images.append(name)
    if len(images_of) < 2:
        found = f"{source.display_name('train')} holds {len(images_of)} classes, but 2 are needed"
        raise UsageError(f"{found}: {_EXPECTED}")

    for wnid, images in images_of.items():
        boxes = f"train/{wnid}/{wnid}_boxes.txt"
        if boxes in source.files:
            files = [file for file, *_ in _rows(source, boxes)]
            _require_listed(source, files, images, f"train/{wnid}/images", boxes)
        if not images:
            empty = source.display_name(f"train/{wnid}")
            raise UsageError(f"{empty} holds no images: fetch them, or remove it")
    labels = {wnid: label for label, wnid in enumerate(images_of)}
    train = [(name, label) for wnid, label in labels.items() for name in images_of[wnid]]
    return {"train": train, "val": _val_samples(source, labels)}


def say_what_is_left_out(source: Source) -> None:
    """Warn, in a line a split, of files that are neither listings nor images where those belong."""
    for split, reason in (("train", "no image in the folder of a class"), ("val", "no image")):
        belongs = re.compile(r"train/[^/]+/" if split == "train" else "val/").match
        left_out = [
            name
            for name in source.files
            if name.startswith(f"{split}/")
            and not is_listing(name)
            and not (is_image(name) and belongs(name))
        ]
        say_left_out(source, split, left_out, reason)


def say_left_out(source: Source, split: str, names: list[str], reason: str) -> None:
    """Warn, in a line, of the files `names` in the folder `split`, if there are any."""
    if names:
        shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
        count = f"{len(names)} file{'s' if len(names) > 1 else ''} left out ({reason})"
        _log.warning("%s: %s: %s", source.display_name(split), count, in_one_line(shown))


def _val_samples(source: Source, labels: dict[str, int]) -> list[Sample]:
    """The validation images of the classes in `labels`, whose folders or annotations say which."""
    images = [name for name in source.files if name.startswith("val/") and is_image(name)]
    if not images:
        raise UsageError(f"{source.display_name('val')} holds no images: {_EXPECTED}")
    in_class = [name for name in images if _class_folder(name)]
    if in_class and len(in_class) < len(images):
        both = f"{source.display_name('val')} holds images in folders of classes and outside of any"
        raise UsageError(f"{both}: keep either these or those")
    chosen = _by_folder if in_class else _by_annotation
    samples = [(name, labels[wnid]) for name, wnid in chosen(source, images, labels)]
    if not samples:
        empty = source.display_name("val/images")
        raise UsageError(f"{empty} holds no image of a class in train/: fetch some")
    return samples


def _class_folder(name: str) -> str | None:
    """The folder of a class in val/ in which a file lies; None for val/images/ and val/ itself."""
    _, folder, *rest = name.split("/")
    return folder if rest and folder != "images" else None


def _by_folder(source: Source, images: list[str], labels: dict[str, int]) -> list[tuple[str, str]]:
    """In the order of the numbers in the file names, which the official annotations have too."""
    if ANNOTATIONS in source.files:
        _require_annotated(source, _annotations(source), images, labels)
    placed = [(name, wnid) for name in images if (wnid := _class_folder(name)) in labels]
    return sorted(placed, key=lambda one: (_numbered(_file(one[0])), one[0]))


def _by_annotation(
    source: Source, images: list[str], labels: dict[str, int]
) -> list[tuple[str, str]]:
    rows = _annotations(source)
    _require_annotated(source, rows, images, labels)
    name_of = {_stem(name): name for name in images}
    annotated = [(name_of[_stem(file)], wnid) for file, wnid in rows if _stem(file) in name_of]
    unknown = [*{*images} - {name for name, _ in annotated}]
    say_left_out(source, "val", unknown, f"not in {ANNOTATIONS}")
    return [(name, wnid) for name, wnid in annotated if wnid in labels]


def _annotations(source: Source) -> list[list[str]]:
    """File and class of each line."""
    rows = _rows(source, ANNOTATIONS)
    if any(len(row) < 2 for row in rows):
        lacking = f"{source.display_name(ANNOTATIONS)} has a line without a class"
        raise UsageError(f"{lacking}: replace it")
    return rows


def _require_annotated(
    source: Source, rows: list[list[str]], images: list[str], labels: dict[str, int]
) -> None:
    """All annotated images must exist, unless train/ holds only some of the classes."""
    if all(wnid in labels for _, wnid in rows):
        _require_listed(source, [file for file, _ in rows], images, "val/images", ANNOTATIONS)


def _require_listed(
    source: Source, files: list[str], images: list[str], folder: str, listing: str
) -> None:
    """Error: UsageError unless each of `files`, which `listing` names, is among the images, in any
    format."""
    there = {_stem(name) for name in images}
    for file in files:
        if _stem(file) not in there:
            problem = f"is missing, but {in_one_line(listing)} lists it: fetch the data set again"
            raise UsageError(f"{source.display_name(f'{folder}/{file}')} {problem}")


def _rows(source: Source, name: str) -> list[list[str]]:
    """The first two columns of each line of a text file that is not empty."""
    text = source.read(name).decode("utf-8-sig", errors="replace")
    lines = (line.split("\t")[:2] for line in text.splitlines() if line.strip())
    return [[cell.strip() for cell in cells] for cells in lines]


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(name: str) -> str:
    """The name of a file without its folder and, if it is an image, without its ending."""
    file = _file(name)
    return file.rpartition(".")[0] if is_image(file) else file


def _numbered(file: str) -> str:
    """A key that sorts val_2 before val_10."""
    return re.sub("[0-9]+", lambda digits: digits[0].zfill(20), file)
