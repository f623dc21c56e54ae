"""Constants that keep a division safe, such as the eps of a normalisation written by hand.

They are not meant to be felt: they break a symmetry as BatchNorm's eps does. A constant is one only
if it is small and nothing but a division follows.
"""

from collections.abc import Mapping
from typing import Any

EPS = 1e-3
"""The largest that is taken for one."""
_ON_THE_WAY = (
    *("sqrt", "rsqrt", "reciprocal", "pow", "view", "expand", "unsqueeze", "squeeze", "clone"),
    *("detach", "alias", "_to_copy", "slice", "select", "permute", "transpose", "t"),
)


def guard_of(operation: str, arguments: Mapping[str, Any]) -> str | None:
    """The argument that may be such a constant: what is added, or bounds from below.

    operation: its name in torch, without a trailing underscore.
    Example: guard_of("add", {"self": images, "other": 1e-5}) == "other"
    """
    if operation == "add":
        name = "other"
    elif operation in ("clamp", "clamp_min") and arguments.get("max") is None:
        name = "min"
    else:
        return None
    value = arguments.get(name)
    return name if isinstance(value, float) and 0 < value <= EPS else None


def leads_to_division(operation: str, argument: str) -> bool:
    """Whether `operation` divides by what it reads as `argument`, or only passes it on."""
    return operation in _ON_THE_WAY or (operation == "div" and argument == "other")
