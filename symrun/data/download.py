"""Downloads the official archive of Tiny ImageNet, and resumes after an interruption."""

import hashlib
import os
import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from io import BufferedRandom
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from symrun.data.source import FOLDER
from symrun.display import bar
from symrun.errors import UsageError, in_one_line, refusal
from symrun.files import locked

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIZE_BYTES = 248_100_043
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
ARCHIVE = f"{FOLDER}.zip"

_ATTEMPTS = 10
_TIMEOUT_SECONDS = 30.0
_PIECE_BYTES = 2**16


def download(cache: Path) -> Path:
    """The path of the official zip in `cache`, downloaded and verified unless it exists.

    The bytes go to a hidden file beside it, which survives any interruption: the next call requests
    the rest. Of two processes, the second waits for the first.

    Error: UsageError if it cannot be fetched or stored, or is not the file it should be.
    """
    archive = cache / ARCHIVE
    part = cache / f".{ARCHIVE}.part"
    try:
        if os.path.lexists(archive):  # if only as a link that leads nowhere
            return archive
        cache.mkdir(parents=True, exist_ok=True)
        with locked(cache / f".{ARCHIVE}.lock", wait=True):
            if not os.path.lexists(archive):
                _fetch(part)
                _verify(part)
                if os.path.lexists(archive):  # the user has put one there meanwhile
                    part.unlink()
                else:
                    part.rename(archive)
    except OSError as error:
        failed = f"{ARCHIVE} cannot be stored in data.cache={in_one_line(cache)}"
        remedy = "what has come is kept, or data.cache=DIR names another folder"
        raise UsageError(f"{failed}: {refusal(error)}: {remedy}, or {_alternative()}") from None
    return archive


def _alternative() -> str:
    return f"give the zip or its unpacked folder with data.root=DIR ({URL})"


def _fetch(part: Path) -> None:
    """Download the bytes that `part` lacks.

    Error: UsageError if an attempt brings nothing or the last one fails; OSError from the disk.
    """
    part.touch()
    with (
        open(part, "r+b") as file,
        bar("downloading Tiny ImageNet", SIZE_BYTES, "B", initial=part.stat().st_size) as progress,
    ):
        have, previous = _length(file), -1
        for _ in range(_ATTEMPTS):
            if not previous < have < SIZE_BYTES:
                break
            previous, problem = have, "the connection ended early"
            try:
                for place, piece in _pieces(have):
                    file.seek(place)
                    file.write(piece)
                    progress.update(place + len(piece) - progress.n)
            except ConnectionError as error:
                problem = in_one_line(error)
            have = _length(file)
    if have < SIZE_BYTES:
        came = f"the download of {ARCHIVE} came to {have} of {SIZE_BYTES} bytes"
        remedy = f"run again to go on from there, or {_alternative()}"
        raise UsageError(f"{came} ({problem}): {remedy}")


def _length(file: BufferedRandom) -> int:
    """The number of bytes in the file, including those in Python's buffer."""
    return file.seek(0, os.SEEK_END)


def _pieces(have: int) -> Iterator[tuple[int, bytes]]:
    """The archive from byte `have` on, in pieces, each with its place.

    It starts at 0 if the server cannot send a part. The pieces then overwrite the same bytes, so a
    connection that ends earlier than the last one does no harm.

    Error: ConnectionError for any failure, to distinguish it from an error of the disk.
    """
    try:
        place, response = _answer(have)
        with response:
            # Never more than is missing; read1 buffers nothing that an interruption would lose.
            while piece := response.read1(min(_PIECE_BYTES, SIZE_BYTES - place)):
                yield place, piece
                place += len(piece)
    except (OSError, HTTPException, ValueError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from None


def _answer(have: int) -> tuple[int, HTTPResponse]:
    """The first byte that the server sends (`have` or 0), and its response.

    Error: ConnectionError if it is not the archive, such as the login page of a network.
    """
    headers = {"User-Agent": "symrun"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urlopen(Request(URL, headers=headers), timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if have and error.code == 416:  # it has no such range; perhaps it has the whole
            return _answer(0)
        raise
    if response.status == 206:
        field, fits = "Content-Range", rf"bytes {have}-\d+/({SIZE_BYTES}|\*)"
    else:
        field, fits, have = "Content-Length", rf"{SIZE_BYTES}|", 0
    value = response.headers.get(field, "")
    if not re.fullmatch(fits, value):
        response.close()
        raise ConnectionError(f"the server has another file, of {field} {value or 'unknown'}")
    return have, response


def _verify(part: Path) -> None:
    """Flush the archive to the disk, or remove it if it is another file.

    Error: UsageError for a wrong digest.
    """
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
        os.fsync(file.fileno())  # a rename may reach the disk before the bytes
    if digest != MD5:
        part.unlink()
        wrong = f"the download of {ARCHIVE} has MD5 {digest} instead of {MD5}"
        raise UsageError(f"{wrong}: run again to start afresh, or {_alternative()}")
