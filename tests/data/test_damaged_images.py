"""Whatever an archive, an image or the cache holds: it works, or one line says what is wrong."""

import ctypes
import lzma
import os
import shutil
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutated
from PIL import Image

import symrun.data.source
from symrun.data import Dataset, Split, load
from symrun.data.decoded import splits
from symrun.data.decoding import pixels
from symrun.data.jpeg import TINY_IMAGENET
from symrun.data.registry import TinyImageNetConfig
from symrun.data.source import Source, open_source
from symrun.errors import UsageError

# Far above the milliseconds that an input takes, far below what a user takes for a hang.
LONGEST_SECONDS = 10.0
# An archive of kilobytes has no need of more; what Pillow and numpy load at first use fits in.
MOST_BYTES = 64 * 2**20

IMAGE = "tiny-imagenet-200/train/n01/images/n01_0.JPEG"


def photograph(seed: int, mode: str = "RGB", **options: Any) -> bytes:
    """64x64 pixels of a few soft colours, a kilobyte, so that damage meets headers often."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).convert(mode)
    file = BytesIO()
    image.save(file, **{"format": "JPEG", **options})
    return file.getvalue()


def _splits(folder: Path) -> tuple[Split, Split]:
    return splits(folder, TINY_IMAGENET)


def miniature() -> bytes:
    """A zip of two classes, with four images for training and two for validation."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:

        def add(name: str, content: bytes | str) -> None:
            """Stored and deflated by turns."""
            method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[len(archive.infolist()) % 2]
            archive.writestr(f"tiny-imagenet-200/{name}", content, method)

        for wnid in ("n01", "n02"):
            names = [f"{wnid}_{number}.JPEG" for number in (0, 1)]
            add(f"train/{wnid}/{wnid}_boxes.txt", "".join(f"{name}\t0\t0\n" for name in names))
            for number, name in enumerate(names):
                add(f"train/{wnid}/images/{name}", photograph(10 * int(wnid[1:]) + number))
        add("val/val_annotations.txt", "val_0.JPEG\tn01\t0\nval_1.JPEG\tn02\t0\n")
        for number in (0, 1):
            add(f"val/images/val_{number}.JPEG", photograph(100 + number))
        for number in range(6):  # which nothing reads: damage there does none
            add(f"test/images/test_{number}.JPEG", photograph(200 + number))
    return file.getvalue()


def jpegs() -> list[bytes]:
    """One of each kind that Pillow has code for."""
    other = Image.open(BytesIO(photograph(1)))
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return [
        photograph(2),
        photograph(3, progressive=True),
        photograph(4, mode="L"),
        photograph(5, mode="CMYK"),
        photograph(6, optimize=True, restart_marker_rows=1, subsampling=0),
        photograph(7, exif=exif, icc_profile=bytes(200), comment=b"a comment"),
        photograph(8, format="MPO", save_all=True, append_images=[other]),
    ]


