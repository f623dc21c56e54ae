"""A run from its start, or from where it stopped, to its end."""

import contextlib
import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path

import torch

from symrun.config import Config
from symrun.data import load
from symrun.errors import Diverged, Interrupted, RunError, Stopped, UsageError
from symrun.runs.directory import TABLES, RunDirectory
from symrun.runs.info import DivergenceInfo, RunInfo, Status
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.graph import own_stream
from symrun.training.keeper import Keeper
from symrun.training.loop import fit
from symrun.training.optimizers import laws_of
from symrun.training.precision import device_title, select_device, with_precision
from symrun.training.preparation import make_tracker, prepare, require_runnable
from symrun.training.progress import Progress
from symrun.training.provenance import describe
from symrun.training.space import require_space, table_bytes
from symrun.training.state import Content, State
from symrun.training.stopping import StopRequest
from symrun.training.update import Training

Warn = Callable[[str], None]


def train(config: Config, warn: Warn, stop: StopRequest | None = None) -> Path:
    """Train as configured into a run folder of its own, and return that folder.

    stop: ends it early, with everything saved.

    Error: UsageError before anything was trained, leaving no folder behind; Diverged, RunError and
    Interrupted later, with the tables readable up to there.
    Example: train(compose(["experiment=quickstart_bn"]), print)
    """
    device = select_device(config.device)
    config = with_precision(config, device)
    require_runnable(config, device)
    run = RunDirectory.create(config.run.dir, config.run.name)
    with run.locked():
        try:
            training, info = prepared(config, device)
            require_space(run, training, config)
            run.write_info(info)
        except BaseException as error:
            run.discard()
            if isinstance(error, OSError):
                raise RunError(f"{run.path} cannot be written: {error.strerror}") from None
            raise
        go_on(run, config, training, warn, stop or StopRequest())
    return run.path


def prepared(config: Config, device: torch.device) -> tuple[Training, RunInfo]:
    """What the run trains, and its run.json. Error: RunError if the GPU is too small."""
    try:
        dataset = load(config.data)
        training = prepare(config, dataset, device)
    except torch.OutOfMemoryError:
        raise RunError("the data set or the network does not fit into the GPU") from None
    _, unpredicted = laws_of(config.optim)
    model, structure, batches = training.model, training.structure, training.batches
    steps_per_epoch = batches.steps_per_epoch
    info = describe(config, dataset, model, structure, device, steps_per_epoch, unpredicted)
    return training, info


@dataclasses.dataclass(frozen=True)
class Resumption:
    """Where a run goes on: from `checkpoint`, or again from its start if that is None.

    info: what run.json says from then on.
    """

    checkpoint: Content | None
    info: RunInfo

    @property
    def step(self) -> int:
        return self.checkpoint["step"] if self.checkpoint is not None else 0

    @property
    def parts(self) -> dict[str, int]:
        """Of each table, those that were on the disk before the checkpoint."""
        parts = self.checkpoint["parts"] if self.checkpoint is not None else {}
        return dict.fromkeys(TABLES, 0) | parts


def go_on(
    run: RunDirectory,
    config: Config,
    training: Training,
    warn: Warn,
    stop: StopRequest,
    resumption: Resumption | None = None,
) -> None:
    """Train to the end. Assumes: locked, and described by a run.json.

    Error: as in `train`; UsageError, with nothing changed, for a checkpoint of another network.
    """
    _, unpredicted = laws_of(config.optim)
    for reason in sorted(set(unpredicted.values())):
        columns = ", ".join(law for law in unpredicted if unpredicted[law] == reason)
        warn(f"not predicted, null in the tables: {columns}: {reason}")
    progress = writer = None
    graphs = own_stream(training.device) if training.cuda_graph else contextlib.nullcontext()
    try:
        with stop.patient():
            with TableWriter(run, resumption.parts if resumption else None) as writer:
                progress = Progress(writer, training.model, training.steps)
                tracker = make_tracker(training, config, writer, Tracker)
                state = State(training, tracker, progress)
                if resumption is not None:
                    _restore(run, state, resumption)
                where = f"{config.precision.value} on {device_title(training.device)}"
                size = table_bytes(training, config) / 1e6
                progress.say(f"{where}; up to {size:,.1f} MB of tables in {run.path}")
                keeper = Keeper(run, writer, state, config, stop)
                with graphs:
                    fit(training, config.track.every, progress, tracker, keeper)
                keeper.finish()
            keeper.end_if_diverged()  # all rows have been seen now
            _record_end(run, Status.finished, training.steps, progress)
    except UsageError:
        raise
    except BaseException as error:
        updates = progress.updates if progress is not None else 0
        with contextlib.suppress(OSError, UsageError):  # the error under way tells more
            _record_end(run, _status(error), updates, progress)
        _explain(error, run, writer, updates)
        raise
    finally:
        if progress is not None:
            progress.close()


def _restore(run: RunDirectory, state: State, resumption: Resumption) -> None:
    """Error: UsageError, with nothing changed, if the checkpoint does not fit."""
    if resumption.checkpoint is not None:
        state.restore(resumption.checkpoint, str(run.checkpoint(resumption.step)))
    run.truncate_to(resumption.parts, resumption.step)
    run.write_info(resumption.info)


def _record_end(run: RunDirectory, status: Status, updates: int, progress: Progress | None) -> None:
    """Error: OSError; UsageError if somebody has damaged run.json meanwhile."""
    info = dataclasses.replace(run.info(), status=status, last_step=updates)
    if progress is not None:
        info = dataclasses.replace(info, seconds=progress.seconds)
        if (found := progress.diverged) is not None:
            diverged = DivergenceInfo(found.step, found.loss, found.layers)
            info = dataclasses.replace(info, diverged=diverged)
    run.write_info(info)


def _status(error: BaseException) -> Status:
    if isinstance(error, Diverged):
        return Status.diverged
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
    return Status.interrupted if interrupted else Status.failed


def _explain(
    error: BaseException, run: RunDirectory, writer: TableWriter | None, updates: int
) -> None:
    """Error: what the user sees in place of `error`, if that can be said better."""
    readable = f"what was recorded until step {updates} is readable in {run.path}"
    resume = f"symrun resume {shlex.quote(str(run.path))}"
    if isinstance(error, Stopped):
        assert writer is not None
        writer.raise_failure()  # a full disk would make what follows untrue
        raise Stopped(f"stopped by {error}, and saved; go on with: {resume}") from None
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(f"interrupted; {readable}") from None
    if isinstance(error, Diverged):
        raise Diverged(f"{error}: try a lower optim.lr; {readable}") from None
    if isinstance(error, torch.OutOfMemoryError):
        raise RunError(f"out of GPU memory: lower train.batch_size; {readable}") from None
    if isinstance(error, OSError):
        error = RunError(f"{run.path} cannot be written: {error.strerror}")
    if isinstance(error, RunError):
        written = f"what was written before is readable in {run.path}"
        raise RunError(f"{error}; {written}; once that is mended: {resume}") from None
