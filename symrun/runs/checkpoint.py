"""The weights of a network, saved beside the tables of its run: RUN/checkpoints/weights-<step>.pt.

Each file is complete or absent, and is read without running code that it may hold.
"""

import re
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

from symrun.errors import RunError, UsageError
from symrun.files import complete_or_absent
from symrun.runs.directory import RunDirectory

_NAME = re.compile(r"weights-(0|[1-9][0-9]*)\.pt")


def save_weights(run: RunDirectory, step: int, state_dict: Mapping[str, Any]) -> None:
    """Save what `model.state_dict()` gave after `step` updates, in place of what was saved there.

    Error: RunError if the disk refuses.
    Example: save_weights(run, 800, model.state_dict())
    """
    path = run.checkpoints / f"weights-{step}.pt"
    try:
        with complete_or_absent(path) as draft:
            torch.save(dict(state_dict), draft)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise RunError(f"{path} cannot be written: {reason}") from None


def latest_weights(run: RunDirectory) -> tuple[int, dict[str, Tensor]] | None:
    """The weights saved after the most updates, and their number; None if none were saved.

    The tensors lie in the CPU's memory, in the type they had.

    Error: UsageError if the file is damaged, holds something else, or cannot be read.
    Example: step, state_dict = latest_weights(RunDirectory.open("outputs/mine")) or (0, {})
    """
    names = (_NAME.fullmatch(path.name) for path in run.checkpoints.glob("*"))
    steps = [int(name[1]) for name in names if name]
    if not steps:
        return None
    step = max(steps)
    path = run.checkpoints / f"weights-{step}.pt"
    try:
        with open(path, "rb") as file:
            state_dict = _loaded(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state_dict.items()
    ):
        raise UsageError(f"{path} is damaged, or holds no weights: remove it to go without")
    return step, state_dict


def _loaded(file: IO[bytes]) -> Any:
    """What torch saved in `file`; None if that is damaged."""
    try:
        # torch reads on where a bit has flipped; the archive's checksums tell
        if zipfile.ZipFile(file).testzip() is not None:
            return None
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # a damaged file can raise anything
        return None
