"""Conditions on runs as the user types them: optim.lr>0.01 status=finished loss!=none."""

import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from symrun.errors import UsageError, did_you_mean, in_one_line, nearest
from symrun.listing.summary import Summary
from symrun.listing.words import local_time
from symrun.runs.info import Status

TABLE_KEYS = ("step", "top1", "loss", "unexplained")
"""Keys whose values are in the tables, which take longest to read."""

KEYS = ("status", "model", "data", "name", "seconds", "created", *TABLE_KEYS)
"""The keys of conditions, beside the settings of the runs."""

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"([\w.]+)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*)", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ].*)?)?)?")

Value = object
"""A number, a text, true or false, a list, or None."""


@dataclass(frozen=True)
class Condition:
    """A key, how it is compared, and with what: a number if `text` is one.

    A text is compared without regard to case; ~ asks whether it contains `text`. A time counts as
    far as `text` goes, by the clock here: created=2026-01 holds for all of January; one with a zone
    is a moment. `none` is what is unknown, 38% is 0.38.
    """

    key: str
    sign: str
    text: str

    @classmethod
    def of(cls, word: str) -> "Condition | None":
        """What `word` says; None if it is no condition.

        Error: UsageError if it is one that cannot hold of anything.
        Example: Condition.of("optim.lr>0.01") == Condition("optim.lr", ">", "0.01")
        """
        found = _CONDITION.fullmatch(word)
        if found is None:
            return None
        key, sign, text = found[1], found[2].replace("==", "="), found[3].strip()
        if not text:
            raise UsageError(f"{word} has no value: type {key}{sign}VALUE, or {key}{sign}none")
        if key == "created" and not _DATE.fullmatch(text) and text.lower() != "none":
            raise UsageError(f"{word}: a time is written 2026-01-31, got {text}")
        ordered = key == "created" or isinstance(_number(text), float)
        if sign in _ORDER and not ordered:
            raise UsageError(f"{word}: {sign} compares numbers, got {text}: type = != or ~")
        if key == "status" and sign in ("=", "!=") and text not in [*Status]:
            among = f"status must be one of {', '.join(Status)}"
            raise UsageError(f"{among}, got {text}{did_you_mean(text, [*Status])}")
        return cls(key, sign, text)

    def holds(self, value: Value) -> bool:
        """Whether it holds of a run whose `key` has this value."""
        if self.sign == "~":
            return self.text.casefold() in shown(value).casefold()
        if self.key == "created" and value is not None:
            return self._holds_of_time(str(value))
        wanted = _number(self.text)
        if isinstance(wanted, float) and type(value) in (int, float):
            return _compared(self.sign, value, wanted)
        if self.sign in _ORDER:
            return False
        return _compared(self.sign, shown(value).casefold(), self.text.casefold())

    def _holds_of_time(self, value: str) -> bool:
        at, wanted, text = local_time(value), _zoned(self.text), self.text.replace("T", " ")
        if at is not None and wanted is not None:
            return _compared(self.sign, at, wanted)
        value = value.replace("T", " ") if at is None else at.isoformat(" ")
        return _compared(self.sign, value[: len(text)], text)


def value_of(one: Summary, key: str) -> Value:
    """What `key` is in this run; None if nobody knows, or the run has no such setting."""
    return getattr(one, key) if key in KEYS else one.settings.get(key)


def whole_key(key: str, summaries: Sequence[Summary]) -> str:
    """The key that `key` means: itself, or the one setting of these runs whose last part it is.

    Error: UsageError, with the nearest, if no run has it, or if it may mean several settings.
    Example: whole_key("status", []) == "status"
    """
    settings = dict.fromkeys(name for one in summaries for name in one.settings)
    if key in KEYS or key in settings:
        return key
    meant = [name for name in settings if last_part(name) == key]
    if len(meant) > 1:
        raise UsageError(f"{key} may be {' or '.join(meant)}: type one of them in full")
    if not meant:
        raise UsageError(f"no run has {key}{_meant(key, [*KEYS, *settings])}")
    return meant[0]


def last_part(name: str) -> str:
    """ "lr" of "optim.lr" """
    return name.rpartition(".")[2]


def shown(value: Value) -> str:
    """A value as one types it: 0.1, true, none."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return in_one_line(value)


def _compared(sign: str, value: object, wanted: object) -> bool:
    if sign in _ORDER:
        return _ORDER[sign](value, wanted)
    return (value == wanted) == (sign == "=")


def _number(text: str) -> float | str:
    try:
        return float(f"{text[:-1]}e-2" if text.endswith("%") else text)
    except ValueError:
        return text


def _zoned(text: str) -> datetime | None:
    """A time with a zone; None for any other text."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else None


def _meant(key: str, known: Collection[str]) -> str:
    """What to type in place of `key`: the setting with the same last part, or the nearest."""
    last = last_part(key)
    for alike in (
        [name for name in known if last_part(name) == last],
        nearest(key, known),
        [name for name in known if nearest(last, [last_part(name)])],
    ):
        if alike:
            return f"; did you mean {alike[0]}?"
    return f"; there are {', '.join(KEYS)} and every setting, such as optim.lr"
