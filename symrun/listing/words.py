"""What lists, cards and the live view say of a run: its numbers, and commands to type."""

import os
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from symrun.errors import in_one_line
from symrun.places import as_typed
from symrun.runs.info import RunInfo

UNKNOWN = "-"


def typed(path: Path) -> str:
    """A path as one types it in bash or zsh.

    Example: typed(Path("a b")) == "'a b'"
    """
    text = as_typed(str(path))
    if text.isprintable():
        return shlex.quote(text)
    plain = b"'\\"
    signs = [
        chr(one) if 32 <= one < 127 and one not in plain else f"\\x{one:02x}"
        for one in os.fsencode(path)
    ]
    return f"$'{''.join(signs)}'"


def resumption(checkpoints: Sequence[int]) -> str:
    """What `symrun resume` does. checkpoints: their steps, the last first.

    Example: resumption([100, 50]) == "goes on from step 100"
    """
    return f"goes on from step {checkpoints[0]:,}" if checkpoints else "starts again at step 0"


def optimiser_in_words(info: RunInfo) -> str:
    """ "SGD, lr 0.1, weight decay 0.001" """
    optim = info.config.optim
    decay = f", weight decay {optim.weight_decay:g}" if optim.weight_decay else ""
    return f"{optim.title}, lr {optim.lr:g}{decay}"


def local_time(time: str | None) -> datetime | None:
    """A time in ISO format by the clock here, which also is that of a time without a zone; None if
    it is no time."""
    try:
        return datetime.fromisoformat(time or "").astimezone()
    except (ValueError, OverflowError):
        return None


def clock(time: str | None) -> str:
    """ "2026-01-31 13:00 CET"; what is no time stays as it is."""
    at = local_time(time)
    return in_one_line(time or "") if at is None else f"{at:%Y-%m-%d %H:%M %Z}"


def count(value: float | None) -> str:
    """ "39,100" """
    return UNKNOWN if value is None else f"{value:,.0f}"


def share(value: float | None) -> str:
    """ "62.3%" """
    return UNKNOWN if value is None else f"{value:.1%}"


def decimal(value: float | None) -> str:
    """ "0.416" """
    return UNKNOWN if value is None else f"{value:.3f}"


def of_planned(step: int, planned: int | None) -> str:
    """ "1,240 of 2,000" updates; "2,000" where that is all, or nobody planned it."""
    return f"{step:,}" if planned in (None, step) else f"{step:,} of {planned:,}"


def size(count_bytes: float) -> str:
    """ "13.4 MB", of 10^6 bytes."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6)):
        if count_bytes >= bytes_each:
            return f"{count_bytes / bytes_each:.1f} {unit}"
    return f"{count_bytes / 1e3:.1f} kB"
