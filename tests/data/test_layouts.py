"""Tiny ImageNet in the layouts that people have: the same images and labels in the same order."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import assert_equal, jpeg, make_tree, zipped

from symrun.data import Dataset, load
from symrun.data.registry import TinyImageNetConfig
from symrun.data.source import open_source
from symrun.errors import UsageError

ANNOTATIONS = "val/val_annotations.txt"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tiny-imagenet-200")


def loaded(root: Path, cache: Path | None = None) -> Dataset:
    default = root.parent / "cache"
    return load(TinyImageNetConfig("tiny_imagenet", root, cache or default))


def refusal(root: Path) -> str:
    with pytest.raises(UsageError) as error:
        loaded(root)
    (line,) = str(error.value).splitlines()
    return line


def each_image(tree: Path, act: Callable[[Path], object]) -> None:
    for image in sorted(tree.rglob("*.JPEG")):
        act(image)


def renamed(ending: str) -> Callable[[Path], None]:
    return lambda tree: each_image(tree, lambda image: image.rename(image.with_suffix(ending)))


def of_all_kinds(tree: Path) -> None:
    endings = [".JPEG", ".jpg", ".jpeg", ".JPG", ".Jpeg"]
    for number, image in enumerate(sorted(tree.rglob("*.JPEG"))):
        image.rename(image.with_suffix(endings[number % len(endings)]))


def train_without_images_folders(tree: Path) -> None:
    for folder in tree.glob("train/*/images"):
        for image in folder.iterdir():
            image.rename(folder.parent / image.name)
        folder.rmdir()


def val_without_images_folder(tree: Path) -> None:
    for image in tree.glob("val/images/*"):
        image.rename(tree / "val" / image.name)
    (tree / "val/images").rmdir()


def val_by_class(tree: Path, below: str = "") -> None:
    """As the script does that every tutorial has."""
    for line in (tree / ANNOTATIONS).read_text().splitlines():
        file, wnid, *_ = line.split("\t")
        folder = tree / "val" / wnid / below
        folder.mkdir(parents=True, exist_ok=True)
        (tree / "val/images" / file).rename(folder / file)
    (tree / "val/images").rmdir()


def val_by_class_below_images(tree: Path) -> None:
    val_by_class(tree, "images")


def val_by_class_without_annotations(tree: Path) -> None:
    val_by_class(tree)
    (tree / ANNOTATIONS).unlink()


def annotations_from_windows(tree: Path) -> None:
    """With a byte order mark, carriage returns, trailing blanks and empty lines."""
    lines = (tree / ANNOTATIONS).read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    text = "".join(f"{file} \t {wnid}  \t0 \r\n" for file, wnid, *_ in cells)
    (tree / ANNOTATIONS).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n  \r\n")


def litter(tree: Path) -> None:
    """What macOS, Windows and Jupyter leave behind."""
    for folder in ("__MACOSX/train/n01/images", "train/.ipynb_checkpoints", "train/__MACOSX/n01",
                   "train/n02/images/.ipynb_checkpoints", "val/@eaDir"):  # fmt: skip
        (tree / folder).mkdir(parents=True)
        (tree / folder / "n01_0-checkpoint.JPEG").write_bytes(jpeg(seed=99))
    for folder in ("train", "train/n01", "train/n01/images", "val", "val/images"):
        for name in ("._n01_0.JPEG", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (tree / folder / name).write_bytes(b"\0\5\26\7")


LAYOUTS = [
    renamed(".jpg"),
    renamed(".PNG"),  # by their content they stay JPEGs
    of_all_kinds,
    train_without_images_folders,
    val_without_images_folder,
    val_by_class,
    val_by_class_below_images,
    val_by_class_without_annotations,
    annotations_from_windows,
    litter,
]


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("rearrange", LAYOUTS)
def test_every_layout_gives_the_same(
    tree: Path,
    tmp_path: Path,
    rearrange: Callable[[Path], None],
    archived: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = loaded(tree, tmp_path / "usual")
    rearrange(tree)
    assert_equal(loaded(zipped(tree) if archived else tree), expected)
    assert caplog.messages == []


def test_the_digest_is_of_the_images_alone(tree: Path, tmp_path: Path) -> None:
    """Neither times, names nor the archive count, and a cache from before digests gets one."""
    first = loaded(tree)
    assert loaded(zipped(tree), tmp_path / "zip").digest == first.digest
    (kept,) = (tree.parent / "cache").glob("*/digest")
    kept.unlink()
    assert loaded(tree).digest == first.digest == kept.read_text()
    one, *_, other = sorted(tree.glob("train/*/images/*"))
    one.write_bytes(other.read_bytes())
    assert loaded(tree).digest != first.digest


def test_png_is_read_whatever_it_is_called(tree: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first, *_, last = sorted(tree.glob("train/n01/images/*"))
    first.unlink()
    Image.fromarray(pixels).save(first.with_suffix(".png"), "PNG")
    Image.fromarray(pixels).save(last, "PNG")
    images = loaded(tree).train.inputs
    expected = torch.from_numpy(pixels).movedim(-1, 0)
    assert torch.equal(images[0], expected) and torch.equal(images[3], expected)


def test_png_of_16_bits_is_refused(tree: Path) -> None:
    """Pillow would cut every value above 255, which leaves a white image."""
    first = min(tree.glob("train/n01/images/*"))
    Image.fromarray(np.full((64, 64), 1000, np.uint16)).save(first, "PNG")
    assert refusal(tree).startswith(f"{first} is not a JPEG or PNG")


@pytest.mark.parametrize(
    "prefix",
    ["./", "./tiny-imagenet-200/", "archive/", "archive/tiny-imagenet-200/",
     "././a//b/", "a/./tiny-imagenet-200/"],
)  # fmt: skip
def test_a_zip_may_have_folders_in_front(tree: Path, prefix: str) -> None:
    assert_equal(loaded(zipped(tree, prefix)), loaded(tree))


def test_a_zip_of_macos_has_a_shadow_of_every_file(tree: Path) -> None:
    archive = zipped(tree)
    with zipfile.ZipFile(archive, "a") as file:
        for name in file.namelist():
            folder, _, last = name.rstrip("/").rpartition("/")
            file.writestr(f"__MACOSX/{folder}/._{last}", b"\0\5\26\7")
    assert_equal(loaded(archive), loaded(tree))


@pytest.mark.parametrize("below", ["tiny-imagenet-200", "x/tiny-imagenet-200", "x", "x/y"])
def test_a_folder_may_be_given_by_one_that_it_lies_in(
    tree: Path, tmp_path: Path, below: str
) -> None:
    expected = loaded(tree)
    given = tmp_path / "given"
    (given / below).parent.mkdir(parents=True)
    (given / ".cache/train").mkdir(parents=True)
    tree.rename(given / below)
    assert_equal(loaded(given, tmp_path / "another"), expected)


def test_a_zip_may_be_given_by_its_folder(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    archive = tmp_path / "given/tiny-imagenet-200"
    shutil.make_archive(str(archive), "zip", tree.parent, tree.name)
    assert_equal(loaded(tmp_path / "given"), loaded(tree))


def test_of_several_folders_none_is_guessed(tree: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        shutil.copytree(tree, tmp_path / "given" / name)
    message = refusal(tmp_path / "given")
    assert "several folders with a train/: name one of them, one/ or other/" in message


def test_the_expected_layout_is_named(tmp_path: Path) -> None:
    (tmp_path / "given" / "pictures").mkdir(parents=True)
    expected = "the zip or the folder that holds train/<class>/images/ and val/images/"
    assert expected in refusal(tmp_path / "given")


def test_validation_images_in_two_layouts_are_refused(tree: Path) -> None:
    (tree / "val/n01").mkdir()
    (tree / "val/images/val_2.JPEG").rename(tree / "val/n01/val_2.JPEG")
    assert refusal(tree).startswith(f"{tree}/val holds images in folders of classes and outside")


def test_a_validation_image_that_is_missing_from_its_class_is_refused(tree: Path) -> None:
    val_by_class(tree)
    next(tree.glob("val/n01/*")).unlink()
    assert "is missing, but val/val_annotations.txt lists it" in refusal(tree)


def test_what_is_left_out_is_said(
    tree: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    expected = loaded(tree, tmp_path / "usual")
    for name in ("train/n01/notes.txt", "train/n01/images/x.bmp", "train/z.zip", "val/list.csv"):
        (tree / name).write_bytes(b"x" * 2**21)  # more than an image may have
    for name in ("train/a.JPEG", "val/images/unknown.JPEG"):
        (tree / name).write_bytes(jpeg(seed=0))
    assert_equal(loaded(tree), expected)
    names = "train/a.JPEG, train/n01/images/x.bmp, train/n01/notes.txt, ..."
    assert caplog.messages == [
        f"{tree}/train: 4 files left out (no image in the folder of a class): {names}",
        f"{tree}/val: 1 file left out (no image): val/list.csv",
        f"{tree}/val: 1 file left out (not in {ANNOTATIONS}): val/images/unknown.JPEG",
    ]


def test_the_usual_layout_has_the_key_that_it_always_had(tree: Path) -> None:
    """Or everybody's images would be decoded again; hidden files do not change it."""
    files = {path: path.stat() for path in tree.rglob("*") if path.is_file()}
    stamps = [
        (str(path.relative_to(tree)), (status.st_size, status.st_mtime_ns))
        for path, status in files.items()
    ]
    key = hashlib.sha256(repr(sorted(stamps)).encode()).hexdigest()[:16]
    litter(tree)
    with open_source(tree) as source:
        assert source.key == key


def test_a_cache_from_when_only_some_images_were_read_is_not_taken(tree: Path) -> None:
    image = min(tree.glob("train/n01/images/*"))
    image.rename(image.with_suffix(".jpg"))
    with open_source(tree) as source:
        listed = repr(sorted(source.files.items())).encode()
        assert source.key != hashlib.sha256(listed).hexdigest()[:16]
