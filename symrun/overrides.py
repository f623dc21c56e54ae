"""Settings as the user types them, NAME=VALUE: what can be read, and what to type instead."""

import dataclasses
import functools
import itertools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
)
from hydra.errors import HydraException

from symrun.config import Config, flat
from symrun.data.registry import DATA_SETS
from symrun.errors import UsageError, did_you_mean, nearest
from symrun.models.registry import MODELS, entry_of
from symrun.optimizers import OPTIMIZERS
from symrun.sweeps.registry import SWEEPS
from symrun.sweeps.settings import SweepConfig
from symrun.tasks import TASKS
from symrun.typed import Entry

GROUPS = ("model", "data", "task", "optim", "experiment", "sweep")
"""What is chosen by the name of a file in a folder of `configs/`."""

MORE_PRESETS = "hydra.searchpath"
"""The setting of Hydra that names another folder of presets; users give it as --config-dir."""

_PACKAGE = Path(__file__).parent
REGISTRIES: dict[str, Mapping[str, Entry[Any]]] = {
    "model": MODELS,
    "data": DATA_SETS,
    "task": TASKS,
    "optim": OPTIMIZERS,
    "sweep": SWEEPS,
}
NAMED_MODELS = {"torchvision": "torchvision/NAME", "own": "package.module:function"}
"""Files of models that need a name as well, and what to type for both."""

_FREE_TEXT = ("run.name", "run.dir", "data.root", "data.cache")
_SYNONYMS = {
    "lr": ("learning_rate", "learningrate", "alpha0", "eta"),
    "weight_decay": ("wd", "decay", "l2", "weightdecay"),
    "batch_size": ("bs", "batch", "batchsize", "minibatch"),
    "steps": ("iterations", "iters", "max_steps", "updates", "total_steps"),
    "epochs": ("max_epochs", "num_epochs", "n_epochs"),
    "every": ("interval", "log_every", "frequency"),
    "width": ("width_multiplier",),
    "beta1": ("betas",),
    "schedule": ("scheduler", "lr_schedule", "lr_scheduler"),
    "model": ("arch", "architecture", "net", "network"),
    "data": ("dataset",),
    "task": ("loss", "criterion", "objective"),
    "optim": ("optimizer", "optimiser", "opt"),
    "experiment": ("preset", "config", "exp"),
    "precision": ("dtype", "amp"),
    "device": ("gpu", "cuda"),
    "seed": ("random_state", "rng"),
    "root": ("data_dir", "data_path"),
    "dir": ("out", "output", "output_dir", "out_dir", "run_dir"),
}


def configs() -> Path:
    """The folder of configurations: inside the package once installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def read(words: Sequence[str], several: bool = False) -> list[Override]:
    """`words` as Hydra understands them; the text of each is in its `input_line`.

    A path or a run's name may contain any character. several: a word may list values, seed=0,1.

    Error: UsageError, naming the word and what to type, for the first that cannot be read.
    Example: read(["optim.lr=0.1"])[0].value() == 0.1
    """
    overrides = []
    preset: str | None = None
    for place, word in enumerate(words):
        override = _read(word, words[place + 1 :], several)
        name = override.key_or_group
        if name == "experiment":  # of all other settings the last one holds
            if preset not in (None, word):
                remedy = "or type experiment=[ONE,OTHER] for one on top of the other"
                raise UsageError(
                    f"{word}: experiment is chosen twice: leave one of {preset} and {word} out, "
                    f"{remedy}"
                )
            preset = word
        if name in GROUPS and not override.is_sweep_override():
            _require_choice(override, words)
        overrides += _expanded(override)
    return overrides


def as_read(words: Sequence[str], several: bool = False) -> list[str]:
    """The text of each word as `read` understands it, which Hydra can compose.

    Error: UsageError as in `read`.
    Example: as_read(["model=torchvision/resnet18"])[0] == "model='torchvision'"
    """
    return [override.input_line or "" for override in read(words, several)]


def combinations(words: Sequence[str]) -> list[list[str]]:
    """Every combination of the values in words that list several.

    Error: UsageError as in `read`.
    Example: combinations(["seed=0,1", "device=cpu"])[1] == ["seed=1", "device=cpu"]
    """
    choices = []
    for override in read(words, several=True):
        name, value = override.key_or_group, override.value()
        if isinstance(value, Glob):
            found = value.filter(choices_of(name, words))
            if not found:
                raise UsageError(f"{override.input_line} fits none of {name}'s choices")
            choices.append([f"{name}={choice}" for choice in found])
        elif override.is_sweep_override():
            choices.append([f"{name}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([override.input_line or ""])
    return [list(combination) for combination in itertools.product(*choices)]


def require_known(words: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Error: UsageError for the first of `words` whose name is not among `settings`."""
    known = flat(settings)
    for override in read(words, several=True):
        name = override.key_or_group
        if name not in {*GROUPS, *known, *settings, MORE_PRESETS}:
            raise UsageError(_unknown_setting(name, known))


