"""Decodes JPEGs and PNGs to squares, as functions and as a program for another process.

    python jpeg.py contents 64 3 0 1048576     decodes the images that come on standard input
    python jpeg.py paths 64 3 0 1048576        decodes the files whose names come on standard input

The numbers are those of a `Format`.

It imports neither torch nor numpy nor the package, so that the program starts within 0.1 s.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import IO, NamedTuple

from PIL import Image

# A decoded image takes three or four bytes a pixel, whatever it is resized to.
_MAX_PIXELS = 2**26


class Format(NamedTuple):
    """What images are decoded to: uint8 [channels, side, side].

    channels: 3, or 1 for grey images. resized: whether images of any size are resized and cropped
    to the square in their centre, or those of another size refused. most_bytes: of a file.
    """

    side: int
    channels: int
    resized: bool
    most_bytes: int


# The largest file of the genuine archive has 347 kB.
TINY_IMAGENET = Format(64, channels=3, resized=False, most_bytes=2**20)


def read(path: str | bytes, most_bytes: int) -> bytes:
    """A file, or the first `most_bytes` of it.

    Error: OSError if it cannot be read.
    """
    with open(path, "rb") as file:
        # A read of `most_bytes` would allocate them, which takes as long as everything else.
        return file.read(min(os.fstat(file.fileno()).st_size, most_bytes))


def size(content: bytes) -> tuple[int, int]:
    """The width and the height that an image claims. Error: whatever Pillow meets damage with."""
    with Image.open(BytesIO(content), formats=["JPEG", "PNG"]) as image:
        return image.size


def decoded(content: bytes, form: Format) -> bytes:
    """The pixels in `form` as bytes; a grey image gets equal channels, a colour is made grey.

    Error: ValueError for another size or 16 bits, and whatever Pillow meets damage with.
    """
    with Image.open(BytesIO(content), formats=["JPEG", "PNG"]) as image:
        # Checked before decoding: a few bytes can claim an image that fills the memory.
        width, height = image.size
        if not form.resized and (width, height) != (form.side, form.side):
            raise ValueError(f"{image.size} pixels")
        if width * height > _MAX_PIXELS:
            raise ValueError(f"{image.size} pixels, more than {_MAX_PIXELS}")
        if image.mode.startswith("I"):  # which `convert` would cut to 255
            raise ValueError("16 bits")
        converted = image.convert("RGB" if form.channels == 3 else "L")
    if form.resized:
        converted = _centre(converted, form.side)
    pixels = converted.tobytes()
    return b"".join(pixels[channel :: form.channels] for channel in range(form.channels))


def _centre(image: Image.Image, side: int) -> Image.Image:
    """The largest square in the centre, resized to `side`."""
    shorter = min(image.size)
    left, top = ((length - shorter) // 2 for length in image.size)
    square = image.crop((left, top, left + shorter, top + shorter))
    return square.resize((side, side), Image.Resampling.BILINEAR)


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


def _serve(content: Callable[[bytes], bytes], form: Format) -> None:
    """Answer each list of images on standard input with a list of pixels, empty where it failed.

    It ends with its standard input, which the system closes however the other process ends.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly if the reader has gone
    with open(0, "rb") as requests, open(1, "wb") as answers:
        while images := receive(requests):
            send(answers, [_attempt(content, image, form) for image in images])


def _attempt(content: Callable[[bytes], bytes], image: bytes, form: Format) -> bytes:
    try:
        return decoded(content(image), form)
    except Exception:  # the other process makes the message
        return b""


if __name__ == "__main__":
    side, channels, resized, most_bytes = map(int, sys.argv[2:])
    reader = partial(read, most_bytes=most_bytes) if sys.argv[1] == "paths" else bytes
    _serve(reader, Format(side, channels, bool(resized), most_bytes))
