"""The command that repeats a run: its settings as `symrun train` takes them."""

import json
import shlex

from omegaconf import OmegaConf

from symrun.config import WITHOUT_EFFECT, flat
from symrun.models.registry import entry_of
from symrun.overrides import configs
from symrun.runs.info import RunInfo

_CHOICES = ("model", "data", "task", "optim")
"""Groups of settings that a file of `configs/` begins, chosen by its name."""


def command(setup: RunInfo) -> str | None:
    """`symrun train` with every setting that is not a default, and the precision that it had.

    Settings without influence on the results, such as paths and the device, are not in it. None
    for a run that was made in a loop of the user's own.
    Example: command(run.info()) == "symrun train model=vgg11 precision=float32"
    """
    if setup.loop is not None:
        return None
    settings = setup.config.by_name
    recorded = ((group, settings.get(f"{group}.name")) for group in _CHOICES)
    names = {group: str(name) for group, name in recorded if name is not None}
    defaults = flat(_read("config"))
    for group, name in names.items():
        file = entry_of(name) if group == "model" else name
        defaults |= flat({group: _read(f"{group}/{file}")})
    chosen = {*_CHOICES, *(f"{group}.name" for group in names)}
    wanted = settings | {"precision": setup.precision.value}
    words = [f"{group}={name}" for group, name in names.items()]
    words += [
        f"{name}={_word(value)}"
        for name, value in wanted.items()
        if name not in chosen and not name.startswith(WITHOUT_EFFECT)
        if value != defaults.get(name)
    ]
    return shlex.join(["symrun", "train", *words])


def _read(file: str) -> dict[str, object]:
    path = configs() / f"{file}.yaml"
    found = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _word(value: object) -> str:
    """A value in Hydra's own notation, which is JSON's but for text without need of quotes."""
    text = json.dumps(value)
    return text.strip('"') if isinstance(value, str) and value.isidentifier() else text