def choices_of(group: str, words: Sequence[str] = ()) -> list[str]:
    """The names that `group` can have, with those of a folder named in `words`."""
    folders = [configs()]
    for word in words:
        if word.startswith(f"{MORE_PRESETS}="):
            folders.append(Path(word.partition("file://")[2].rstrip("']")))
    return sorted({path.stem for folder in folders for path in folder.glob(f"{group}/*.yaml")})


@functools.cache
def names() -> dict[str, Any]:
    """Every setting that some model, data set, task or optimiser has, and its type."""
    found: dict[str, Any] = {}
    for name, hint in {**typing.get_type_hints(Config), "sweep": SweepConfig}.items():
        kinds: list[Any] = [hint] if dataclasses.is_dataclass(hint) else []
        if name in REGISTRIES:
            kinds = [entry.settings for entry in REGISTRIES[name].values()]
        for kind in kinds:
            hints = typing.get_type_hints(kind)
            found |= {f"{name}.{key}": hints[key] for key in hints}
        if not kinds:
            found[name] = hint
    for group in REGISTRIES:  # the entry's own, which GROUP=NAME chooses
        del found[f"{group}.name"]
    return found


def completions(prefix: str) -> list[str]:
    """What a setting that begins with `prefix` may become.

    Example: completions("optim.l") == ["optim.lr="]
    """
    name, equals, _ = prefix.partition("=")
    if not equals:
        return [f"{known}=" for known in (*GROUPS, *names()) if known.startswith(prefix)]
    return [word for value in _values(name) if (word := f"{name}={value}").startswith(prefix)]


def suggestion(word: str, following: Sequence[str] = ()) -> str | None:
    """The setting that was probably meant by `word`, which is none, as NAME=VALUE.

    Example: suggestion("fig1") == "experiment=fig1"
    """
    bare = word.strip("-[](){}'\",")
    for group in GROUPS:
        if bare in choices_of(group):
            return f"{group}={bare}"
    name, sign, value = bare.partition("=" if "=" in bare else ":")
    if not sign:
        value = next((after for after in following if after != "="), "")
    known = name if name in (*GROUPS, *names()) else _nearest(name, names())
    usable = value and not value.startswith("-") and "=" not in value
    return f"{known}={value if usable else 'VALUE'}" if known else None


def _read(word: str, following: Sequence[str], several: bool) -> Override:
    name, equals, value = word.partition("=")
    name, value = name.strip(), value.strip()
    if word.startswith("~"):
        raise UsageError(f"{word}: a setting cannot be removed: type {name[1:]}=VALUE")
    if not (equals and name.lstrip("+")):
        meant = suggestion(word, following)
        remedy = f"type {meant}" if meant else "a setting is NAME=VALUE, such as optim.lr=0.1"
        raise UsageError(f"{word} is not a setting: {remedy}")
    plain = name.lstrip("+")
    if name != plain and not name.startswith("++"):
        raise UsageError(f"{word}: leave the + out: type {plain}={value}")
    _refuse_hydra(word, plain)
    if not value:
        raise UsageError(
            f"{word} has no value: type {plain}=VALUE, such as {plain}={_example(plain)}"
        )
    override = _parse(word, plain, value)
    if override.is_sweep_override() and not several:
        if plain not in _FREE_TEXT or not isinstance(override.value(), ChoiceSweep):
            only = "only `symrun train -m` and `symrun bench` take that"
            raise UsageError(f"{word} lists several values, and {only}: type {plain}=VALUE")
        return _quoted(plain, value)
    if isinstance(override.value(), IntervalSweep):
        raise UsageError(f"{word} is not a list of values: type {plain}=A,B,C or range(A,B)")
    if plain in _FREE_TEXT and not isinstance(override.value(), str | ChoiceSweep | None):
        return _quoted(plain, value)  # a folder may be called 2026
    return override


def _expanded(override: Override) -> list[Override]:
    """model=torchvision/NAME as the file of such models and the name; others as they are."""
    if override.key_or_group != "model" or override.is_sweep_override():
        return [override]
    name, entry = str(override.value()), entry_of(str(override.value()))
    if entry == name:
        return [override]
    return [_quoted("model", entry), _quoted("model.name", name)]


