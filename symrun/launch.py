"""Hydra behind `symrun train`: overrides become a typed configuration, then a run."""

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from symrun.config import Config
from symrun.errors import Busy, Interrupted, SymrunError, UsageError
from symrun.runs.directory import RunDirectory
from symrun.symmetry import Symmetry
from symrun.training.signals import StopRequest

_PACKAGE = Path(__file__).parent
_log = logging.getLogger(__name__)


def configs() -> Path:
    """The folder of configurations: inside the package once installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def compose(overrides: list[str]) -> Config:
    """The configuration that `symrun train` would run with these overrides.

    Error: UsageError, in one line, for what cannot be composed.
    Example: compose(["experiment=quickstart_bn", "optim.lr=0.01"]).optim.lr
    """
    with _own_hydra(), hydra.initialize_config_dir(str(configs()), version_base="1.3"):
        try:
            return _typed(hydra.compose("config", overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(one_line(error)) from None


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


def launch(arguments: list[str]) -> None:
    """Run `symrun train` with Hydra's command line: overrides, -m, --cfg job, --help.

    Prints each run's folder on standard output. A failed member of a sweep does not stop the
    others. Error: UsageError for what cannot be composed; else what the run raised.
    """
    failures: list[SymrunError] = []
    composed = False
    stop = StopRequest()

    def one_run(settings: DictConfig) -> None:
        nonlocal composed
        composed = True
        from symrun.training.lifecycle import train, train_member  # torch takes seconds to import

        sweep = HydraConfig.get().mode is RunMode.MULTIRUN
        try:
            config = _typed(settings)
            path = (train_member if sweep else train)(config, stop)
        except SymrunError as error:
            if sweep and isinstance(error, Busy):
                _log.warning("%s: passed over", error)
                return
            if sweep and not isinstance(error, Interrupted):
                print(f"symrun: {error}", file=sys.stderr)
                raise  # Hydra goes on with the other members and raises the first at the end
            failures.append(error)
            if sweep:
                raise KeyboardInterrupt from None
            return
        _print_run(path)
        if stop.requested is not None:  # that member is complete, but the others must not start
            raise KeyboardInterrupt

    main = hydra.main(version_base="1.3", config_path=str(configs()), config_name="config")
    try:
        with stop, _own_hydra():
            sys.argv = ["symrun train", *arguments]
            main(one_run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(one_line(error)) from None
    except ValueError as error:
        if composed:
            raise
        raise UsageError(one_line(error)) from None  # Hydra's own, for `data=null`
    except KeyboardInterrupt:
        if not failures:
            raise
    if failures:
        raise failures[0]


def resume(folder: Path, overrides: list[str], anyway: bool) -> None:
    """Run `symrun resume`, and print the run's folder on standard output.

    overrides: replace settings that the run recorded. anyway: resume even if the result will
    differ from an uninterrupted run.
    Error: UsageError for a run or an override that cannot be used; else what the run raised.
    """
    run = RunDirectory.open(folder)
    config = Config.from_mapping(_overridden(run.config().to_dict(), overrides))
    with StopRequest() as stop:
        from symrun.training.lifecycle import resume  # torch takes seconds to import

        _print_run(resume(run, config, anyway, stop))


def _overridden(settings: dict[str, object], overrides: list[str]) -> dict[str, object]:
    """`settings` with single values replaced, as Hydra would: optim.lr=0.1."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UsageError(one_line(error)) from None
    for override in parsed:
        if override.is_add() or override.is_delete() or override.is_sweep_override():
            raise UsageError(f"{override.input_line}: resume takes settings such as device=cpu")
        *groups, name = override.key_or_group.split(".")
        group: object = settings
        for key in groups:
            group = group.get(key) if isinstance(group, dict) else None
        if not isinstance(group, dict) or name not in group:
            raise UsageError(f"{override.input_line}: the run has no such setting")
        group[name] = override.value()
    return settings


def _print_run(path: Path) -> None:
    quoted = shlex.quote(str(path))
    info = RunDirectory(path).info()
    figure = f"fig1 {quoted}" if info.groups_of(Symmetry.scale) else f"fig5 {quoted} RUN_WITH_BN"
    following = f"symrun check {quoted}; symrun plot {figure}"
    if info.diverged is not None:  # too few finite records may be left to check or to draw
        following = f"try a lower optim.lr: {info.diverged}"
    print(f"next: {following}", file=sys.stderr)
    print(path, flush=True)


def _typed(settings: DictConfig) -> Config:
    return Config.from_mapping(OmegaConf.to_container(settings, resolve=True))  # type: ignore[arg-type]


def one_line(error: Exception) -> str:
    """Hydra's message in one line, without its search path and its advice to append with `+`."""
    lines = [
        line.strip() for part in (error, error.__cause__) for line in str(part or "").splitlines()
    ]
    if "Config search path:" in lines:
        lines = lines[: lines.index("Config search path:")]
    noise = ("To append", "full_key", "object_type", "reference_type", "^", "See https")
    kept = [line for line in lines if line and not line.startswith(noise)]
    return "; ".join(kept).replace(":; ", ": ")
