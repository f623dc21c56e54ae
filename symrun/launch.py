"""Hydra behind `symrun train`: overrides become a typed configuration, then a run."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from symrun import ranks
from symrun.config import Config, data_config
from symrun.data.registry import DataConfig
from symrun.errors import UsageError
from symrun.members import Composed, print_run, raise_if_stopped, sweep
from symrun.overrides import (
    GROUPS,
    MORE_PRESETS,
    as_read,
    choices_of,
    combinations,
    configs,
    read,
    require_known,
)
from symrun.runs.directory import RunDirectory
from symrun.sweeps.registry import sweep_config
from symrun.training.signals import StopRequest

Typed = TypeVar("Typed")


def compose(words: list[str]) -> Config:
    """The configuration that `symrun train` would run with these settings.

    Error: UsageError, in one line, for what cannot be composed.
    Example: compose(["experiment=quickstart_bn", "optim.lr=0.01"]).optim.lr
    """
    if own := _of_sweep(words):
        raise UsageError(f"{own[0]} has no effect on one run: leave it out")
    config = _typed(words, _config)
    _require_effect_of_epochs(words, config)
    return config


def compose_data(words: list[str]) -> DataConfig:
    """The data set of `compose(words)`, whether or not the model could take it.

    Error: as in `compose`. Example: compose_data(["data=mnist"]).name == "mnist"
    """
    return _typed(words, data_config)


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra's global state, sys.argv and os.environ are those of symrun alone, and put back."""
    base, before = VersionBase.instance(), GlobalHydra.instance().hydra
    version, words = base.version_base, sys.argv
    errors = os.environ.get("HYDRA_FULL_ERROR")
    GlobalHydra.instance().clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come here instead of being printed
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before  # Hydra has put another instance in its place
        base.version_base, sys.argv = version, words
        if errors is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = errors


def launch(words: list[str], several: bool) -> None:
    """Run `symrun train` with these settings, and print each run's folder on standard output.

    several: a setting may list values, and every combination is trained: a sweep. A preset may be
    a sweep by itself.

    Error: UsageError, with nothing trained, for settings that cannot be used; else what the run
    raised. A failed member does not stop a sweep, and the first one's exit code is the sweep's.
    """
    with StopRequest() as stop:
        members = _members(words, several)
        own = _of_sweep(words)
        if len(members) > 1 or several:
            chosen = _typed([*members[0], *own], sweep_config)
            sweep(chosen, Composed.all_of(members, compose), stop)
            return
        if own:
            raise UsageError(
                f"{own[0]} has no effect on one run: type symrun train -m, or leave it out"
            )
        config = compose(members[0])
        from symrun.training.lifecycle import train  # torch takes seconds to import

        print_run(train(config, stop))
        raise_if_stopped(stop)


def show_help(words: list[str], options: dict[str, str]) -> None:
    """Print the settings that there are, with the values that `words` give them.

    options: what each option of the command does. Error: UsageError as in `launch`.
    """
    from symrun.settings import print_help

    chosen = [*_members(words, several=True)[0], *_of_sweep(words)]
    print_help(_typed(chosen, dict), options)


def show(arguments: list[str], words: list[str]) -> None:
    """Print what Hydra shows instead of training, the composed configuration.

    arguments: all of the command line. words: those of them that are settings.

    Error: UsageError as in `launch`.
    """
    for member in _members(words, several=False):
        compose(member)
    folder = [word for word in words if word.startswith(MORE_PRESETS)]
    readable = {}
    for word in words:
        readable[word] = as_read([*folder, word], several=True)[len(folder) :]
    main = hydra.main(version_base="1.3", config_path=str(configs()), config_name="config")
    with _own_hydra():
        sys.argv = ["symrun train"]
        for word in arguments:
            sys.argv += readable.get(word, [word])
        main(lambda settings: None)()


def resume(folder: Path | str, words: list[str], anyway: bool) -> None:
    """Run `symrun resume`, and print the run's folder on standard output. Of a URL that is the
    working copy, which is made first.

    words: settings in place of those that the run recorded. anyway: resume even if the result will
    differ from an uninterrupted run.
    Error: UsageError for a run or a setting that cannot be used; else what the run raised.
    """
    from symrun.runs.mirror import check_out

    def opened() -> tuple[RunDirectory, Config]:
        run = check_out(folder) if isinstance(folder, str) else RunDirectory.open(folder)
        settings = run.config().to_dict()
        settings["run"]["dir"] = run.url or settings["run"]["dir"]
        return run, Config.from_mapping(_replaced(settings, words))

    run, config = ranks.from_first(opened)
    with StopRequest() as stop:
        from symrun.training.lifecycle import resume  # torch takes seconds to import

        print_run(resume(run, config, anyway, stop))


def _replaced(settings: dict[str, Any], words: list[str]) -> dict[str, Any]:
    """`settings` with single values replaced: optim.lr=0.1."""
    for override in read(words):
        name, text = override.key_or_group, override.input_line
        if name in GROUPS:
            kept = "a run keeps its model, data, task, optim and experiment: leave it out"
            raise UsageError(f"{text}: {kept}, or type {name}.KEY=VALUE for a setting of it")
        require_known([text or ""], settings)
        *groups, key = name.split(".")
        group = settings
        for inner in groups:
            group = group[inner]
        group[key] = override.value()
    return settings


