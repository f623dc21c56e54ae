"""A watcher of the records that passes curves to a logger of the user's choice."""

import contextlib
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from numpy.typing import NDArray

from symrun.config import Logger
from symrun.errors import UsageError, refusal
from symrun.loggers.scalars import Scalars
from symrun.runs.directory import RunDirectory

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """One run as a logger keeps it. A module of this package has a class of this kind."""

    def __init__(self, run: RunDirectory, step: int) -> None:
        """step: of the first record that it gets."""
        ...

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class ScalarLogger:
    """A `Watcher` that shows residual and unexplained share of each symmetry while a run goes on.

    `Scalars` has the names of the curves. The logger is imported and started with the first
    record, in the writing thread, so that training never waits for it. If anything in it fails, at
    any time, it is switched off with one warning, and the run goes on.

    name: tensorboard, wandb or mlflow. path: the run's folder.
    Error: UsageError if its package is not installed, or there is no logger of this name.
    """

    def __init__(self, name: str, path: str | Path) -> None:
        names = [one.value for one in Logger if one is not Logger.none]
        if name not in names:
            raise UsageError(f"logger must be one of {', '.join(names)}, got {name!r}")
        require_installed(Logger(name))
        self._name = name
        self._run = RunDirectory(Path(path))
        self._scalars: Scalars | None = None
        self._sink: Sink | None = None
        self._failed = False

    def on_record(self, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        if self._failed:
            return
        with self._switched_off_by_errors():
            if self._scalars is None:
                self._scalars = self._begun(step)
            scalars = self._scalars.after(step, values)
            if self._sink is not None:
                self._sink.log(step, scalars)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        with self._switched_off_by_errors():
            if self._sink is not None and not self._failed:
                self._sink.close()

    def _begun(self, step: int) -> Scalars:
        scalars = Scalars(self._run.info())
        if not scalars.curves:
            _log.warning("logger=%s shows nothing: no law predicts this run", self._name)
            return scalars
        if any(self._run.table("units").glob("part-*")):
            scalars.catch_up(self._run)
        module = importlib.import_module(f"symrun.loggers.{self._name}")
        self._sink = module.Sink(self._run, step)
        return scalars

    @contextlib.contextmanager
    def _switched_off_by_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._failed = True
            _log.warning("logger=%s is switched off: %s", self._name, refusal(error))


def require_installed(logger: Logger) -> None:
    """Error: UsageError if the package that `logger` belongs to is not installed."""
    name = logger.value
    if logger is not Logger.none and find_spec(name) is None:
        remedy = f"pip install 'symrun[{name}]'"
        raise UsageError(f"logger={name} needs a package that is not installed: {remedy}")


@contextlib.contextmanager
def logging_to(logger: Logger, run: RunDirectory) -> Iterator[Sequence[ScalarLogger]]:
    """The watchers that a run has with this setting, which are closed at the end."""
    if logger is Logger.none:
        yield ()
        return
    with ScalarLogger(logger.value, run.path) as watcher:
        yield (watcher,)
