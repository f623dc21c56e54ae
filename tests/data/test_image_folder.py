"""A folder of images in folders of classes: the pixels as Pillow has them, in their order."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import assert_equal

from symrun.data import ImageDataset, decoding, load
from symrun.data.registry import ImageFolderConfig
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.training.plan import Plan
from symrun.training.setup import prepare


def paint(path: Path, seed: int, width: int = 32, height: int = 32, mode: str = "RGB") -> None:
    """Noise, as a PNG, which loses nothing."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).convert(mode).save(path, "PNG")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes; one has its images a folder deeper, as unpacked archives of ImageNet do."""
    root = tmp_path / "birds"
    for number in range(3):
        paint(root / f"train/tit/{number}.png", number)
        paint(root / f"train/owl/owl.tar/{number}.PNG", 10 + number)
    paint(root / "val/tit/a.png", 20)
    paint(root / "val/owl/b.jpg", 21)
    return root


def loaded(
    root: Path, size: int | None = None, channels: int = 3, cache: Path | None = None
) -> ImageDataset:
    config = ImageFolderConfig("image_folder", root, cache or root.parent / "cache", size, channels)
    data = load(config)
    assert isinstance(data, ImageDataset)
    return data


def refusal(root: Path, size: int | None = None) -> str:
    with pytest.raises(UsageError) as error:
        loaded(root, size)
    (line,) = str(error.value).splitlines()
    return line


def expected(path: Path, mode: str = "RGB") -> torch.Tensor:
    with Image.open(path) as image:
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0)


TRAIN = [f"train/owl/owl.tar/{number}.PNG" for number in range(3)]
TRAIN += [f"train/tit/{number}.png" for number in range(3)]


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_images_and_labels_are_those_of_the_files(tree: Path, channels: int, mode: str) -> None:
    data = loaded(tree, channels=channels)
    assert (data.title, data.synthetic, data.classes) == ("birds", False, 2)
    assert data.shape == (channels, 32, 32)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.val.labels.tolist() == [0, 1]
    assert torch.equal(data.train.inputs, torch.stack([expected(tree / p, mode) for p in TRAIN]))
    val = [expected(tree / "val/owl/b.jpg", mode), expected(tree / "val/tit/a.png", mode)]
    assert torch.equal(data.val.inputs, torch.stack(val))
    values = data.train.inputs.double() / 255
    assert data.mean == pytest.approx(values.mean((0, 2, 3)).tolist(), abs=0.5e-4)
    deviation = values.std((0, 2, 3), correction=0).tolist()
    assert data.std == pytest.approx(deviation, abs=0.5e-4)


@pytest.mark.parametrize("name", ["valid", "test"])
def test_validation_may_have_another_name(tree: Path, name: str) -> None:
    usual = loaded(tree)
    (tree / "val").rename(tree / name)
    assert_equal(loaded(tree), usual)


def test_images_of_any_size_are_resized_and_cropped(tree: Path) -> None:
    """An image of one colour keeps it, and of an oblong one the middle third stays."""
    striped = np.zeros((30, 90, 3), dtype=np.uint8)
    striped[:, 30:60] = 200
    striped[:, 60:] = 255
    Image.fromarray(striped).save(tree / TRAIN[0], "PNG")
    data = loaded(tree, size=16)
    assert data.shape == (3, 16, 16) and (data.train.inputs[0] == 200).all()
    with Image.open(tree / TRAIN[5]) as image:
        resized = np.array(image.resize((16, 16), Image.Resampling.BILINEAR))
    assert torch.equal(data.train.inputs[5], torch.from_numpy(resized).movedim(-1, 0))


def test_each_size_and_kind_has_its_own_copy_which_is_decoded_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [(None, 3), (32, 3), (16, 3), (16, 1)]
    first = [loaded(tree, *setting) for setting in settings]
    monkeypatch.setattr(decoding, "pixels", None)
    for setting, data in zip(settings, first, strict=True):
        again = loaded(tree, *setting)
        assert_equal(again, data)
        assert (again.digest, again.mean, again.std) == (data.digest, data.mean, data.std)
    assert len({data.digest for data in first}) == 3  # the first two have the same pixels


def test_other_processes_decode_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = loaded(tree, 20, 1)
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    monkeypatch.setattr(decoding, "_process_count", lambda _: 2)
    assert_equal(loaded(tree, 20, 1, tree.parent / "another"), alone)


def test_interrupted_decoding_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(decoding, "pixels", interrupt)
        loaded(tree)
    assert [path.name for path in (tree.parent / "cache").iterdir()] == [".image_folder.lock"]
    assert loaded(tree).classes == 2


