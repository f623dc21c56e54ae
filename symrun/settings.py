"""What settings there are, in words, as `symrun train --help` prints them.

Meanings and intervals are those of the annotations that check them, defaults those of `configs/`.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from symrun.config import Config, RunConfig, TrackConfig, TrainConfig
from symrun.models.registry import entry_of
from symrun.overrides import NAMED_MODELS, REGISTRIES, choices_of, configs, values_of
from symrun.typed import settings_of

ALWAYS = {"train": TrainConfig, "track": TrackConfig, "run": RunConfig, "": Config}
"""Groups that every run has, and the settings that are in no group."""
_HELP = "symrun train: train a network and record what theory says of it"
_EXAMPLES = {
    "symrun train experiment=quickstart_bn": "a minute on 2 cores, no download",
    "symrun train experiment=fig1 data.root=DIR": "the paper's Fig. 1, on a GPU",
    "symrun train -m optim.lr=0.1,0.01": "a sweep",
    "symrun train optim=adamw --help": "the settings of AdamW",
    "symrun train --cfg job experiment=fig1": "what would be run, without running it",
}


@dataclass(frozen=True)
class Row:
    """One setting: its whole name, its value, what it means, and what it may be."""

    name: str
    value: str
    meaning: str
    choices: str

    @property
    def line(self) -> str:
        choices = "" if self.value in ("true", "false") else self.choices
        return f"{self.meaning} ({choices})" if choices else self.meaning


def rows(kind: type, group: str, values: Mapping[str, Any]) -> list[Row]:
    """The settings of a group.

    kind: the class of the group. values: plain ones, by the setting's name.
    Example: rows(TrainConfig, "train", {"epochs": 100})[0].name == "train.epochs"
    """
    return [
        Row(
            f"{group}.{name}" if group else name,
            _shown(values.get(name)),
            setting.meaning,
            setting.values or _choices(hint),
        )
        for name, (hint, setting) in settings_of(kind).items()
    ]


def presets() -> dict[str, str]:
    """What each preset is, in the first sentence of its file."""
    found = {}
    for name in choices_of("experiment"):
        text = (configs() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
        lines = [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")][1:]
        found[name] = re.split(r"(?<!Fig)(?<!Figs)\.(?= [A-Z`]|$)", " ".join(lines))[0]
    return found


def print_help(values: Mapping[str, Any], options: Mapping[str, str]) -> None:
    """Print what can be set, on standard output.

    values: of each setting, plain and in groups. options: what each option of the command does.
    """
    console = Console(highlight=False, soft_wrap=True)
    choices = {
        f"{group}=": ", ".join(NAMED_MODELS.get(name, name) for name in choices_of(group))
        for group in REGISTRIES
    }
    described = {f"experiment={name}": what for name, what in presets().items()}
    console.print(Text(textwrap.fill(_HELP, console.width), "bold"))
    _section(console, "Choose with GROUP=NAME:", choices)
    _section(console, "Presets, one over another with experiment=[ONE,OTHER]:", described)
    for group, kind in _groups(values):
        name = values[group]["name"] if group in REGISTRIES else ""
        found = rows(kind, group, values[group] if group else values)
        title = f"{group}={name}" if name else group or "all else"
        _section(console, title, {f"{row.name}={row.value}": row.line for row in found})
    _section(console, "options", options)
    _section(console, "examples", _EXAMPLES)


def _groups(values: Mapping[str, Any]) -> Iterator[tuple[str, type]]:
    for group, registry in REGISTRIES.items():
        name = values[group]["name"]
        yield group, registry[entry_of(name) if group == "model" else name].settings
    yield from ALWAYS.items()


def _section(console: Console, title: str, lines: Mapping[str, str]) -> None:
    """A heading and two columns, of which the second wraps; where there is no room for two, it
    stands below the first."""
    console.print(Text(f"\n{textwrap.fill(title, console.width)}\n", "bold"))
    beside = console.width >= 70
    indent = max([32, *map(len, lines)]) + 4 if beside else 6
    for name, meaning in lines.items():
        below = not beside or len(name) > console.width // 2
        width = max(console.width - (6 if below else indent), 20)
        wrapped = textwrap.wrap(meaning, width, break_long_words=False, break_on_hyphens=False)
        text = Text.assemble("  ", (name, "cyan"))
        if not below:
            text.append(" " * (indent - 2 - len(name)) + wrapped.pop(0))
        for line in wrapped:
            text.append(f"\n{' ' * (6 if below else indent)}{line}")
        console.print(text)


def _shown(value: Any) -> str:
    """As one types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value)


def _choices(hint: Any) -> str:
    """The values that a setting of this type can have, if they can be counted."""
    values = values_of(hint)
    return "true or false" if values == ["true", "false"] else ", ".join(values)
