"""From plain values to frozen dataclasses, each field of the type that it claims."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

from symrun.errors import UsageError

Settings = TypeVar("Settings", bound="DataclassInstance")


def require(setting: str, holds: bool, constraint: str, value: object) -> None:
    """Refuse `value` for `setting` unless the constraint holds.

    Error: UsageError, "optim.lr must be > 0, got -0.1".
    """
    if not holds:
        raise UsageError(f"{setting} must be {constraint}, got {value}")


def build(kind: type[Settings], values: Mapping[str, Any], prefix: str) -> Settings:
    """A `kind` of these values; one that is not there may be one that has a default.

    Error: UsageError for the first that is wrong, unknown or missing.
    """
    require(prefix.rstrip("."), isinstance(values, Mapping), "a group of settings", repr(values))
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise UsageError(f"there is no setting {prefix}{key}; there are {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise UsageError(f"the setting {prefix}{field.name} is missing")
    given = {key: hint for key, hint in hints.items() if key in values}
    return kind(**{key: _typed(values[key], hint, prefix + key) for key, hint in given.items()})


def build_named(
    kinds: Mapping[str, type[Settings]], settings: Mapping[str, Any], group: str, what: str
) -> Settings:
    """The settings of a group that says by its `name` which of several kinds it is."""
    values = settings.get(group)
    named = isinstance(values, Mapping) and "name" in values
    require(group, named, what, repr(values))
    assert isinstance(values, Mapping)
    name = str(values["name"])
    require(f"{group}.name", name in kinds, f"one of {', '.join(kinds)}", name)
    return build(kinds[name], values, f"{group}.")


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


def _typed(value: Any, hint: Any, setting: str) -> Any:
    """`value` as `hint`, losslessly (2 serves as a float, 2.5 does not serve as an int)."""
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        hint = next(kind for kind in hint.__args__ if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        require(setting, isinstance(value, list | tuple), "a list such as [0.5,0.75]", repr(value))
        return tuple(_typed(item, typing.get_args(hint)[0], setting) for item in value)
    if dataclasses.is_dataclass(hint):
        built_already = dataclasses.is_dataclass(value)
        return value if built_already else build(typing.cast(type, hint), value, setting + ".")
    if isinstance(hint, type) and issubclass(hint, Enum):
        names = [member.value for member in hint]
        require(setting, value in names, f"one of {', '.join(names)}", value)
        return hint(value)
    allowed = {float: (int, float), Path: (str, Path)}.get(hint, (hint,))
    fits = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    require(setting, fits, _KINDS[hint], repr(value))
    if hint is not Path:
        return hint(value)
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UsageError(f"{setting}={value} names a home folder that cannot be found") from None