def test_what_is_left_out_is_said(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual = loaded(tree, cache=tree.parent / "usual")
    (tree / "train/owl/list.csv").touch()
    (tree / "train/.DS_Store").touch()
    shutil.copy(tree / TRAIN[0], tree / "train/stray.png")
    with caplog.at_level(logging.WARNING):
        assert_equal(loaded(tree), usual)
    reason = "2 files left out (no JPEG or PNG in the folder of a class)"
    assert caplog.messages == [f"{tree}/train: {reason}: train/owl/list.csv, train/stray.png"]


def another_size(tree: Path) -> None:
    paint(tree / TRAIN[4], 0, width=40)


def oblong(tree: Path) -> None:
    paint(tree / TRAIN[0], 0, width=40)


def damaged(tree: Path) -> None:
    (tree / TRAIN[4]).write_bytes((tree / TRAIN[4]).read_bytes()[:-50])


def damaged_first(tree: Path) -> None:
    (tree / TRAIN[0]).write_bytes(b"no image")


def huge(tree: Path) -> None:
    """Ten kilobytes that would take 240 MB."""
    Image.new("1", (9000, 9000)).save(tree / TRAIN[4], "PNG")


def one_class(tree: Path) -> None:
    shutil.rmtree(tree / "train/owl")


def unknown_class(tree: Path) -> None:
    (tree / "val/tit").rename(tree / "val/bat")


def empty_validation(tree: Path) -> None:
    shutil.rmtree(tree / "val/tit")
    shutil.rmtree(tree / "val/owl")


def no_validation(tree: Path) -> None:
    shutil.rmtree(tree / "val")


def no_train(tree: Path) -> None:
    shutil.rmtree(tree / "train")


def nothing(tree: Path) -> None:
    shutil.rmtree(tree)


MIXED = f"{TRAIN[4]} is not a JPEG or PNG of 32x32 pixels, or is damaged or cut short: replace it"


@pytest.mark.parametrize(
    ("spoil", "size", "message"),
    [
        (another_size, None, f"{{tree}}/{MIXED}, or resize all with data.size=N"),
        (oblong, None, f"{{tree}}/{TRAIN[0]} has 40x32 pixels: data.size=N resizes and crops"),
        (damaged, 16, f"{{tree}}/{TRAIN[4]} is not a JPEG or PNG, or is damaged or cut short: rep"),
        (huge, 16, f"{{tree}}/{TRAIN[4]} is not a JPEG or PNG, or is damaged or cut short: rep"),
        (damaged_first, None, f"{{tree}}/{TRAIN[0]} is not a JPEG or PNG, or is damaged: replace"),
        (one_class, None, "{tree}/train holds images of 1 classes, but 2 are needed: give as data"),
        (unknown_class, None, "{tree}/val/bat is a class that train/ does not have: remove it"),
        (empty_validation, None, "{tree}/val holds no images of classes: give as data.root"),
        (no_validation, None, "data.root={tree} has no val/ (nor a valid/ or test/): give as"),
        (no_train, None, "data.root={tree} has no train/: give as data.root the folder"),
        (nothing, None, "data.root={tree} has no val/"),
    ],
)
def test_refusal_is_one_line_and_leaves_nothing(
    tree: Path, spoil: object, size: int | None, message: str
) -> None:
    assert callable(spoil)
    spoil(tree)
    assert refusal(tree, size).startswith(message.format(tree=tree))
    cache = tree.parent / "cache"
    assert not cache.exists() or [p.name for p in cache.iterdir()] == [".image_folder.lock"]


def test_images_of_one_colour_need_a_deviation(tree: Path) -> None:
    for name in TRAIN:
        Image.new("RGB", (32, 32), (9, 9, 9)).save(tree / name, "PNG")
    assert "data.std must be given with images of a single colour" in refusal(tree)


def test_a_network_that_cannot_take_the_images_names_the_setting(tree: Path) -> None:
    """Only the images tell their size."""
    for path in tree.rglob("*.[pPj]*"):
        if path.is_file():
            paint(path, 0, 40, 40)
    cache = tree.parent / "cache"
    config = compose(
        ["data=image_folder", f"data.root={tree}", f"data.cache={cache}", "device=cpu"]
    )
    with pytest.raises(
        UsageError, match="^data.size must be a multiple of 32 for model=vgg16_bn, "
    ):
        prepare(Plan.of(config), load(config.data))


@pytest.mark.parametrize("line", ["", "[[0.5], [0.2]]", "[1, 2]", "\xff", "[[0,0,0]]"])
def test_damaged_statistics_are_refused(tree: Path, line: str) -> None:
    loaded(tree)
    (kept,) = (tree.parent / "cache").glob("*/mean_and_std")
    kept.write_text(line)
    message = refusal(tree)
    assert message.startswith(f"{kept.parent} cannot be read: ")
    assert message.endswith("remove the folder, and the images are decoded again")
