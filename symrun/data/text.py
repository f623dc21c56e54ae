"""The characters of a text file, in blocks, of which a network predicts the next."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from symrun.data.dataset import TextDataset, blocks
from symrun.errors import UsageError, in_one_line

_TYPES = (np.uint8, np.int16, np.int32)
"""What an id is stored as: the first that holds the vocabulary."""


def text(root: Path, length: int, val_share: float) -> TextDataset:
    """The characters of `root` in blocks of `length`, the last `val_share` of them for validation.

    An id numbers a character among those of the file, in their order in Unicode. A remainder that
    is shorter than a block is left out.

    Error: UsageError if the file cannot be read, is not UTF-8 or is too short.
    """
    content, given = _read(root)
    try:
        codes = np.frombuffer(content.decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
    except UnicodeDecodeError as error:
        where = f"{given} is not text in UTF-8 (byte {error.start})"
        raise UsageError(f"{where}: convert it, or name another file") from None
    ids, vocabulary = _numbered(codes)
    split = len(ids) - round(val_share * len(ids))
    train, val = ids[:split], ids[split:]
    # An epoch may start at any of the first `length` characters, and every label is one further.
    train_count, val_count = len(train) // length - 1, (len(val) - 1) // length
    if train_count < 2 or val_count < 1:
        found = (
            f"{given} has {len(train):,} characters for training and {len(val):,} for validation"
        )
        needed = f"data.length={length} needs {3 * length:,} and {length + 1:,}"
        raise UsageError(f"{found}, but {needed}: lower it, or change data.val_share")
    return TextDataset(
        title=in_one_line(root.name).replace("$", "")[:100] or "text",
        synthetic=False,
        train=blocks(train, length, train_count),
        val=blocks(val, length, val_count),
        classes=vocabulary,
        train_ids=train,
        digest=hashlib.sha256(content).hexdigest()[:16],
    )


def _read(root: Path) -> tuple[bytes, str]:
    """The content of the file, and its name in messages."""
    given = f"data.root={in_one_line(root)}"
    try:
        if not root.exists():
            raise UsageError(f"{given} does not exist: name a text file")
        if not root.is_file():  # a pipe might never end
            raise UsageError(f"{given} is no file: name a text file")
        return root.read_bytes(), given
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {in_one_line(error)}") from None


def _numbered(codes: np.typing.NDArray[np.uint32]) -> tuple[torch.Tensor, int]:
    """The id of each character, and how many different ones there are."""
    present = np.zeros(0x110000, dtype=bool)
    present[codes] = True
    vocabulary = int(present.sum())
    kind = next(kind for kind in _TYPES if vocabulary <= np.iinfo(kind).max + 1)
    id_of = (np.cumsum(present) - 1).astype(kind)
    return torch.from_numpy(id_of[codes]), vocabulary