def _of_sweep(words: list[str]) -> list[str]:
    """The settings that say how a sweep is run, and nothing of its members."""
    names = (word.partition("=")[0].strip().lstrip("+") for word in words)
    groups = [name.partition(".")[0] for name in names]
    return [word for word, group in zip(words, groups, strict=True) if group == "sweep"]


def _members(words: list[str], several: bool) -> list[list[str]]:
    """The settings of each run: more than one if this is a sweep."""
    of_sweep = _of_sweep(words)
    for override in read(of_sweep, several=True):
        if override.is_sweep_override():
            remedy = f"a sweep is run in one way: type {override.key_or_group}=VALUE"
            raise UsageError(f"{override.input_line} lists several values, but {remedy}")
    words = [word for word in words if word not in of_sweep]
    single = [
        override.input_line or ""
        for override in read(words, several=True)
        if not override.is_sweep_override()
    ]
    preset = _composed(single).hydra
    if not (several or preset.mode is RunMode.MULTIRUN):
        return [as_read(words)]
    given = {word.partition("=")[0] for word in words}
    listed = (preset.sweeper.params or {}).items()
    varied = [f"{name}={values}" for name, values in listed if name not in given]
    return combinations([*varied, *words])


def _composed(words: list[str]) -> DictConfig:
    """All settings, and Hydra's own. Error: UsageError, naming the word that is wrong."""
    with _own_hydra(), hydra.initialize_config_dir(str(configs()), version_base="1.3"):
        try:
            return hydra.compose("config", words, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            choices = (*GROUPS, MORE_PRESETS, "model.name")
            chosen = [word for word in words if word.partition("=")[0] in choices]
            try:
                known = _as_dict(hydra.compose("config", chosen))
            except (HydraException, OmegaConfBaseException):  # a preset of the user's own is broken
                raise UsageError(_refusal(error)) from None
            require_known(words, known)
            raise UsageError(_refusal(error)) from None


def _config(settings: dict[str, Any]) -> Config:
    """Without how a sweep is run, which no run records."""
    return Config.from_mapping({name: settings[name] for name in settings if name != "sweep"})


def _require_effect_of_epochs(words: list[str], config: Config) -> None:
    """Error: UsageError if `words` name epochs, but steps, which a preset may give, win."""
    given = [word for word in words if word.partition("=")[0].strip() == "train.epochs"]
    if given and config.train.steps is not None:
        raise UsageError(
            f"{given[-1]} has no effect where train.steps={config.train.steps}: "
            "add train.steps=null, or leave it out"
        )


def _as_dict(settings: DictConfig, resolve: bool = False) -> dict[str, Any]:
    plain = OmegaConf.to_container(settings, resolve=resolve)
    assert isinstance(plain, dict)
    return {str(name): value for name, value in plain.items()}


def _refusal(error: Exception) -> str:
    return f"these settings cannot be composed: {str(error).splitlines()[0]}"


def _typed(words: list[str], build: Callable[[dict[str, Any]], Typed]) -> Typed:
    settings = _composed(as_read(words))
    with open_dict(settings):
        settings.pop("hydra")
    try:
        for name in sorted(OmegaConf.missing_keys(settings)):
            raise UsageError(f"{name} must have a value, got ???")
        plain = _as_dict(settings, resolve=True)
    except OmegaConfBaseException as error:
        named = next((word for word in words if "${" in word), None)
        refusal = f"{named}: no setting has the name in braces" if named else _refusal(error)
        raise UsageError(refusal) from None
    try:
        return build(plain)
    except UsageError as error:
        _blame_preset(words, plain, error)
        for word in words:  # the settings of one entry with the name of another
            group, named, choice = word.partition(".name=")
            if named and choice in choices_of(group):
                raise UsageError(f"{word} brings no settings: type {group}={choice}") from None
        raise


def _blame_preset(words: list[str], settings: dict[str, Any], error: UsageError) -> None:
    """Error: UsageError if `error` refuses what a preset sets, and the user chose another model."""
    typed = {word.partition("=")[0]: word for word in words}
    if not {"experiment", "model"} <= typed.keys():
        return
    preset, model = typed["experiment"], f"model={settings['model']['name']}"
    alone = as_read([typed[one] for one in (MORE_PRESETS, "model", "model.name") if one in typed])
    own = _as_dict(_composed(alone))["model"]
    for key, value in settings["model"].items():
        name = f"model.{key}"
        ours = name in typed or own.get(key) == value
        if ours or name not in re.findall(r"[\w.]+", str(error)):
            continue
        refuses = f"does not have: leave {preset} out, and type what else it sets"
        if key in own:
            refuses = f"cannot take: type {name}=VALUE; {error}"
        raise UsageError(f"{preset} sets {name}, which {model} {refuses}") from None
