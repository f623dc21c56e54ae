import hashlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import WNIDS, assert_equal, jpeg, make_tree, zipped
from torch import Tensor

import symrun.data.download
import symrun.files
from symrun.data import Dataset, load
from symrun.data.registry import TinyImageNetConfig
from symrun.errors import UsageError
from symrun.files import locked

FIRST = "train/n01/images/n01_0.JPEG"


def pixels(path: Path) -> Tensor:
    """[3, 64, 64], or [64, 64] if grey."""
    with Image.open(path) as image:
        decoded = torch.from_numpy(np.array(image))
    return decoded.movedim(-1, 0) if decoded.ndim == 3 else decoded


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tiny-imagenet-200")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


Loader = Callable[[Path | None], Dataset]


@pytest.fixture
def loaded(cache: Path) -> Loader:
    return lambda root: load(TinyImageNetConfig("tiny_imagenet", root, cache))


def refusal(loaded: Loader, root: Path | None) -> str:
    """What the user is told, which is one line."""
    with pytest.raises(UsageError) as error:
        loaded(root)
    (line,) = str(error.value).splitlines()
    return line


@contextmanager
def before_each_image(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[None]:
    open_image = Image.open

    def watched(file: IO[bytes], **options: Any) -> Image.Image:
        act()
        return open_image(file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", watched)
        yield


def kept(cache: Path) -> list[Path]:
    """All that lies in the cache, save the lock."""
    return [path for path in cache.iterdir() if path.name != ".tiny_imagenet.lock"]


def refuse_to_decode() -> None:
    raise AssertionError("decoded again")


def test_images_and_labels_are_those_of_the_files(tree: Path, loaded: Loader) -> None:
    data = loaded(tree)
    assert (data.title, data.classes) == ("Tiny ImageNet", 3)
    assert (data.synthetic, data.classes, data.shape[-1]) == (False, 3, 64)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    names = [f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in sorted(WNIDS) for i in range(4)]
    assert torch.equal(data.train.inputs, torch.stack([pixels(tree / name) for name in names]))
    assert data.val.labels.tolist() == [2, 2, 0, 0, 1, 1]
    names = [f"val/images/val_{i}.JPEG" for i in range(6)]
    assert torch.equal(data.val.inputs, torch.stack([pixels(tree / name) for name in names]))


def test_grey_image_becomes_rgb(tree: Path, loaded: Loader) -> None:
    (tree / FIRST).write_bytes(jpeg(seed=7, mode="L"))
    image = loaded(tree).train.inputs[0]
    assert torch.equal(image, pixels(tree / FIRST).expand(3, 64, 64))


@pytest.mark.parametrize("prefix", ["tiny-imagenet-200/", ""])
def test_zip_and_folder_give_the_same(tree: Path, loaded: Loader, prefix: str) -> None:
    assert_equal(loaded(zipped(tree, prefix)), loaded(tree))


def test_folder_may_be_given_by_the_one_it_lies_in(tree: Path, loaded: Loader) -> None:
    assert_equal(loaded(tree.parent), loaded(tree))


def test_some_classes_are_enough(tree: Path, loaded: Loader) -> None:
    """Labels count the classes that are there; their validation images may be some, too."""
    shutil.rmtree(tree / "train" / "n02")
    (tree / "val" / "images" / "val_0.JPEG").unlink()
    data = loaded(tree)
    assert (data.title, data.classes) == ("Tiny ImageNet", 2)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.val.labels.tolist() == [1, 0, 0]
    assert torch.equal(data.val.inputs[0], pixels(tree / "val/images/val_1.JPEG"))


def test_second_load_decodes_nothing(
    tree: Path, cache: Path, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(tree)
    with before_each_image(monkeypatch, refuse_to_decode):
        assert_equal(loaded(tree), first)
    assert len(kept(cache)) == 1


def test_same_files_elsewhere_are_not_decoded_again(
    tree: Path, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tree)
    first, from_zip = loaded(tree), loaded(archive)
    with before_each_image(monkeypatch, refuse_to_decode):
        assert_equal(loaded(tree.rename(tree.parent / "elsewhere")), first)
        assert_equal(loaded(archive.rename(archive.parent / "other.name")), from_zip)


@pytest.mark.parametrize("source", [lambda tree: tree, zipped], ids=["folder", "zip"])
def test_changed_image_is_decoded_again(
    tree: Path, loaded: Loader, source: Callable[[Path], Path]
) -> None:
    """Also one of the same size: a folder tells by its time, a zip by its CRC."""
    (tree / FIRST).write_bytes(jpeg(seed=98).ljust(20_000, b"\0"))
    changed_after = (tree / FIRST).stat().st_mtime_ns
    loaded(source(tree))
    (tree / FIRST).write_bytes(jpeg(seed=99).ljust(20_000, b"\0"))
    os.utime(tree / FIRST, ns=(changed_after + 1, changed_after + 1))
    assert torch.equal(loaded(source(tree)).train.inputs[0], pixels(tree / FIRST))


def test_images_may_be_written_to_without_changing_the_cache(tree: Path, loaded: Loader) -> None:
    data = loaded(tree)
    kept = data.train.inputs.clone()
    data.train.inputs.zero_()
    assert torch.equal(loaded(tree).train.inputs, kept)


def test_interrupted_decoding_leaves_nothing(
    tree: Path, cache: Path, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = itertools.count()

    def interrupt() -> None:
        if next(images) == 15:
            raise KeyboardInterrupt

    with before_each_image(monkeypatch, interrupt), pytest.raises(KeyboardInterrupt):
        loaded(tree)
    assert kept(cache) == []
    assert len(loaded(tree).val.labels) == 6


def test_of_two_at_once_one_decodes(
    tree: Path, cache: Path, loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_came = threading.Barrier(2, timeout=30)
    images: list[None] = []

    @contextmanager
    def watched(path: Path, wait: bool) -> Iterator[None]:
        both_came.wait()
        with locked(path, wait):
            yield

    monkeypatch.setattr(symrun.files, "locked", watched)
    results: list[Dataset] = []
    threads = [threading.Thread(target=lambda: results.append(loaded(tree))) for _ in range(2)]
    with before_each_image(monkeypatch, lambda: images.append(None)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    one, other = results
    assert_equal(one, other)
    assert len(images) == 18 and len(kept(cache)) == 1


def test_what_a_killed_process_left_is_removed(tree: Path, cache: Path, loaded: Loader) -> None:
    """Also of other images, which nobody might ask for again; what the user put there stays."""
    code = f"""
import os, signal, sys
from pathlib import Path
from symrun.data.registry import TinyImageNetConfig
from symrun.data import decoding, load
decode = decoding.pixels
def killed(source, name, form):
    if name.startswith("val"):
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(source, name, form)
decoding.pixels = killed
load(TinyImageNetConfig("tiny_imagenet", Path({str(tree)!r}), Path({str(cache)!r})))
"""
    process = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    assert process.returncode == -signal.SIGKILL
    (left,) = kept(cache)
    assert left.name.startswith(".tiny_imagenet-")
    os.utime(tree / FIRST)  # another key
    (cache / "notes").touch()
    loaded(tree)
    assert not left.exists() and (cache / "notes").exists()


@pytest.mark.usefixtures("every_line_of_a_bar")
def test_progress_is_on_standard_error(
    tree: Path, loaded: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(tree)
    output = capsys.readouterr()
    assert output.out == ""
    assert "18/18" in output.err


# What a user may give by mistake: the tree is spoilt, and the file to blame returned.


def corrupt(tree: Path) -> Path:
    (tree / FIRST).write_bytes(b"no JPEG at all")
    return tree / FIRST


def empty(tree: Path) -> Path:
    (tree / FIRST).write_bytes(b"")
    return tree / FIRST


def truncated(tree: Path) -> Path:
    path = tree / "val/images/val_3.JPEG"
    path.write_bytes(path.read_bytes()[:-1])
    return path


def another_size(tree: Path) -> Path:
    (tree / FIRST).write_bytes(jpeg(seed=0, size=32))
    return tree / FIRST


def not_even_close_to_the_size(tree: Path) -> Path:
    """A small file that claims 65,500 x 65,500 pixels."""
    content = bytearray(jpeg(seed=0))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = bytes([0xFF, 0xDC, 0xFF, 0xDC])
    (tree / FIRST).write_bytes(content)
    return tree / FIRST


def too_large(tree: Path) -> Path:
    (tree / FIRST).write_bytes(jpeg(seed=0) + bytes(2**20))
    return tree / FIRST


def missing_train_image(tree: Path) -> Path:
    (tree / FIRST).unlink()
    return tree / FIRST


def missing_images_of_a_class(tree: Path) -> Path:
    shutil.rmtree(tree / "train/n01/images")
    return tree / FIRST


def class_without_images(tree: Path) -> Path:
    missing_images_of_a_class(tree)
    (tree / "train/n01/n01_boxes.txt").write_text("")
    return tree / "train/n01"


def missing_val_image(tree: Path) -> Path:
    (tree / "val/images/val_3.JPEG").unlink()
    return tree / "val/images/val_3.JPEG"


def missing_annotations(tree: Path) -> Path:
    (tree / "val/val_annotations.txt").unlink()
    return tree / "val/val_annotations.txt"


def annotations_without_classes(tree: Path) -> Path:
    (tree / "val/val_annotations.txt").write_text("val_0.JPEG\n")
    return tree / "val/val_annotations.txt"


def no_val_images_of_these_classes(tree: Path) -> Path:
    (tree / "val/val_annotations.txt").write_text("val_0.JPEG\tn99\n")
    return tree / "val/images"


def no_classes(tree: Path) -> Path:
    shutil.rmtree(tree / "train")
    return tree / "train"


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        corrupt,
        empty,
        truncated,
        another_size,
        not_even_close_to_the_size,
        too_large,
        missing_train_image,
        missing_images_of_a_class,
        class_without_images,
        missing_val_image,
        missing_annotations,
        annotations_without_classes,
        no_val_images_of_these_classes,
        no_classes,
    ],
)
def test_refusal_names_the_file(
    tree: Path, cache: Path, loaded: Loader, spoil: Callable[[Path], Path], archived: bool
) -> None:
    culprit = spoil(tree)
    if archived:
        archive = zipped(tree)
        name = f"{archive}!tiny-imagenet-200/{culprit.relative_to(tree)} "
        assert refusal(loaded, archive).startswith(name)
    else:
        assert refusal(loaded, tree).startswith(f"{culprit} ")
    assert not cache.exists() or kept(cache) == []


def test_root_that_does_not_exist_is_refused(tmp_path: Path, loaded: Loader) -> None:
    missing = tmp_path / "nowhere"
    assert f"data.root={missing} does not exist" in refusal(loaded, missing)


def test_root_that_cannot_be_looked_up_is_refused(loaded: Loader) -> None:
    longer_than_a_name_may_be = Path("x" * 300)
    message = refusal(loaded, longer_than_a_name_may_be)
    assert message.startswith(f"data.root={longer_than_a_name_may_be} cannot be read")


@pytest.mark.parametrize("kept", [0, 100, -10])
def test_truncated_zip_is_refused(tree: Path, loaded: Loader, kept: int) -> None:
    archive = zipped(tree)
    archive.write_bytes(archive.read_bytes()[:kept])
    assert refusal(loaded, archive).startswith(f"{archive} is not a zip archive")


def test_damaged_zip_member_is_refused(tree: Path, loaded: Loader) -> None:
    archive = zipped(tree)
    image = (tree / FIRST).read_bytes()
    archive.write_bytes(archive.read_bytes().replace(image, image[:-9] + b"9" + image[-8:]))
    assert f"{archive}!tiny-imagenet-200/{FIRST} cannot be read" in refusal(loaded, archive)


@pytest.mark.parametrize(
    "member", ["../evil.txt", "tiny-imagenet-200/train/../../../evil", "/etc/evil", "C:\\evil"]
)
def test_zip_that_points_outside_of_itself_is_refused(
    tree: Path, loaded: Loader, member: str
) -> None:
    archive = zipped(tree)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(member, "evil")
    assert refusal(loaded, archive).startswith(f"{archive}!{member} points outside")


def test_file_names_with_dots_are_no_danger(tree: Path, loaded: Loader) -> None:
    archive = zipped(tree)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("tiny-imagenet-200/..notes..txt", "harmless")
    assert loaded(archive).classes == 3


def test_cache_that_cannot_be_made_is_refused(tree: Path, cache: Path, loaded: Loader) -> None:
    cache.write_text("a file where the folder should be")
    message = refusal(loaded, tree)
    assert f"data.cache={cache} cannot be written" in message


def test_full_disk_is_refused_and_leaves_nothing(tree: Path, cache: Path, loaded: Loader) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 64 * 64 * 3, hard))
    try:
        message = refusal(loaded, tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"data.cache={cache} cannot be written" in message
    assert kept(cache) == []


def test_damaged_cache_is_refused(tree: Path, cache: Path, loaded: Loader) -> None:
    loaded(tree)
    (folder,) = kept(cache)
    images = folder / "val_images.npy"
    images.write_bytes(images.read_bytes()[:-1])
    assert refusal(loaded, tree).startswith(f"{folder} holds damaged val images")


@pytest.fixture
def official(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zip that plays the part of the official one."""
    archive = zipped(tree)
    content = archive.read_bytes()
    monkeypatch.setattr(symrun.data.download, "URL", archive.as_uri())
    monkeypatch.setattr(symrun.data.download, "SIZE_BYTES", len(content))
    monkeypatch.setattr(symrun.data.download, "MD5", hashlib.md5(content).hexdigest())
    return archive


def test_without_root_the_zip_is_downloaded_once(
    official: Path, cache: Path, loaded: Loader
) -> None:
    first = loaded(None)
    assert (cache / "tiny-imagenet-200.zip").read_bytes() == official.read_bytes()
    official.unlink()
    assert_equal(loaded(None), first)


def test_failed_download_is_refused(official: Path, cache: Path, loaded: Loader) -> None:
    official.unlink()
    message = refusal(loaded, None)
    assert message.startswith("the download of tiny-imagenet-200.zip came to 0 of")
    assert "data.root=DIR" in message