def _parse(word: str, name: str, value: str) -> Override:
    try:
        return OverridesParser.create().parse_override(f"{name}={value}")
    except HydraException:
        if name in _FREE_TEXT and value[0] not in "'\"":
            return _quoted(name, value)
        if name in GROUPS:
            _refuse_choice(name, value, choices_of(name))
        if name not in names():
            raise UsageError(_unknown_setting(name, dict.fromkeys((*GROUPS, *names())))) from None
        if value[0] in "'\"":
            raise UsageError(f"{word}: the quotes do not close: type {name}=VALUE") from None
        raise UsageError(f"{word} cannot be read: type {name}={_example(name)}") from None


def _quoted(name: str, value: str) -> Override:
    text = QuotedString(value, Quote.single).with_quotes()
    return OverridesParser.create().parse_override(f"{name}={text}")


def _refuse_hydra(word: str, name: str) -> None:
    if name.startswith(("hydra.", "hydra/")) and name != MORE_PRESETS:
        remedy = "type run.dir=DIR for a run's folder, or run.name=NAME for outputs/NAME"
        if "launcher" in name:
            remedy = f"type {_sweep_of(word)}"
        elif "sweeper" in name:
            remedy = "every combination of the values is trained: leave it out"
        raise UsageError(f"{word} has no effect on symrun: {remedy}")


def _sweep_of(word: str) -> str:
    """What to type for a launcher of Hydra's: "sweep=slurm" for hydra/launcher=submitit_slurm."""
    known = {"joblib": "processes", "submitit_local": "slurm sweep.cluster=local"}
    known |= {"submitit_slurm": "slurm", "ray": "ray"}
    named = (name for launcher, name in known.items() if launcher in word)
    return f"sweep={next(named, 'processes')}; sweep is one of {', '.join(SWEEPS)}"


def _require_choice(override: Override, words: Sequence[str]) -> None:
    """Error: UsageError for a value that is no file of the group."""
    group, value = override.key_or_group, override.value()
    if group == "model" and (whole := NAMED_MODELS.get(str(value))):
        if not any(word.startswith("model.name=") for word in words):
            raise UsageError(f"model={value} lacks the network's name: type model={whole}")
    given = value if group == "experiment" and isinstance(value, list) else [value]
    for choice in given:
        known = entry_of(str(choice)) if group == "model" else str(choice)
        if "${" not in str(choice) and known not in choices_of(group, words):
            text = (override.input_line or "").partition("=")[2]
            _refuse_choice(group, text if len(given) == 1 else choice, choices_of(group, words))


def _refuse_choice(group: str, value: object, choices: list[str]) -> typing.NoReturn:
    choices = [NAMED_MODELS.get(choice, choice) for choice in choices]
    meant = did_you_mean(str(value), choices, f"{group}=")
    raise UsageError(f"{group} must be one of {', '.join(choices)}, got {value}{meant}") from None


def _unknown_setting(name: str, known: Mapping[str, Any]) -> str:
    """That there is no setting `name`, what there is, and the nearest.

    known: every setting there is, as "optim.lr", with its value.
    """
    group, dot, _ = name.partition(".")
    members = [full.partition(".")[2] for full in known if full.startswith(f"{group}.")]
    groups = list(dict.fromkeys(full.partition(".")[0] for full in known))
    if dot and members:
        chosen = known.get(f"{group}.name") if name in names() else None
        keys = (key for key in members if key != "name" or group == "run")
        among = f"{f' with {group}={chosen}' if chosen else ''}; {group} has {', '.join(keys)}"
    else:
        among = f"; there are {', '.join(groups)}"
    meant = _nearest(name, [*known, *groups])
    meant = f"; did you mean {meant}?" if meant else ""
    return f"there is no setting {name}{among}{meant}"


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The setting that `name` resembles most: in its own group first, then by its last part."""
    group, _, last = name.lower().replace("-", "_").rpartition(".")
    last = next((key for key, others in _SYNONYMS.items() if last in others), last)
    known = [*known, *GROUPS]
    for similar in (lambda one: one == last, lambda one: one in nearest(last, [one], 0.75)):
        alike = [full for full in known if similar(full.rpartition(".")[2])]
        own = [full for full in alike if full.rpartition(".")[0] == group]
        if own or alike:
            return nearest(name, own or alike, 0)[0]
    return None


def values_of(hint: Any) -> list[str]:
    """The values of a type, as one types them, if they can be counted.

    Example: values_of(bool) == ["true", "false"]
    """
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in hint.__args__ if kind is not type(None))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(member.value) for member in hint]
    return ["true", "false"] if hint is bool else []


def _values(name: str) -> list[str]:
    """Those that `name` can have, if they can be counted."""
    return choices_of(name) if name in GROUPS else values_of(names().get(name))


def _example(name: str) -> str:
    """A value that `name` might have."""
    examples = {int: "1", float: "0.1", Path: "DIR"}
    return next(iter(_values(name)), examples.get(names().get(name, str), "NAME"))