@contextmanager
def bounded_memory(most: int = MOST_BYTES) -> Iterator[None]:
    """The process grows by no more than that, C libraries included; checked on Linux only."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not os.access(reset, os.W_OK):
        yield
        return

    def peak() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    ctypes.CDLL(None).malloc_trim(0)  # else what training kept would be taken first
    reset.write_text("5")  # the highest so far becomes what is now
    before = peak()
    yield
    assert peak() - before < most


def test_memory_is_measured() -> None:
    if os.access("/proc/self/clear_refs", os.W_OK):
        with pytest.raises(AssertionError), bounded_memory():
            bytearray(b"\1") * (2 * MOST_BYTES)


def outcome(act: Callable[[], object]) -> str:
    """Nothing if it works, else what the user is told."""
    start = time.monotonic()
    line = ""
    try:
        act()
    except UsageError as error:
        line = str(error)
        assert line and line.isprintable()  # which no line break is
    assert time.monotonic() - start < LONGEST_SECONDS
    return line


def fuzz(contents: list[bytes], count: int, act: Callable[[bytes], object]) -> tuple[int, int]:
    """How many of `count` damaged inputs worked, and how many were refused."""
    refused = 0
    with bounded_memory():
        for seed in range(count):
            content = contents[seed % len(contents)]
            damaged = mutated(content, Random(seed))
            try:
                refused += outcome(lambda damaged=damaged: act(damaged)) != ""
            except BaseException as error:
                error.add_note(f"mutated(contents[{seed % len(contents)}], Random({seed}))")
                raise
    print(f"{count - refused} worked, {refused} refused")
    return count - refused, refused


@pytest.fixture
def load_zip(tmp_path: Path) -> Callable[[bytes], Dataset]:
    """Loads an archive with this content, into a cache of its own."""
    root, cache = tmp_path / "some.zip", tmp_path / "cache"

    def loaded(content: bytes) -> Dataset:
        root.write_bytes(content)
        shutil.rmtree(cache, ignore_errors=True)
        return load(TinyImageNetConfig("tiny_imagenet", root, cache))

    return loaded


@pytest.fixture
def folder(load_zip: Callable[[bytes], Dataset], tmp_path: Path) -> Path:
    """The decoded images of the miniature, all in bytes of 12 kB."""
    load_zip(miniature())
    (decoded,) = (tmp_path / "cache").glob("tiny_imagenet-*")
    return decoded


def decoded(jpeg: bytes) -> bytes:
    return pixels(Source({"some.JPEG": (len(jpeg), 0)}, "", lambda _: jpeg), "some.JPEG")


# Damage by chance.


def fuzz_zips(load_zip: Callable[[bytes], Dataset], count: int) -> None:
    genuine = {
        image.numpy().tobytes()
        for split in (load_zip(miniature()).train, load_zip(miniature()).val)
        for image in split.inputs
    }

    def act(content: bytes) -> None:
        data = load_zip(content)
        for split in (data.train, data.val):
            assert {image.numpy().tobytes() for image in split.inputs} <= genuine
            assert 0 <= split.labels.min() and split.labels.max() < data.classes

    worked, refused = fuzz([miniature()], count, act)
    assert worked >= count / 100 and refused >= count / 2


def test_damaged_zips(load_zip: Callable[[bytes], Dataset]) -> None:
    fuzz_zips(load_zip, 150)


@pytest.mark.slow
def test_many_damaged_zips(load_zip: Callable[[bytes], Dataset]) -> None:
    fuzz_zips(load_zip, 2000)


def fuzz_jpegs(count: int) -> None:
    def act(content: bytes) -> None:
        assert len(decoded(content)) == 3 * 64 * 64

    worked, refused = fuzz(jpegs(), count, act)
    assert worked >= count / 10 and refused >= count / 10


def test_damaged_jpegs(capfd: pytest.CaptureFixture[str]) -> None:
    fuzz_jpegs(150)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_many_damaged_jpegs(capfd: pytest.CaptureFixture[str]) -> None:
    fuzz_jpegs(1500)
    assert capfd.readouterr().err == ""


def fuzz_cache(folder: Path, count: int) -> None:
    """`count` for each of the four files."""
    for damaged in sorted(folder.glob("*.npy")):
        genuine = damaged.read_bytes()

        def act(content: bytes, path: Path = damaged) -> None:
            path.unlink()  # not written over, since it may be mapped into memory still
            path.write_bytes(content)
            for split in _splits(folder):
                assert split.inputs.shape == (len(split.labels), 3, 64, 64)
                assert split.inputs.sum() >= 0  # all of it is there to be read
                assert 0 <= split.labels.min() and split.labels.max() <= 1

        worked, refused = fuzz([genuine], count, act)
        # Hardly any damage to labels leaves labels, but much of that to images leaves images.
        assert refused >= count / 4 and (worked >= count / 10 or "labels" in damaged.name)
        act(genuine)


def test_damaged_cache(folder: Path) -> None:
    fuzz_cache(folder, 150)


@pytest.mark.slow
def test_much_damaged_cache(folder: Path) -> None:
    fuzz_cache(folder, 500)


# Damage on purpose: archives.


def patched(content: bytes, name: str, *, in_list: dict[int, bytes], local: bool = True) -> bytes:
    """The archive with bytes of a member's entry in the list changed, and in its own header too.

    in_list: place in the entry -> bytes. APPNOTE.TXT 4.3.12 has the places; in a member's own
    header, all from the version needed (6) to the sizes stand two bytes sooner.
    """
    damaged = bytearray(content)
    entry = content.rindex(name.encode()) - 46
    header = content.index(name.encode()) - 30
    assert content[entry:][:4] == b"PK\1\2" and content[header:][:4] == b"PK\3\4"
    for place, value in in_list.items():
        damaged[entry + place : entry + place + len(value)] = value
        if local:
            damaged[header + place - 2 : header + place - 2 + len(value)] = value
    return bytes(damaged)


FLAGS, METHOD, CRC, FILE_SIZE = 8, 10, 16, 24


def with_member(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The miniature with that member instead of its own of that name."""
    file = BytesIO()
    with (
        zipfile.ZipFile(BytesIO(miniature())) as old,
        zipfile.ZipFile(file, "w") as new,
    ):
        for member in old.infolist():
            if member.filename != name:
                new.writestr(member, old.read(member))
        new.writestr(name, content, method)
    return file.getvalue()


