"""Checkpoints, from which a run can go on: RUN/checkpoints/step-<step>.pt.

Each file is complete or absent, is read without running code that it may hold, and is used only if
its checksums are right. It holds a dictionary; its "model" is `model.state_dict()` after `step`
updates.
"""

import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from symrun.errors import RunError, UsageError, refusal
from symrun.files import complete_or_absent
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import SCHEMA

Content = dict[str, Any]

_log = logging.getLogger(__name__)


def save_checkpoint(run: RunDirectory, step: int, content: Mapping[str, Any], keep: int) -> None:
    """Save the state of a run after `step` updates, then remove all but the `keep` last ones.

    content: tensors, numbers, strings, lists and dictionaries.

    Error: RunError, and no such checkpoint, if the disk refuses.
    Example: save_checkpoint(run, 800, {"model": model.state_dict()}, keep=2)
    """
    path = run.checkpoint(step)
    try:
        with complete_or_absent(path) as draft, open(draft, "wb") as file:
            torch.save({"schema": SCHEMA, "step": step, **content}, file)
        for older in run.checkpointed()[keep:]:
            run.checkpoint(older).unlink()
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError
        raise RunError(f"{path} cannot be written: {refusal(error)}") from None


def checkpoints(run: RunDirectory) -> Iterator[tuple[int, Content | UsageError]]:
    """The checkpoints of a run, the last first: the step, and the content or why it is unusable.

    The tensors lie in the CPU's memory, in the type they had.
    """
    for step in run.checkpointed():
        try:
            yield step, _content(run.checkpoint(step), step)
        except UsageError as error:
            yield step, error


def last_whole_checkpoint(run: RunDirectory) -> Content | None:
    """The newest checkpoint that a run can go on from; each unusable one is warned about."""
    for step, content in checkpoints(run):
        if isinstance(content, UsageError):
            _log.warning("passed over: %s", content)
        elif not _is_of_a_run(content):
            _log.warning("passed over: %s holds no checkpoint of a run", run.checkpoint(step))
        else:
            return content
    return None


def _is_of_a_run(content: Content) -> bool:
    parts = content.get("parts")
    if not isinstance(parts, dict) or set(parts) != set(TABLES):
        return False
    counted = all(type(number) is int and number >= 0 for number in parts.values())
    described = isinstance(content.get("config"), dict)
    return counted and described and isinstance(content.get("done"), bool)


def latest_weights(run: RunDirectory) -> tuple[int, dict[str, Tensor]] | None:
    """The newest weights, after the number of updates that they had; None if none were saved.

    Error: UsageError if that file is damaged, holds something else, or cannot be read.
    Example: step, state_dict = latest_weights(RunDirectory.open("outputs/mine")) or (0, {})
    """
    for step, content in checkpoints(run):
        if isinstance(content, UsageError):
            raise content
        state_dict = content.get("model")
        if not isinstance(state_dict, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor)
            for name, value in state_dict.items()
        ):
            raise UsageError(f"{run.checkpoint(step)} holds no weights: remove it to go without")
        return step, state_dict
    return None


def _content(path: Path, step: int) -> Content:
    """Error: UsageError unless `path` holds a whole checkpoint of `step` that this symrun reads."""
    try:
        with open(path, "rb") as file:
            content = _loaded(file)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is damaged, or is no checkpoint: remove it to go without")
    schema = content.get("schema")
    if schema != SCHEMA:
        raise UsageError(f"{path} has schema {schema!r:.20}; this symrun reads {SCHEMA}")
    if content.get("step") != step:
        raise UsageError(f"{path} holds another step than its name says: remove it to go without")
    return content


def _loaded(file: IO[bytes]) -> Any:
    """What torch saved in `file`; None if that is damaged."""
    try:
        archive = zipfile.ZipFile(file)
        # What torch saves is not packed: a packed archive could unpack without bound
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            return None
        # torch reads on where a bit has flipped; the archive's checksums tell
        if archive.testzip() is not None:
            return None
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception:  # a damaged file can raise anything
        return None
