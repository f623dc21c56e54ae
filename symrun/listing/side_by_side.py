"""Several runs beside each other: the settings in which they differ, and their numbers."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from symrun.analysis import Agreement, is_identity, is_null
from symrun.analysis.report import aligned, law_in_words, scientific
from symrun.display import duration
from symrun.errors import in_one_line
from symrun.listing.filters import shown
from symrun.listing.summary import SCORES, Summary
from symrun.listing.words import UNKNOWN, count, decimal, share
from symrun.places import as_typed
from symrun.runs.differences import differing_settings

Numbers = dict[str, list[Any]]
"""Name -> its value in each run."""

_MEASURES = {"residual": "residual", "1 - R^2": "unexplained", "99 in 100": "unexplained_99"}
_FORMS = {"seconds": duration, "loss": decimal, "top1": share, "top5": share, "step": count}
_FORMS |= {"planned": count, "images_per_second": count}


def settings(summaries: Sequence[Summary]) -> Numbers:
    """Those that differ."""
    names = differing_settings([one.settings for one in summaries])
    return {name: [one.settings.get(name) for one in summaries] for name in names}


def numbers(summaries: Sequence[Summary]) -> Numbers:
    """How far each run came, its scores, and how well each law holds in each symmetry."""
    found = {
        name: [getattr(one, name) for one in summaries]
        for name in ("status", "step", "planned", "seconds")
    }
    for split in ("train", "val"):
        for score in SCORES:
            found[f"{split} {score}"] = [getattr(one, split).get(score) for one in summaries]
    laws = [{(row.symmetry, row.law): row for row in one.laws} for one in summaries]
    for symmetry, law in dict.fromkeys(key for rows in laws for key in rows):
        if not is_null(law):
            for measure, field in _MEASURES.items():
                rows = [of_run.get((symmetry, law)) for of_run in laws]
                found[f"{symmetry} {law} {measure}"] = [_value(row, field) for row in rows]
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def _value(row: Agreement | None, field: str) -> float | None:
    return None if row is None else getattr(row, field)


def as_rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """A row for each setting and number, with a column for each run's path."""
    both = {**settings(summaries), **numbers(summaries)}
    both["unjudged"] = [one.unjudged for one in summaries]
    paths = [as_typed(str(one.path)) for one in summaries]
    return [{"name": name, **dict(zip(paths, both[name], strict=True))} for name in both]


def as_table(summaries: Sequence[Summary]) -> str:
    """The runs by letter, then a line for each setting that differs and each number."""
    letters = [_letter(place) for place in range(len(summaries))]
    legend = [
        [letter, in_one_line(one.path)] for letter, one in zip(letters, summaries, strict=True)
    ]
    lines = [["", *letters]]
    for name, values in settings(summaries).items():
        lines.append([name, *map(shown, values)])
    lines.append([""] * len(lines[0]))
    for name, values in numbers(summaries).items():
        lines.append([_label(name), *(_in_words(name, value) for value in values)])
    return f"{aligned(legend)}\n\n{aligned(lines)}"


def _label(name: str) -> str:
    """The name of a number, with a word where its law is an identity."""
    symmetry, _, rest = name.partition(" ")
    law, _, measure = rest.partition(" ")
    return f"{symmetry} {law_in_words(law)}, {measure}" if is_identity(law) else name


def _letter(place: int) -> str:
    """A to Z, then A1 and so on."""
    turn, letter = divmod(place, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn) if turn else "")


def _in_words(name: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or UNKNOWN
    form = _FORMS.get(name.rpartition(" ")[2])
    return form(value) if form else scientific(value)