def test_member_that_unpacks_to_more_than_it_claims(
    load_zip: Callable[[bytes], Dataset], tmp_path: Path
) -> None:
    """256 MiB in 260 kB, said to be 100 bytes, with the sum of those."""
    bomb = with_member(IMAGE, bytes(2**28))
    sizes = {CRC: struct.pack("<L", zlib.crc32(bytes(100))), FILE_SIZE: struct.pack("<L", 100)}
    bomb = patched(bomb, IMAGE, in_list=sizes)
    with bounded_memory():
        line = outcome(lambda: load_zip(bomb))
    assert line.startswith(f"{tmp_path}/some.zip!{IMAGE} is not a JPEG or PNG of 64x64 pixels")


def test_member_that_claims_more_than_a_file_has(load_zip: Callable[[bytes], Dataset]) -> None:
    bomb = with_member(IMAGE, bytes(2**20 + 1))
    assert f"{IMAGE} has 1048577 bytes, more than" in outcome(lambda: load_zip(bomb))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 99])
def test_method_that_unpacks_without_bound_is_refused(
    load_zip: Callable[[bytes], Dataset], method: int
) -> None:
    """For each, zipfile unpacks all that 4 kB may hold, in one go, before it cuts."""
    known = method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    bomb = with_member(IMAGE, photograph(0), method if known else zipfile.ZIP_STORED)
    bomb = patched(bomb, IMAGE, in_list={METHOD: struct.pack("<H", method)})
    message = f"{IMAGE} cannot be read: it is compressed by method {method}, not by deflate"
    assert message in outcome(lambda: load_zip(bomb))


def test_encrypted_member_is_refused(load_zip: Callable[[bytes], Dataset]) -> None:
    line = outcome(lambda: load_zip(patched(miniature(), IMAGE, in_list={FLAGS: b"\1"})))
    assert f"{IMAGE} cannot be read: " in line and "encrypted" in line


def test_absurdly_long_list_of_members_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "some.zip"
    length = 2**25 + 1
    with open(root, "wb") as file:
        file.seek(length)  # a hole: no disk is filled for this
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, length, 0, 0))
    with bounded_memory(2**23), pytest.raises(UsageError, match=f"{length} bytes, more than"):
        with open_source(root):
            pass


@pytest.mark.parametrize("packed", [True, False])
def test_absurd_number_of_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """Together with the limit of one, it is what bounds all that can be unpacked."""
    root = tmp_path / "some.zip"
    root.write_bytes(miniature())
    if not packed:
        with zipfile.ZipFile(root) as archive:
            archive.extractall(tmp_path)
        root = tmp_path
    monkeypatch.setattr(symrun.data.source, "_MAX_FILES", 8)
    with pytest.raises(UsageError, match="holds 9 files in train/ and val/, more than the 8"):
        with open_source(root):
            pass


@pytest.mark.parametrize("name", ["../evil", "/{tmp}/evil", "tiny-imagenet-200/train/../../evil"])
def test_nothing_is_written_outside_of_the_cache(
    load_zip: Callable[[bytes], Dataset], tmp_path: Path, name: str
) -> None:
    evil = with_member(name.format(tmp=tmp_path), b"evil")
    assert "points outside of the archive" in outcome(lambda: load_zip(evil))
    assert [path.name for path in tmp_path.iterdir()] == ["some.zip"]


NAMES = ["a\nb", "a\r\x1b[2J", "a\u2028b\x85", "a" * 30_000]


@pytest.mark.parametrize("name", NAMES, ids=["break", "escape", "separator", "length"])
def test_names_make_no_second_line(load_zip: Callable[[bytes], Dataset], name: str) -> None:
    """Wherever a name can get into a message; `outcome` looks at what it is made of."""
    folder = "tiny-imagenet-200"
    annotations, boxes = f"{folder}/val/val_annotations.txt", f"{folder}/train/n01/n01_boxes.txt"
    for content in (
        with_member(f"../{name}", b""),
        with_member(f"{folder}/train/n01/{name}.png", bytes(2**20 + 1)),
        with_member(f"{folder}/train/{name}/{name}_boxes.txt", b""),
        with_member(f"{folder}/train/n01/images/{name}.JPEG", b"no JPEG"),
        with_member(boxes, name.encode()),
        with_member(annotations, f"{name}\tn01\n".encode()),
    ):
        line = outcome(lambda content=content: load_zip(content))
        assert 0 < len(line) < 3000


