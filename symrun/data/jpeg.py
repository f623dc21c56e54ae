"""Decodes JPEGs and PNGs of 64x64 pixels, as functions and as a program for another process.

    python jpeg.py contents     decodes the images that come on standard input
    python jpeg.py paths        decodes the files whose names come on standard input

It imports neither torch nor numpy nor the package, so that the program starts within 0.1 s.
"""

import os
import signal
import sys
from collections.abc import Callable
from io import BytesIO
from typing import IO

from PIL import Image

SIDE = 64
# The largest file of the genuine archive has 347 kB.
MAX_FILE_BYTES = 2**20


def read(path: str | bytes) -> bytes:
    """A file, or the first MAX_FILE_BYTES of it.

    Error: OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        # A read of MAX_FILE_BYTES would allocate them, which takes as long as everything else.
        return file.read(min(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES))


def decoded(content: bytes) -> bytes:
    """The pixels, uint8 [3, SIDE, SIDE] as bytes; a grey image gets three equal channels.

    Error: ValueError for another size or 16 bits, and whatever Pillow meets damage with.
    """
    with Image.open(BytesIO(content), formats=["JPEG", "PNG"]) as image:
        # Checked before decoding: a few bytes can claim an image that fills the memory.
        if image.size != (SIDE, SIDE):
            raise ValueError(f"{image.size} pixels")
        if image.mode.startswith("I"):  # which `convert` would cut to 255
            raise ValueError("16 bits")
        pixels = image.convert("RGB").tobytes()
    return pixels[0::3] + pixels[1::3] + pixels[2::3]


def send(stream: IO[bytes], parts: list[bytes]) -> None:
    """Write a line with the length of each part, then the parts."""
    stream.write(" ".join(str(len(part)) for part in parts).encode() + b"\n")
    stream.write(b"".join(parts))
    stream.flush()


def receive(stream: IO[bytes]) -> list[bytes]:
    """The parts that `send` wrote; none if the stream ends before all of them."""
    line = stream.readline()
    lengths = [int(length) for length in line.split()]
    parts = [stream.read(length) for length in lengths]
    whole = line.endswith(b"\n") and [len(part) for part in parts] == lengths
    return parts if whole else []


def _serve(content: Callable[[bytes], bytes]) -> None:
    """Answer each list of images on standard input with a list of pixels, empty where it failed.

    It ends with its standard input, which the system closes however the other process ends.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly if the reader has gone
    with open(0, "rb") as requests, open(1, "wb") as answers:
        while images := receive(requests):
            send(answers, [_attempt(content, image) for image in images])


def _attempt(content: Callable[[bytes], bytes], image: bytes) -> bytes:
    try:
        return decoded(content(image))
    except Exception:  # the other process makes the message
        return b""


if __name__ == "__main__":
    _serve(read if sys.argv[1] == "paths" else bytes)
