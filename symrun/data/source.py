"""Where Tiny ImageNet's files are read from: the zip, its download, or an unpacked folder."""

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file

from symrun.errors import UsageError
from symrun.files import complete_or_absent

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
SPLITS = ("train", "val")

# The largest genuine file of train/ and val/ has 347 kB; more is no 64x64 image but a mistake, or
# an archive made to fill the memory.
_MAX_FILE_BYTES = 2**20
_LEAVES_THE_ARCHIVE = re.compile(r"^([A-Za-z]:|[/\\])|(^|[/\\])\.\.([/\\]|$)")
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Source:
    """The files of train/ and val/, by their names below tiny-imagenet-200/.

    files: name -> (bytes, CRC in a zip or modification time in a folder). where: what, put before
    a name, tells the user which file is meant.
    """

    files: Mapping[str, tuple[int, int]]
    where: str
    contents: Callable[[str], bytes]

    def __post_init__(self) -> None:
        for name, (size, _) in self.files.items():
            if size > _MAX_FILE_BYTES:
                limit = f"more than the {_MAX_FILE_BYTES} that a file of Tiny ImageNet may have"
                raise UsageError(f"{self.where}{name} has {size} bytes, {limit}: replace it")

    @property
    def key(self) -> str:
        """Names the content: another source with the same key decodes to the same images."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        """Error: UsageError if there is no such file or it cannot be read."""
        if name not in self.files:
            raise UsageError(f"{self.where}{name} is missing: fetch the data set again")
        try:
            return self.contents(name)
        except _UNREADABLE as error:
            raise UsageError(f"{self.where}{name} cannot be read: {error}") from None


def open_source(root: Path) -> Source:
    """The zip or the folder at `root`: tiny-imagenet-200 itself, or the folder it lies in.

    Error: UsageError if there is neither, or the zip is damaged or unsafe.
    """
    try:
        if not root.exists():
            remedy = f"give {FOLDER}.zip or its unpacked folder, or leave data.root out to download"
            raise UsageError(f"data.root={root} does not exist: {remedy}")
        return _open_folder(root) if root.is_dir() else _open_zip(root)
    except OSError as error:
        raise UsageError(f"data.root={root} cannot be read: {error}") from None


def download(cache: Path) -> Path:
    """The official zip in `cache`, fetched and verified unless it is there already.

    Error: UsageError if it cannot be fetched or stored, or is not the file it should be.
    """
    archive = cache / f"{FOLDER}.zip"
    alternative = f"give the zip or its unpacked folder with data.root=DIR ({URL})"
    try:
        if archive.exists():
            return archive
        with complete_or_absent(archive) as draft:
            download_url_to_file(URL, str(draft))
            with open(draft, "rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            if digest != MD5:
                wrong = f"the download of {archive.name} has MD5 {digest} instead of {MD5}"
                raise UsageError(f"{wrong}: try again, or {alternative}")
    except (OSError, HTTPException) as error:
        failed = f"{archive.name} cannot be downloaded into data.cache={cache} ({error})"
        raise UsageError(f"{failed}: {alternative}") from None
    return archive


def _open_folder(root: Path) -> Source:
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    files = {name: stamp for split in SPLITS for name, stamp in _stamps(base / split, split)}
    return Source(files, f"{base}/", lambda name: (base / name).read_bytes())


def _stamps(folder: Path | str, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _stamps(entry.path, f"{name}/{entry.name}")
        else:
            status = entry.stat()
            yield f"{name}/{entry.name}", (status.st_size, status.st_mtime_ns)


def _open_zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        remedy = "remove it and fetch it again"
        raise UsageError(f"{path} is not a zip archive, or is cut short: {remedy}") from None
    members = archive.infolist()
    for member in members:
        if _LEAVES_THE_ARCHIVE.search(member.filename):
            remedy = "use the archive from " + URL
            raise UsageError(f"{path}!{member.filename} points outside of the archive: {remedy}")
    within = f"{FOLDER}/"
    prefix = within if any(member.filename.startswith(within) for member in members) else ""
    files = {
        member.filename.removeprefix(prefix): (member.file_size, member.CRC)
        for member in members
        if member.filename.startswith(tuple(f"{prefix}{split}/" for split in SPLITS))
        and not member.is_dir()
    }
    return Source(files, f"{path}!{prefix}", lambda name: archive.read(prefix + name))