def test_name_that_is_no_text_is_refused(load_zip: Callable[[bytes], Dataset]) -> None:
    """Said to be UTF-8."""
    unreadable = patched(miniature(), IMAGE, in_list={FLAGS: b"\0\x08", 46: b"\xff"}, local=False)
    assert "is not a zip archive, or is cut short" in outcome(lambda: load_zip(unreadable))


FOREIGN_ERRORS = [
    *(struct.error, NotImplementedError, zlib.error, lzma.LZMAError, OverflowError, EOFError),
    *(AssertionError, IndexError, KeyError, OSError, RecursionError, SyntaxError, TypeError),
]


@pytest.mark.parametrize("error", FOREIGN_ERRORS)
def test_any_error_of_a_reader_is_one_line(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise error

    line = outcome(lambda: Source({"some": (0, 0)}, "", fail).read("some"))
    assert line.startswith("some cannot be read: ") and not line.endswith(": ")
    monkeypatch.setattr(Image, "open", fail)
    assert "some.JPEG is not a JPEG" in outcome(lambda: decoded(b""))


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_is_not_about_the_content_passes(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise error

    with pytest.raises(error):
        Source({"some": (0, 0)}, "", fail).read("some")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(error):
        decoded(b"")
    monkeypatch.setattr(np.lib.format, "read_magic", fail)
    with pytest.raises(error):
        _splits(folder)
    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(error), open_source(tmp_path / "some.zip"):
        pass


def test_folder_may_hold_what_never_ends(tmp_path: Path) -> None:
    """A pipe is passed over, and of a file that has grown no more is read than one may have."""
    with zipfile.ZipFile(BytesIO(miniature())) as archive:
        archive.extractall(tmp_path)
    os.mkfifo((tmp_path / IMAGE).with_name("pipe.JPEG"))
    assert load(TinyImageNetConfig("tiny_imagenet", tmp_path, tmp_path / "cache")).classes == 2
    with open_source(tmp_path) as source:
        os.truncate(tmp_path / IMAGE, 2**40)
        assert len(source.read(IMAGE.removeprefix("tiny-imagenet-200/"))) == 2**20


# Damage on purpose: images.


def claiming(width: int, height: int) -> bytes:
    content = bytearray(photograph(0))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize("size", [(65_500, 65_500), (10_000, 10_000), (64, 65), (0, 64), (63, 64)])
def test_another_size_is_refused_unseen(
    size: tuple[int, int], recwarn: pytest.WarningsRecorder
) -> None:
    """Of the first, Pillow would raise an error; of the second, it would warn."""
    with bounded_memory():
        assert "some.JPEG is not a JPEG or PNG of 64x64" in outcome(
            lambda: decoded(claiming(*size))
        )
    assert not recwarn.list


def test_odd_images_make_no_noise(recwarn: pytest.WarningsRecorder) -> None:
    """Pillow warns that this one only begins like a file of several."""
    content = photograph(0)
    marked = content[:2] + b"\xff\xe2\x00\x08MPF\0??" + content[2:]
    with pytest.warns(UserWarning, match="malformed MPO"):
        Image.open(BytesIO(marked))
    with warnings.catch_warnings(record=True, action="always") as heard:
        assert decoded(marked) == decoded(content)
    assert heard == []


def test_other_formats_are_refused() -> None:
    for kind in ("GIF", "TIFF", "PPM"):
        assert "is not a JPEG or PNG" in outcome(
            lambda kind=kind: decoded(photograph(0, format=kind))
        )


def test_image_of_many_scans_takes_bounded_time() -> None:
    """A progressive image, the head of whose last scan comes again until the file is full."""
    content = photograph(0, progressive=True)
    scan = content.rindex(b"\xff\xda")
    head = content[scan : scan + 10]
    content = content[:-2] + head * ((2**20 - len(content)) // len(head)) + content[-2:]
    with bounded_memory():
        assert outcome(lambda: decoded(content)) == ""


# Damage on purpose: the cache.


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["images", "labels"])
def test_cache_never_unpickles(folder: Path, tmp_path: Path, name: str) -> None:
    harm = tmp_path / "harm"
    path = folder / f"train_{name}.npy"
    np.save(path, np.array([Harm(harm)] * 4), allow_pickle=True)
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged train images")
    assert not harm.exists()
    np.load(path, allow_pickle=True)
    assert harm.exists()  # so the file would have done it
    harm.rmdir()
    path.write_bytes(np.array([Harm(harm)] * 4).dumps())  # a pickle and nothing else
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged train images")
    assert not harm.exists()


LABELS = {
    "too few": [0, 0, 1],
    "too many": [0, 0, 1, 1, 1],
    "negative": [-1, 0, 1, 1],
    "a class without images": [0, 0, 2, 2],
    "begins with another": [1, 1, 1, 1],
    "out of order": [0, 1, 0, 1],
    "none": [],
    "far too large": [0, 0, 1, 2**62],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_train_that_cannot_be_are_refused(folder: Path, labels: list[int]) -> None:
    np.save(folder / "train_labels.npy", np.array(labels, dtype=np.int64))
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged train images")


@pytest.mark.parametrize("labels", [[0], [0, 0, 1], [0, 2], [-1, 0], []], ids=str)
def test_labels_of_val_that_cannot_be_are_refused(folder: Path, labels: list[int]) -> None:
    np.save(folder / "val_labels.npy", np.array(labels, dtype=np.int64))
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged val images")


ARRAYS = {
    "dtype": lambda images: images.astype(np.int8),
    "wider dtype": lambda images: images.astype(np.uint16),
    "shape": lambda images: images.reshape(4, 3, 32, 128),
    "fewer dimensions": lambda images: images.ravel(),
    "order": np.asfortranarray,
    "fewer images": lambda images: images[:3],
    "a record": lambda images: images.view([("a", np.uint8)]),
    "no images": lambda images: images[:0],
}


@pytest.mark.parametrize("change", ARRAYS.values(), ids=ARRAYS)
def test_images_of_another_kind_are_refused(
    folder: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> None:
    path = folder / "train_images.npy"
    np.save(path, change(np.load(path)))
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged train images")


def test_header_that_claims_to_be_long_is_not_read(folder: Path) -> None:
    """Version 2 has four bytes for its length."""
    path = folder / "train_images.npy"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\2\0" + struct.pack("<L", 2**29))
        file.truncate(2**29)
    with bounded_memory():
        assert "holds damaged train images" in outcome(lambda: _splits(folder))


def test_split_without_images_is_refused(folder: Path) -> None:
    """Both files of it agree."""
    for name in ("images", "labels"):
        path = folder / f"train_{name}.npy"
        np.save(path, np.load(path)[:0])
    assert outcome(lambda: _splits(folder)).startswith(f"{folder} holds damaged train images")


def test_odd_headers_make_no_noise(folder: Path) -> None:
    """numpy mends this one, which Python 2 would have written, and warns."""
    path = folder / "train_images.npy"
    path.write_bytes(path.read_bytes().replace(b"(4, 3, 64, 64), }", b"(4L,3, 64, 64), }"))
    with pytest.warns(UserWarning, match="Python 2"):
        np.load(path)
    with warnings.catch_warnings(record=True, action="always") as heard:
        assert len(_splits(folder)[0].labels) == 4
    assert heard == []


def test_missing_file_is_refused(folder: Path) -> None:
    (folder / "val_labels.npy").unlink()
    line = outcome(lambda: _splits(folder))
    assert line.startswith(f"{folder} cannot be read") and "val_labels.npy" in line


def test_any_flipped_bit_in_a_header_changes_nothing_or_is_refused(folder: Path) -> None:
    genuine = _splits(folder)
    refused = 0
    for path in sorted(folder.glob("*.npy")):
        content = path.read_bytes()
        header = 128
        for bit in range(8 * header):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.unlink()
            path.write_bytes(damaged)
            try:
                found = _splits(folder)
            except UsageError:
                refused += 1
                continue
            for split, other in zip(found, genuine, strict=True):
                assert torch.equal(split.inputs, other.inputs), bit
                assert torch.equal(split.labels, other.labels), bit
        path.unlink()
        path.write_bytes(content)
    # Of 128 bytes, those of the padding may change into other white space.
    assert refused > 4 * 8 * header * 0.9
