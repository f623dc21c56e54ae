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
from symrun.data.jpeg import TINY_IMAGENET
from symrun.errors import UsageError, in_one_line

FOLDER = "tiny-imagenet-200"
SPLITS = ("train", "val")
ANNOTATIONS = "val/val_annotations.txt"

_IMAGES = (".jpeg", ".jpg", ".png")
_DEEPEST = 2
"""How many folders deep the data set may lie in what is given."""
# What systems and programs put beside a user's files.
_HIDDEN = re.compile(
    r"(^|/)(\.|(__MACOSX|@eaDir|lost\+found|\$RECYCLE\.BIN|thumbs\.db|desktop\.ini)(/|$))", re.I
)
# The only images that symrun once read: a cache from then holds no others.
_FIRST_READ = re.compile(r"(train|val/images)/.*\.JPEG", re.S)

# The genuine archive has 110,201 files in train/ and val/, and a list of members of 15 MB. Far more
# is a mistake, or an attack on the memory or the disk.
_MAX_FILES = 2**18
_MAX_LIST_BYTES = 2**25
_LEAVES_THE_ARCHIVE = re.compile(r"^([A-Za-z]:|[/\\])|(^|[/\\])\.\.([/\\]|$)")
_OFFICIAL = "use the official archive: leave data.root out to download it"


def is_image(name: str) -> bool:
    """Whether a file is called an image; its content tells which of the formats it has."""
    return name.lower().endswith(_IMAGES)


def is_listing(name: str) -> bool:
    """Whether it is a list of images that comes with Tiny ImageNet."""
    return name == ANNOTATIONS or name.endswith("_boxes.txt")


@dataclass(frozen=True)
class Source:
    """The files of train/ and val/ that are not hidden, by their names below tiny-imagenet-200/.

    files: name -> (bytes, CRC in a zip or modification time in a folder). where: the prefix of a
    name in messages. folder: the prefix that makes a name a path; None for a zip. limited: whether
    it may be no larger than Tiny ImageNet. remedy: what to do about an image that cannot be used.
    """

    files: Mapping[str, tuple[int, int]]
    where: str
    contents: Callable[[str], bytes]
    folder: str | None = None
    limited: bool = True
    remedy: str = "replace it"

    def __post_init__(self) -> None:
        if not self.limited:
            return
        most_bytes = TINY_IMAGENET.most_bytes
        if len(self.files) > _MAX_FILES:
            many = f"{self.display_name('')} holds {len(self.files)} files in train/ and val/"
            raise UsageError(f"{many}, more than the {_MAX_FILES} that are allowed: {_OFFICIAL}")
        for name, (size, _) in self.files.items():
            if size > most_bytes and (is_image(name) or is_listing(name)):
                limit = f"more than the {most_bytes} that a file of Tiny ImageNet may have"
                raise UsageError(f"{self.display_name(name)} has {size} bytes, {limit}: replace it")

    @property
    def key(self) -> str:
        """A digest of the content: sources with the same key decode to the same images."""
        listed = repr(sorted(self.files.items()))
        if any(is_image(name) and not _FIRST_READ.fullmatch(name) for name in self.files):
            listed += ", all formats and layouts"
        return hashlib.sha256(listed.encode()).hexdigest()[:16]

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
    """The zip or the folder at `root`: tiny-imagenet-200 itself, or a folder that either lies in.

    Error: UsageError if there is neither, or the zip is damaged or unsafe.
    """
    given = f"data.root={in_one_line(root)}"
    with ExitStack() as opened:
        try:
            if not root.exists():
                remedy = f"give {FOLDER}.zip or its unpacked folder, or leave it out to download"
                raise UsageError(f"{given} does not exist: {remedy}")
            archive = root / f"{FOLDER}.zip"
            if archive.is_file() and not any(_bases_below(str(root), _DEEPEST)):
                root = archive
            source = _open_folder(root) if root.is_dir() else _open_zip(root, opened)
        except OSError as error:
            raise UsageError(f"{given} cannot be read: {in_one_line(error)}") from None
        yield source


def _open_folder(root: Path) -> Source:
    prefixes = set(_bases_below(str(root), _DEEPEST))
    if not prefixes and (root / FOLDER).is_dir():
        prefixes = {f"{FOLDER}/"}
    base = f"{root}/" + _base(prefixes, root)
    files = {name: stamp for split in SPLITS for name, stamp in stamps(base + split, split)}
    return Source(files, base, lambda name: jpeg.read(base + name, TINY_IMAGENET.most_bytes), base)


def _bases_below(folder: str, deepest: int) -> Iterator[str]:
    """The folders that hold train/, from `folder` itself on, as prefixes of what lies in them."""
    folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    if "train" in folders:
        yield ""
    for name in folders if deepest else []:
        if not _HIDDEN.search(name) and os.access(f"{folder}/{name}", os.R_OK | os.X_OK):
            below = _bases_below(f"{folder}/{name}", deepest - 1)
            yield from (f"{name}/{prefix}" for prefix in below)


def _base(prefixes: set[str], given: Path) -> str:
    """The one of `prefixes` that is meant: the highest, or a tiny-imagenet-200 in it.

    Error: UsageError if several might be.
    """

    def rank(prefix: str) -> tuple[int, bool]:
        official = f"/{prefix}".endswith(f"/{FOLDER}/")
        return prefix.count("/") - official, not official

    best = sorted(prefixes, key=lambda prefix: (rank(prefix), prefix))[:2]
    if len(best) > 1 and rank(best[0]) == rank(best[1]):
        several = f"data.root={in_one_line(given)} holds several folders with a train/"
        raise UsageError(f"{several}: name one of them, {in_one_line(' or '.join(best))}")
    return best[0] if best else ""


def stamps(folder: str, name: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The files in `folder` and below that are not hidden, called `name`/..., as in `Source.files`;
    none if there is no such folder."""
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if _HIDDEN.search(entry.name):
            continue
        if entry.is_dir():
            yield from stamps(entry.path, f"{name}/{entry.name}")
        elif entry.is_file():  # a pipe or a device might never end
            status = entry.stat()
            yield f"{name}/{entry.name}", (status.st_size, status.st_mtime_ns)


def _open_zip(path: Path, opened: ExitStack) -> Source:
    archive = opened.enter_context(_archive(path, opened))
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if _LEAVES_THE_ARCHIVE.search(member.filename):
            culprit = in_one_line(f"{path}!{member.filename}")
            raise UsageError(f"{culprit} points outside of the archive: {_OFFICIAL}")
        name = re.sub(r"(^|/)(\.?/)+", r"\1", member.filename)
        if not member.is_dir() and not _HIDDEN.search(name):
            members[name] = member
    bases = (re.match(rf"((?:[^/]+/){{0,{_DEEPEST}}}?)train/.", name) for name in members)
    prefixes = {base[1] for base in bases if base}
    if not prefixes and any(name.startswith(f"{FOLDER}/") for name in members):
        prefixes = {f"{FOLDER}/"}
    prefix = _base(prefixes, path)
    splits = tuple(f"{prefix}{split}/" for split in SPLITS)
    files = {
        name.removeprefix(prefix): (member.file_size, member.CRC)
        for name, member in members.items()
        if name.startswith(splits)
    }
    return Source(files, f"{path}!{prefix}", lambda name: _member(archive, members[prefix + name]))


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


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member, cut to the size that the archive claims, which `Source` limits.

    archive.read and other compression methods would unpack all of it before they cut.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {member.compress_type}, not by deflate")
    with archive.open(member) as file:
        return file.read(member.file_size)
