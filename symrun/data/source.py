"""Reads Tiny ImageNet's files from the zip or an unpacked folder."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

from symrun.data import jpeg
from symrun.data.jpeg import MAX_FILE_BYTES
from symrun.errors import UsageError, in_one_line

FOLDER = "tiny-imagenet-200"
SPLITS = ("train", "val")

# The genuine archive has 110,201 files in train/ and val/, and a list of members of 15 MB. Far more
# is a mistake, or an attack on the memory or the disk.
_MAX_FILES = 2**18
_MAX_LIST_BYTES = 2**25
_LEAVES_THE_ARCHIVE = re.compile(r"^([A-Za-z]:|[/\\])|(^|[/\\])\.\.([/\\]|$)")
_OFFICIAL = "use the official archive: leave data.root out to download it"


@dataclass(frozen=True)
class Source:
    """The files of train/ and val/, by their names below tiny-imagenet-200/.

    files: name -> (bytes, CRC in a zip or modification time in a folder). where: the prefix of a
    name in messages. folder: the prefix that makes a name a path; None for a zip.
    """

    files: Mapping[str, tuple[int, int]]
    where: str
    contents: Callable[[str], bytes]
    folder: str | None = None

    def __post_init__(self) -> None:
        if len(self.files) > _MAX_FILES:
            many = f"{self.display_name('')} holds {len(self.files)} files in train/ and val/"
            raise UsageError(f"{many}, more than the {_MAX_FILES} that are allowed: {_OFFICIAL}")
        for name, (size, _) in self.files.items():
            if size > MAX_FILE_BYTES:
                limit = f"more than the {MAX_FILE_BYTES} that a file of Tiny ImageNet may have"
                raise UsageError(f"{self.display_name(name)} has {size} bytes, {limit}: replace it")

    @property
    def key(self) -> str:
        """A digest of the content: sources with the same key decode to the same images."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]

    def display_name(self, name: str) -> str:
        """The name of a file in a message."""
        return in_one_line(self.where + name)

    def read(self, name: str) -> bytes:
        """The content of a file. Error: UsageError if it is missing or cannot be read."""
        if name not in self.files:
            raise UsageError(f"{self.display_name(name)} is missing: fetch the data set again")
        try:
            return self.contents(name)
        except MemoryError:
            raise
        except Exception as error:  # zipfile meets damage with errors of a dozen types
            problem = in_one_line(error) or type(error).__name__
            raise UsageError(f"{self.display_name(name)} cannot be read: {problem}") from None


@contextmanager
def open_source(root: Path) -> Iterator[Source]:
    """The zip or the folder at `root`: tiny-imagenet-200 itself, or the folder it lies in.

    Error: UsageError if there is neither, or the zip is damaged or unsafe.
    """
    given = f"data.root={in_one_line(root)}"
    with ExitStack() as opened:
        try:
            if not root.exists():
                remedy = f"give {FOLDER}.zip or its unpacked folder, or leave it out to download"
                raise UsageError(f"{given} does not exist: {remedy}")
            source = _open_folder(root) if root.is_dir() else _open_zip(root, opened)
        except OSError as error:
            raise UsageError(f"{given} cannot be read: {in_one_line(error)}") from None
        yield source


def _open_folder(root: Path) -> Source:
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    files = {name: stamp for split in SPLITS for name, stamp in _stamps(base / split, split)}
    return Source(files, f"{base}/", lambda name: jpeg.read(f"{base}/{name}"), f"{base}/")


def _stamps(folder: Path | str, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _stamps(entry.path, f"{name}/{entry.name}")
        elif entry.is_file():  # a pipe or a device might never end
            status = entry.stat()
            yield f"{name}/{entry.name}", (status.st_size, status.st_mtime_ns)


def _open_zip(path: Path, opened: ExitStack) -> Source:
    archive = opened.enter_context(_archive(path, opened))
    members = archive.infolist()
    for member in members:
        if _LEAVES_THE_ARCHIVE.search(member.filename):
            culprit = in_one_line(f"{path}!{member.filename}")
            raise UsageError(f"{culprit} points outside of the archive: {_OFFICIAL}")
    within = f"{FOLDER}/"
    prefix = within if any(member.filename.startswith(within) for member in members) else ""
    files = {
        member.filename.removeprefix(prefix): (member.file_size, member.CRC)
        for member in members
        if member.filename.startswith(tuple(f"{prefix}{split}/" for split in SPLITS))
        and not member.is_dir()
    }
    return Source(files, f"{path}!{prefix}", lambda name: _member(archive, prefix + name))


def _archive(path: Path, opened: ExitStack) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(opened.enter_context(_ZipReader(FileIO(path))))
    except (OSError, UsageError, MemoryError):
        raise
    except Exception:  # zipfile meets damage with errors of a dozen types
        problem = "is not a zip archive, or is cut short: remove it and fetch it again"
        raise UsageError(f"{in_one_line(path)} {problem}") from None


class _ZipReader(BufferedReader):
    """A file that refuses to read a list of members large enough to fill the memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_LIST_BYTES:
            limit = f"{size} bytes, more than the {_MAX_LIST_BYTES} that are allowed"
            raise UsageError(
                f"{in_one_line(self.name)}: the list of its members has {limit}: {_OFFICIAL}"
            )
        return super().read(size)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, cut to the size that the archive claims, which `Source` limits.

    archive.read and other compression methods would unpack all of it before they cut.
    """
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {member.compress_type}, not by deflate")
    with archive.open(member) as file:
        return file.read(member.file_size)
