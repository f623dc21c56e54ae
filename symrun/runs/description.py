"""What run.json has to say, so that whoever reads it later finds what it looks for.

A run may come from elsewhere: from another version, a damaged disk, another program. So it is
checked once, here, and the code that reads it takes from it what it wants.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symrun.config import Config, Precision, flat, require
from symrun.errors import UsageError, in_one_line
from symrun.laws import kinds_of_sgd
from symrun.symmetry import Symmetry

MOST_BYTES = 2**22
"""That are read of a run.json: some hundred times as many as that of VGG19 has."""

MOST_STEPS = 10**7
"""That a run may plan: readers work out the time of each."""

_DEEPEST = 16
"""Levels of values inside values; so that nothing that walks them runs out of stack."""


@dataclass(frozen=True)
class _Kind:
    """What a single value must be, in words and as a test."""

    name: str
    holds: Callable[[Any], bool]


def _whole(least: int, most: int) -> _Kind:
    return _Kind(
        f"an integer in [{least}, {most}]",
        lambda value: type(value) is int and least <= value <= most,
    )


def _one_of(*names: str) -> _Kind:
    # a list has no hash, so it must not be looked up in a set
    return _Kind(f"one of {', '.join(names)}", lambda value: value in names)


def _is_block(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 1000


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 500 and "$" not in value


_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_LINE = _Kind("one printable line without $, which figures read as mathematics", _is_line)
_REVISION = _Kind(
    "null or a printable line",
    lambda value: value is None or (isinstance(value, str) and value.isprintable()),
)
_WIDTH = _Kind(
    "a number in (0, 1000]",
    lambda value: type(value) in (int, float) and 0 < value <= 1000 and math.isfinite(value),
)
_BLOCK = _Kind("an integer in [0, 1000] or null", lambda value: value is None or _is_block(value))
_ENTRIES = _Kind(  # whose reader refuses all but integers > 0, with a remedy of its own
    "less than 2^63",
    lambda value: not isinstance(value, bool) and not (isinstance(value, int) and value >= 2**63),
)
_SECONDS = _Kind(
    "a number in [0, 1e10]", lambda value: type(value) in (int, float) and 0 <= value <= 1e10
)
_POSITIVE = _whole(1, 10**9)
_STEP = _whole(0, MOST_STEPS)

Spec = _Kind | Mapping[str, Any] | Sequence[Any]
"""A kind; of an object its keys, with ? where one may be absent; of a list its single item, and a
second time if there must be one."""

_DESCRIPTION: dict[str, Spec] = {
    "status": _one_of("running", "finished", "interrupted", "failed", "diverged"),
    "created": _LINE,
    "last_step": _STEP,
    "steps_per_epoch": _whole(1, MOST_STEPS),
    "config": {},
    "device": _LINE,
    "precision": _one_of(*(precision.value for precision in Precision)),
    "dataset": {"title": _LINE, "synthetic": _FLAG, "classes": _POSITIVE, "image_size": _POSITIVE},
    "model": {"name": _LINE, "title": _LINE, "width": _WIDTH},
    "layers": [{"layer": _LINE, "kind": _LINE, "block": _BLOCK}],
    "groups": [
        {
            "symmetry": _one_of(*(symmetry.value for symmetry in Symmetry)),
            "group": _LINE,
            "units": _POSITIVE,
            "entries?": _ENTRIES,
            "layers": [_LINE, _LINE],
        }
    ],
    "unpredicted": {f"{column}?": _LINE for column in kinds_of_sgd(momentum=False)},
    "diverged?": {"step": _STEP, "loss": _FLAG, "layers": [_LINE]},
    "resumed?": [{"step?": _STEP}],
    "thinned?": {"every": _whole(1, MOST_STEPS), "records": _POSITIVE, "of": _POSITIVE},
    "source?": _LINE,
    "revision?": _REVISION,
    "threads?": _whole(1, 4096),
    "cudnn_benchmark?": _FLAG,
    "hardware?": {"processor": _LINE},
    "seconds?": _SECONDS,
    "versions?": {},
}


def described(content: bytes, schema: int) -> dict[str, Any]:
    """run.json, as `content`, of which every part that is there is as readers expect it.

    What it lacks on its highest level is told by `require_complete`; what it has more is let be.

    Error: UsageError, in one line that goes on from the name of the file.
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"has more than {MOST_BYTES} bytes: it does not describe a run")
    try:
        info = json.loads(content.decode("utf-8"))
    except RecursionError:
        info = None
    except ValueError as error:
        raise UsageError(f"cannot be read: {in_one_line(error)}") from None
    if not isinstance(info, dict) or _is_deep(info):
        raise UsageError("does not describe a run")
    if "schema" in info:
        require_schema(info["schema"], schema)
    try:
        for key, spec in _DESCRIPTION.items():
            key = key.removesuffix("?")
            if key in info:
                _check(info[key], spec, key)
        if "config" in info:
            _check_settings(info["config"], info.get("steps_per_epoch", 1))
        for layer in info.get("layers", ()):
            placed = layer["block"] is not None or layer["kind"] != "convolution"
            require(f"the block of {layer['layer']}", placed, "an integer", "null")
    except UsageError as error:
        raise UsageError(f"does not describe a run: {in_one_line(error)}") from None
    return info


def require_complete(info: Mapping[str, Any]) -> None:
    """Refuse a run.json that lacks something. Error: as in `described`."""
    for key in ("schema", *_DESCRIPTION):
        if not (key.endswith("?") or key in info):
            raise UsageError(f"does not describe a run: {key} is missing")


def require_schema(found: object, reads: int) -> None:
    """Refuse what another version wrote. Error: as in `described`."""
    if type(found) is not int:
        raise UsageError(f"has schema {_shown(found)}; this symrun reads {reads}")
    age, remedy = ("newer", "; update symrun") if found > reads else ("older", "")
    if found != reads:
        writer = f"written by {'a' if age == 'newer' else 'an'} {age} symrun"
        raise UsageError(f"has schema {_shown(found)}, {writer}: this one reads {reads}{remedy}")


def _check(value: Any, spec: Spec, name: str) -> None:
    if isinstance(spec, _Kind):
        require(name, spec.holds(value), spec.name, _shown(value))
    elif isinstance(spec, Mapping):
        require(name, isinstance(value, dict), "an object with names", _shown(value))
        for key, inner in spec.items():
            known = key.removesuffix("?")
            if known in value:
                _check(value[known], inner, f"{name}.{known}")
            elif known == key:
                raise UsageError(f"{name}.{key} is missing")
    else:
        fits = isinstance(value, list) and len(value) >= len(spec) - 1
        require(name, fits, "a list with an entry" if len(spec) > 1 else "a list", _shown(value))
        for place, item in enumerate(value):
            _check(item, spec[0], f"{name}[{place}]")


def _check_settings(settings: Mapping[str, Any], steps_per_epoch: int) -> None:
    for name, value in flat(settings).items():
        small = type(value) is not int or abs(value) < 2**63
        require(f"config.{name}", small, "less than 2^63", _shown(value))
    train = Config.from_mapping(settings).train
    steps = train.steps or train.epochs * steps_per_epoch
    require("the number of steps", steps <= MOST_STEPS, f"<= {MOST_STEPS}", steps)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [item.values() if isinstance(item, dict) else item for item in level
                 if isinstance(item, dict | list)]  # fmt: skip
        level = [item for items in inner for item in items]
    return bool(level)


def _shown(value: object) -> str:
    """`value` in one short line."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
