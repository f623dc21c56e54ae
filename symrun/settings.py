"""What settings there are, in words, as `symrun train --help` prints them.

Meanings and intervals are those of the annotations that check them, defaults those of `configs/`.
"""

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from symrun.config import Config, RunConfig, TrackConfig, TrainConfig
from symrun.overrides import NAMED_MODELS, REGISTRIES, choices_of, configs
from symrun.typed import settings_of

ALWAYS = {"train": TrainConfig, "track": TrackConfig, "run": RunConfig, "": Config}
"""Groups that every run has, and what stands in none."""
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


def print_help(config: Config, options: Mapping[str, str]) -> None:
    """Print what can be set, with the values of `config`, on standard output.

    options: what each option of the command does.
    """
    console = Console(highlight=False, soft_wrap=False)
    console.print(Text(_HELP, "bold"))
    console.print("\nChoose with GROUP=NAME:\n")
    for group in REGISTRIES:
        names = [NAMED_MODELS.get(name, name) for name in choices_of(group)]
        _columns(console, [(f"{group}=", ", ".join(names))])
    console.print("\nPresets, several on top of each other with experiment=[ONE,OTHER]:\n")
    _columns(console, [(f"experiment={name}", what) for name, what in presets().items()])
    plain = config.to_dict()
    for group, kind in _groups(config):
        name = plain[group].get("name") if group in REGISTRIES else None
        title = f"{group}={name}" if name else group or "all else"
        console.print(Text(f"\n{title}\n", "bold"))
        values = plain[group] if group else plain
        found = rows(kind, group, values)
        _columns(console, [(f"{row.name}={row.value}", row.line) for row in found])
    for title, lines in (("options", options), ("examples", _EXAMPLES)):
        console.print(Text(f"\n{title}\n", "bold"))
        _columns(console, list(lines.items()))


def _groups(config: Config) -> Iterator[tuple[str, type]]:
    for group in REGISTRIES:
        yield group, type(getattr(config, group))
    yield from ALWAYS.items()


def _columns(console: Console, lines: list[tuple[str, str]]) -> None:
    """Two columns, of which the second wraps."""
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=34, max_width=52, overflow="fold")
    table.add_column()
    for name, meaning in lines:
        table.add_row(Text(name, "cyan"), Text(meaning))
    console.print(Padding(table, (0, 0, 0, 2)))


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
    """Those that can be counted."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in hint.__args__ if kind is not type(None))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(str(member.value) for member in hint)
    return "true or false" if hint is bool else ""
