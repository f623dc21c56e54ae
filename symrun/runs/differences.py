"""Settings of runs: which are not the defaults, which differ between runs, how to repeat a run."""

import json
import shlex
from collections.abc import Mapping, Sequence

from symrun.config import WITHOUT_EFFECT, flat
from symrun.models.registry import entry_of
from symrun.runs.info import RunInfo

_CHOICES = ("model", "data", "task", "optim")
"""Groups of settings that a file of `configs/` begins, chosen by its name."""
_ROOTS = {"image_folder": "DIR", "text": "FILE"}
"""Data sets whose `data.root` must be given, and what stands for it where it is not recorded."""


def changed_settings(info: RunInfo) -> dict[str, tuple[object, object]] | None:
    """Name -> value and default of each setting that is not the default of the run's model, data
    set, task and optimiser, but for those without effect on results.

    None where there are no defaults: in a loop of the user's own.
    """
    if info.loop is not None:
        return None
    settings, defaults = info.config.by_name, flat(_read("config"))
    names = _chosen(settings)
    for group, name in names.items():
        file = entry_of(name) if group == "model" else name
        defaults |= flat({group: _read(f"{group}/{file}")})
    left_out = {*_CHOICES, *(f"{group}.name" for group in names)}
    return {
        name: (value, defaults.get(name))
        for name, value in settings.items()
        if name not in left_out and not name.startswith(WITHOUT_EFFECT)
        if value != defaults.get(name)
    }


def command(info: RunInfo) -> str | None:
    """`symrun train` with every setting that is not a default, and the precision that the run had.

    Data that must be given are named: by `data.root=DIR` or `FILE` where nothing tells which, as in
    what is published. None for a run that was made in a loop of the user's own.
    Example: command(run.info())
    """
    changed = changed_settings(info)
    if changed is None:
        return None
    values = {name: value for name, (value, _) in changed.items()}
    settings = info.config.by_name
    if (data := str(settings.get("data.name"))) in _ROOTS:
        values["data.root"] = settings.get("data.root") or _ROOTS[data]
    values["precision"] = info.precision.value
    words = [f"{group}={name}" for group, name in _chosen(settings).items()]
    words += [f"{name}={_word(value)}" for name, value in values.items()]
    return shlex.join(["symrun", "train", *words])


def differing_settings(runs: Sequence[Mapping[str, object]]) -> list[str]:
    """The settings in which runs differ, but for those without effect on results.

    runs: the settings of each, by name. One that a run lacks, since an older symrun made it, is no
    difference; one that its model, data set, task or optimiser does not have is.
    Example: differing_settings([{"seed": 0}, {"seed": 1}]) == ["seed"]
    """

    def differ(name: str) -> bool:
        group = f"{name.partition('.')[0]}.name"
        values = [settings[name] for settings in runs if name in settings]
        missing = len(values) < len(runs) and name != group and differ(group)
        return missing or any(value != values[0] for value in values)

    names = dict.fromkeys(name for settings in runs for name in settings)
    return [name for name in names if not name.startswith(WITHOUT_EFFECT) and differ(name)]


def _chosen(settings: Mapping[str, object]) -> dict[str, str]:
    """Group -> the name that chooses its file."""
    recorded = ((group, settings.get(f"{group}.name")) for group in _CHOICES)
    return {group: str(name) for group, name in recorded if name is not None}


def _read(file: str) -> dict[str, object]:
    from omegaconf import OmegaConf

    from symrun.overrides import configs  # Hydra takes a while to import

    path = configs() / f"{file}.yaml"
    found = OmegaConf.to_container(OmegaConf.load(path)) if path.exists() else {}
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _word(value: object) -> str:
    """A value in Hydra's own notation, which is JSON's but for text without need of quotes."""
    text = json.dumps(value)
    return text.strip('"') if isinstance(value, str) and value.isidentifier() else text
