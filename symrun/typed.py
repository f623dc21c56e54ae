"""From plain values to frozen dataclasses, each field of the type that it claims, and back."""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

from symrun.errors import UsageError
from symrun.places import is_url

Settings = TypeVar("Settings", bound="DataclassInstance", covariant=True)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a setting means, which stands in its annotation: help and checks read it there.

    meaning: one line of help. values: the interval of numbers that it takes, as messages have it,
    such as ">= 1" or "in [0, 1)"; "" for whatever has its type.
    Example: Setting("learning rate", "> 0").takes(0.1)
    """

    meaning: str
    values: str = ""

    def takes(self, number: float) -> bool:
        """Whether `number` lies in the interval."""
        if between := re.fullmatch(r"in ([\[(])(\S+), (\S+)([\])])", self.values):
            opening, least, most, closing = between.groups()
            above = number >= _number(least) if opening == "[" else number > _number(least)
            return above and (number <= _number(most) if closing == "]" else number < _number(most))
        sign, least = self.values.split()
        return number >= _number(least) if sign == ">=" else number > _number(least)


def _number(text: str) -> Fraction:
    """1/64, 2^63 or 0.5."""
    base, power, exponent = text.partition("^")
    return Fraction(base) ** int(exponent) if power else Fraction(text)


def settings_of(kind: type) -> dict[str, tuple[Any, Setting]]:
    """Type and meaning of each setting of a group, by its name.

    Example: settings_of(Setting) == {}
    """
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if typing.get_origin(hint) is typing.Annotated:
            found[name] = (hint.__origin__, hint.__metadata__[0])
    return found


def require_settings(group: Any, prefix: str) -> None:
    """Error: UsageError for the first number of a group of settings outside its interval, or not
    finite. prefix: of their names in the message, such as "optim."."""
    for name, (_, setting) in settings_of(type(group)).items():
        value = getattr(group, name)
        if setting.values and value is not None:
            require(prefix + name, setting.takes(value), setting.values, value)
            require(prefix + name, math.isfinite(value), "finite", value)


def require(setting: str, holds: bool, constraint: str, value: object) -> None:
    """Refuse `value` for `setting` unless the constraint holds.

    Error: UsageError, "optim.lr must be > 0, got -0.1".
    """
    if not holds:
        raise UsageError(f"{setting} must be {constraint}, got {value}")


def require_lines(record: object, *names: str, shown: bool = True) -> None:
    """Error: UsageError unless the named fields hold a line, lines, or named lines, or are None.

    shown: whether figures show them, which read $ as mathematics.
    """
    constraint = "one printable line"
    constraint += " without $, which figures read as mathematics" if shown else ""
    for name in names:
        value = getattr(record, name)
        texts = {name: value or ""}
        if isinstance(value, Mapping):
            texts = {f"{name}.{key}": text for key, text in value.items()}
        elif isinstance(value, tuple):
            texts = {f"{name}[{place}]": text for place, text in enumerate(value)}
        for whole_name, text in texts.items():
            allowed = len(text) <= 500 and "$" not in text if shown else True
            holds = text.isprintable() and allowed
            require(whole_name, holds, constraint, repr(text))


def require_within(record: object, least: int, most: int, *names: str) -> None:
    """Error: UsageError unless the named fields hold integers from `least` to `most`, or None."""
    for name in names:
        value = getattr(record, name)
        holds = value is None or least <= value <= most
        require(name, holds, f"an integer in [{least}, {most}]", value)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """What the annotations of `kind` evaluate to, which takes a while."""
    return typing.get_type_hints(kind)


def build(
    kind: type[Settings], values: Mapping[str, Any], prefix: str, recorded: bool = False
) -> Settings:
    """A `kind` of these values; one that is not there may be one that has a default.

    recorded: the values were written by a program, perhaps a newer one, and not by the user. Then
    keys without a field are passed over, and `prefix` stands before what `kind` itself refuses.

    Error: UsageError for the first that is wrong, unknown or missing.
    """
    what = "an object with names" if recorded else "a group of settings"
    require(prefix.rstrip("."), isinstance(values, Mapping), what, repr(values))
    hints = _hints(kind)
    for key in values:
        if not (recorded or key in hints):
            raise UsageError(f"there is no setting {prefix}{key}; there are {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise UsageError(f"{'' if recorded else 'the setting '}{prefix}{field.name} is missing")
    typed = {
        key: _typed(values[key], hint, prefix + key, recorded)
        for key, hint in hints.items()
        if key in values
    }
    try:
        return kind(**typed)
    except UsageError as error:
        raise UsageError(f"{prefix}{error}" if recorded else str(error)) from None


def plain(value: Any, whole: bool = False) -> Any:
    """`value` as JSON has it; `build` reads it back.

    whole: fields that have their default are there too.
    """
    if dataclasses.is_dataclass(value):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        kept = ((field.name, item) for field, item in fields if whole or item != field.default)
        return {name: plain(item, whole) for name, item in kept}
    if isinstance(value, Mapping):
        return {key: plain(item, whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, whole) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


class Entry(Protocol[Settings]):
    """Of a registry: what can be chosen by name. settings: the class of its settings."""

    @property
    def settings(self) -> type[Settings]: ...


def build_named(
    registry: Mapping[str, Entry[Settings]],
    settings: Mapping[str, Any],
    group: str,
    what: str,
    entry_of: Callable[[str], str] = str,
) -> Settings:
    """The settings of a group, of the class that belongs to the entry which its `name` names.

    entry_of: from a name to its entry in the registry.
    """
    values = settings.get(group)
    named = isinstance(values, Mapping) and "name" in values
    require(group, named, what, repr(values))
    assert isinstance(values, Mapping)
    name = str(values["name"])
    entry = entry_of(name)
    require(f"{group}.name", entry in registry, f"one of {', '.join(registry)}", name)
    return build(registry[entry].settings, values, f"{group}.")


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


def _typed(value: Any, hint: Any, setting: str, recorded: bool) -> Any:
    """`value` as `hint`, losslessly (2 serves as a float, 2.5 does not serve as an int)."""
    if hint is object:
        return value
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        kinds = [kind for kind in hint.__args__ if kind is not type(None)]
        hint = next((kind for kind in kinds if type(value) is kind), kinds[0])
        if Path in kinds and str in kinds:
            hint = str if is_url(value) else Path
    container, inner = typing.get_origin(hint), typing.get_args(hint)
    if container is tuple:
        example = " such as [0.5,0.75]" if inner[0] is float else ""
        require(setting, isinstance(value, list | tuple), f"a list{example}", repr(value))
        places = (f"{setting}[{place}]" for place in range(len(value)))
        return tuple(
            _typed(item, inner[0], place, recorded)
            for item, place in zip(value, places, strict=True)
        )
    if container is Mapping:
        require(setting, isinstance(value, Mapping), "an object with names", repr(value))
        return {
            key: _typed(item, inner[1], f"{setting}.{key}", recorded) for key, item in value.items()
        }
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):  # built already
            return value
        return build(typing.cast(type, hint), value, setting + ".", recorded)
    return _single(value, hint, setting)


def _single(value: Any, hint: Any, setting: str) -> Any:
    if issubclass(hint, Enum):
        names = [member.value for member in hint]
        require(setting, value in names, f"one of {', '.join(names)}", value)
        return hint(value)
    allowed = {float: (int, float), Path: (str, Path)}.get(hint, (hint,))
    fits = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    require(setting, fits, _KINDS[hint], repr(value))
    if hint is float:
        require(setting, not isinstance(value, int) or abs(value) < 2**63, "< 2^63", repr(value))
    if hint is not Path:
        return hint(value)
    possible = "\0" not in str(value) and str(value) != "???"  # OmegaConf's word for none
    require(setting, possible, _KINDS[hint], repr(value))
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise UsageError(f"{setting}={value} names a home folder that cannot be found") from None
