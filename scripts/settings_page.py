"""Write docs/settings.md: every setting of every choice, from what checks the settings.

Usage: python scripts/settings_page.py
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from symrun.overrides import NAMED_MODELS, REGISTRIES, configs
from symrun.settings import ALWAYS, Row, presets, rows

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
_INTRODUCTION = """\
A setting is `NAME=VALUE`. `symrun train --help` shows what there is for one choice, and this page
all choices: both are made of what checks the settings. (This page by `python
scripts/settings_page.py`.)

```sh
symrun train model=vgg11_bn model.width=0.5 optim.lr=0.05 optim.weight_decay=5e-4 track.every=10
symrun train experiment=quickstart_bn optim=adamw optim.lr=1e-3
symrun train "experiment=[fig1,reproduce_cpu]"    # one preset over another
symrun train --cfg job experiment=fig1            # show the settings, and train nothing
```

Without any setting, `symrun train` trains VGG16 with BatchNorm on Tiny ImageNet for 100 epochs,
in batches of 256, by SGD with a learning rate of 0.1 and no weight decay.

A path or a name may contain any character: `"run.dir=~/my run (a=b, #2)"`. Only with `-m` do
commas separate several values. A name that does not exist, or a value that cannot be, is reported
in one line that says what to type. `source <(symrun completion bash)`, or `zsh`, lets Tab
complete commands, options and settings.

More on [your own network](models.md#your-own), [a symmetry by
hand](models.md#naming-a-symmetry-by-hand), [your own data](howto/data.md),
[precision](precision.md), [loggers](loops.md#loggers) and [what makes a step
fast](performance.md#on-a-gpu). Where choices differ in a default, the table lists the defaults in
their order."""


def page() -> str:
    """Every setting of every choice, as Markdown."""
    blocks = ["# Settings", _INTRODUCTION, "## Presets", "`experiment=NAME`"]
    blocks.append(_table(["preset", "what it is"], [[f"`{n}`", w] for n, w in presets().items()]))
    for group, registry in REGISTRIES.items():
        blocks.append(f"## {group}")
        members: dict[type, list[str]] = {}
        for name, entry in registry.items():
            members.setdefault(entry.settings, []).append(name)
        for kind, names in members.items():
            shown = (NAMED_MODELS.get(name, name) for name in names)
            blocks.append(", ".join(f"`{group}={name}`" for name in shown))
            values = [_of_file(configs() / group / f"{name}.yaml") for name in names]
            blocks.append(_settings_table([rows(kind, group, one) for one in values]))
    defaults = _of_file(configs() / "config.yaml")
    for group, kind in ALWAYS.items():
        own = rows(kind, group, defaults[group] if group else defaults)
        blocks += [f"## {group or 'All else'}", _settings_table([own])]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _settings_table(found: list[list[Row]]) -> str:
    """Of several choices that have the same settings."""
    lines = []
    for same in zip(*found, strict=True):
        row, values = same[0], list(dict.fromkeys(one.value for one in same))
        shown = ", ".join(f"`{value}`" for value in values)
        lines.append([f"`{row.name}`", shown, row.choices.replace("|", r"\|"), row.meaning])
    return _table(["setting", "default", "values", "meaning"], lines) if lines else ""


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _of_file(path: Path) -> dict[str, Any]:
    """The plain values of a file in `configs/`, with what refers to others as it is typed."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
