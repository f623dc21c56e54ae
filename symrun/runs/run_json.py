"""run.json, read: what is in it, or one line that says why it does not describe a run.

A run may come from another version, a damaged disk or another program, so unknown fields are
ignored.
"""

import json
import math
from typing import Any

from symrun.errors import UsageError, in_one_line
from symrun.runs.info import SCHEMA, DatasetInfo, LossInfo, RunInfo
from symrun.runs.settings import RecordedConfig
from symrun.typed import build

MOST_BYTES = 2**22
"""The largest run.json that is read; the one of VGG19 is a hundred times smaller."""

_DEEPEST = 16
"""How deep values may be nested, so that no recursion over them overflows the stack."""


def read_info(content: bytes) -> RunInfo:
    """What is in a run.json.

    Error: UsageError, in one line that goes on from the name of the file.
    Example: read_info(Path("outputs/mine/run.json").read_bytes()).model.title
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"has more than {MOST_BYTES} bytes: it does not describe a run")
    try:
        values = json.loads(content.decode("utf-8"))
    except RecursionError:
        values = None
    except ValueError as error:
        remedy = "restore it from a copy of the run"
        raise UsageError(f"cannot be read: {in_one_line(error)}: {remedy}") from None
    return info_from(values)


def info_from(values: Any) -> RunInfo:
    """As `read_info`, from the values that the JSON held."""
    if not isinstance(values, dict) or _is_deep(values):
        raise UsageError("does not describe a run")
    if "schema" not in values:
        raise UsageError("does not describe a run: schema is missing")
    require_schema(values["schema"])
    try:
        typed: dict[str, Any] = {}
        if "config" in values:
            typed["config"] = RecordedConfig.of(values["config"])
        model = values.get("model")
        if isinstance(model, dict) and isinstance(name := model.get("name"), str):
            # Runs from before it was recorded are all of VGG: vgg16_bn
            typed["model"] = {"family": name.removesuffix("_bn").upper(), **model}
        own_loop = values.get("loop") is not None
        if isinstance(values.get("dataset"), dict) and "loss" not in values and not own_loop:
            # Runs from before it was recorded are all of cross-entropy
            classes = build(DatasetInfo, values["dataset"], "dataset.", recorded=True).classes
            typed["loss"] = LossInfo("softmax cross-entropy", math.log(classes), f"ln {classes}")
        return build(RunInfo, values | typed, "", recorded=True)
    except UsageError as error:
        raise UsageError(f"does not describe a run: {in_one_line(error)}") from None


def require_schema(found: object) -> None:
    """Refuse what another version wrote. Error: as in `read_info`."""
    if type(found) is not int:
        raise UsageError(f"has schema {found!r:.80}; this symrun reads {SCHEMA}")
    if found != SCHEMA:
        age, remedy = ("a newer", "; update symrun") if found > SCHEMA else ("an older", "")
        writer = f"written by {age} symrun"
        raise UsageError(f"has schema {found!r:.80}, {writer}: this one reads {SCHEMA}{remedy}")


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [item.values() if isinstance(item, dict) else item for item in level
                 if isinstance(item, dict | list)]  # fmt: skip
        level = [item for items in inner for item in items]
    return bool(level)
