"""A run from its start, or from where it stopped, to its end."""

import contextlib
import dataclasses
import logging
import shlex
from datetime import datetime
from pathlib import Path

import torch

from symrun.config import Config, OnDivergence
from symrun.data import Dataset, load
from symrun.errors import Diverged, Interrupted, RunError, Stopped, UsageError, refusal
from symrun.loggers import logging_to
from symrun.places import is_url
from symrun.runs.checkpoint import last_whole_checkpoint
from symrun.runs.directory import OUTPUTS, TABLES, RunDirectory, runs_below, working_copy
from symrun.runs.info import ResumptionInfo, RunInfo, Status
from symrun.runs.mirror import written
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.tracking.audit import Audit
from symrun.training.checkpointing import Checkpointer
from symrun.training.cuda_graph import own_stream
from symrun.training.device import device_title
from symrun.training.disk_space import require_space, table_bytes
from symrun.training.isolation import isolated
from symrun.training.loop import fit
from symrun.training.plan import Plan
from symrun.training.progress import Progress
from symrun.training.provenance import changed_code, describe, source_revision
from symrun.training.setup import Training, make_tracker, prepare
from symrun.training.signals import StopRequest
from symrun.training.state import Content, State
from symrun.typed import require

_log = logging.getLogger(__name__)

_SAME_MEMBER = ("run.", "data.cache", "train.checkpoint_", "train.on_divergence", "logger")
"""Prefixes of settings that do not tell members of a sweep apart."""


@isolated()
def train(config: Config, stop: StopRequest | None = None) -> Path:
    """Train as configured into a run folder of its own, and return that folder.

    What the caller has set in torch has no effect, and is as it was afterwards (see `isolated`).
    stop: ends it early, with everything saved.

    Error: UsageError before anything was trained, leaving no folder behind; Diverged, RunError and
    Interrupted later, with the tables readable up to there.
    Example: train(compose(["experiment=quickstart_bn", "train.steps=10"]))
    """
    plan = Plan.of(config)
    run = RunDirectory.create(config.run.dir, config.run.name)
    with written(run):
        try:
            training, dataset = _prepared(plan)
            require_space(run, training)
            run.write_info(describe(training, dataset))
        except BaseException as error:
            run.discard()
            if isinstance(error, OSError):
                raise RunError(f"{run.path} cannot be written: {refusal(error)}") from None
            raise
        try:
            _Trainer(run, training, stop or StopRequest()).train(None)
        except UsageError:
            if not any(run.table("units").iterdir()):  # of the tracker, before the first record
                run.discard()
            raise
    return run.path


def resume(
    run: RunDirectory, config: Config, anyway: bool, stop: StopRequest | None = None
) -> Path:
    """Go on with a run from its last good checkpoint, bit for bit, and return its folder.

    config: its own, or with another device, place of the data or the like; another that computes
    something else, or another code, is refused unless `anyway`.

    Error: UsageError, with nothing changed, for a run that is finished, is thinned, is being
    written by another process, or would not be what it was; later as in `train`.
    Example: resume(stopped, stopped.config(), anyway=True)
    """
    if run.info().thinned:
        raise UsageError(f"{run.path} is a thinned copy: resume the run that it was made from")
    with written(_mirrored(run, config)):
        if run.info().status is Status.finished:
            raise UsageError(f"{run.path} is finished: there is nothing left to do")
        _resume(_mirrored(run, config), config, anyway, stop or StopRequest())
    return run.path


def train_member(config: Config, stop: StopRequest) -> Path:
    """Train a member of a sweep, resume it if it broke off, or find it finished.

    An earlier run is that member if settings, device and code are the same; `run.again` trains it
    afresh.

    Error: Diverged if it did so already; else as in `train` and `resume`.
    """
    run = None if config.run.again else earlier_run(config)
    if run is None:
        return train(config, stop)
    with written(_mirrored(run, config)):
        info = run.info()
        if info.status is Status.diverged:
            raise Diverged(f"{run.path} diverged already: run.again=true trains it again")
        if info.status is not Status.finished:
            _log.warning("%s was started already, and goes on", run.path)
            _resume(run, run.config(), False, stop)
        else:
            _log.warning("%s is finished already: run.again=true trains it again", run.path)
    return run.path


def earlier_run(config: Config) -> RunDirectory | None:
    """The newest run that computes what `config` describes, with this code on this device.

    A thinned copy is none: it lacks records that `config` asks for, and cannot go on.
    """
    plan = Plan.of(config)
    folder = config.run.dir and working_copy(config.run.dir)
    for run in runs_below(folder or OUTPUTS / config.run.name):
        info = run.info()
        if info.thinned or info.device != device_title(plan.device):
            continue
        with contextlib.suppress(UsageError):  # of a network that this symrun does not have
            differences = run.config().differences(plan.config, _SAME_MEMBER)
            if not differences and not changed_code(info):
                return run
    return None


def _mirrored(run: RunDirectory, config: Config) -> RunDirectory:
    """The run, sent to the URL that the settings name, if they do."""
    return RunDirectory(run.path, str(config.run.dir) if is_url(config.run.dir) else None)


def _prepared(plan: Plan) -> tuple[Training, Dataset]:
    """Error: RunError if the GPU is too small; UsageError for a batch of more than all images."""
    try:
        dataset = load(plan.config.data)
        images, size = len(dataset.train.labels), plan.config.train.batch_size
        require("train.batch_size", size <= images, f"at most the {images:,} training images", size)
        return prepare(plan, dataset), dataset
    except torch.OutOfMemoryError:
        raise RunError("the data set or the network does not fit into the GPU") from None


@isolated()
def _resume(run: RunDirectory, config: Config, anyway: bool, stop: StopRequest) -> None:
    info, plan = run.info(), Plan.of(config)
    checkpoint = last_whole_checkpoint(run)
    recorded = checkpoint["config"] if checkpoint is not None else info.config.settings
    reasons = Config.from_mapping(recorded).differences(plan.config) + changed_code(info)
    goes_on = config.train.on_divergence is OnDivergence.go_on
    if info.status is Status.diverged and not goes_on:
        reasons.append("it diverged, and the same updates would do so again")
    _refuse_or_say(run, reasons, anyway)
    step = checkpoint["step"] if checkpoint is not None else 0
    if checkpoint is not None and checkpoint["done"]:  # all was written but the status
        run.write_info(dataclasses.replace(info, status=Status.finished, last_step=step))
        return
    device = device_title(plan.device)
    if device != info.device:
        _log.warning("not the same bits: on %s now, on %s before", device, info.device)
    if plan.device.type == "cpu":
        # Sums are split by the number of threads
        torch.set_num_threads(info.threads or torch.get_num_threads())

    training, dataset = _prepared(plan)
    described = describe(training, dataset)
    for name in ("dataset", "model", "groups"):
        if getattr(described, name) != getattr(info, name):
            raise UsageError(f"{run.path} had another {name}: its data or its model has changed")
    if not described.has_images_of(info):
        reasons.append("its data set has other images now")
        _refuse_or_say(run, reasons[-1:], anyway)
    require_space(run, training)
    event = ResumptionInfo(
        step,
        datetime.now().astimezone().isoformat(),
        device,
        described.hardware,
        source_revision(),
        tuple(reasons),
    )
    now = dataclasses.replace(
        info,
        status=Status.running,
        last_step=step,
        dataset=described.dataset,
        config=described.config,
        precision=described.precision,
        source=described.source,
        resumed=(*info.resumed, event),
    )
    _log.warning("%s goes on from step %d", run.path, step)
    _Trainer(run, training, stop).train(Resumption(checkpoint, now))


def _refuse_or_say(run: RunDirectory, reasons: list[str], anyway: bool) -> None:
    """Error: UsageError if there are reasons not to go on, unless `anyway`; then warnings."""
    if reasons and not anyway:
        reason = "; ".join(reasons)
        raise UsageError(f"{run.path} would not be what it was: {reason}: --anyway goes on")
    for reason in reasons:
        _log.warning("goes on all the same: %s", reason)


@dataclasses.dataclass(frozen=True)
class Resumption:
    """Where a run goes on: from `checkpoint`, or again from its start if that is None.

    info: what run.json says from then on.
    """

    checkpoint: Content | None
    info: RunInfo

    @property
    def parts(self) -> dict[str, int]:
        """Of each table, those that were on the disk before the checkpoint."""
        parts = self.checkpoint["parts"] if self.checkpoint is not None else {}
        return dict.fromkeys(TABLES, 0) | parts

    def apply(self, run: RunDirectory, state: State) -> None:
        """Error: UsageError, with nothing changed, if the checkpoint does not fit."""
        step = 0
        if self.checkpoint is not None:
            step = self.checkpoint["step"]
            state.restore(self.checkpoint, str(run.checkpoint(step)))
        run.truncate_to(self.parts, step)
        run.write_info(self.info)


class _Trainer:
    """Trains a run within this process, from its start or a checkpoint to its end.

    Assumes: the run is locked, and described by a run.json.
    """

    def __init__(self, run: RunDirectory, training: Training, stop: StopRequest) -> None:
        self._run = run
        self._training = training
        self._stop = stop
        unpredicted = training.plan.unpredicted
        for reason in sorted(set(unpredicted.values())):
            columns = ", ".join(law for law in unpredicted if unpredicted[law] == reason)
            _log.warning("not predicted, null in the tables: %s: %s", columns, reason)

    def train(self, resumption: Resumption | None) -> None:
        """Error: as in `train`; UsageError, with nothing changed, for a checkpoint of another
        network."""
        training, run = self._training, self._run
        progress = writer = None
        graphs = own_stream(training.device) if training.cuda_graph else contextlib.nullcontext()
        try:
            with self._stop.deferred(), logging_to(training.plan.config.logger, run) as watchers:
                with TableWriter(run, resumption.parts if resumption else None) as writer:
                    progress = Progress(writer, training.model, training.steps)
                    audit = Audit(training.structure.groups, training.plan.dtype)
                    tracker = make_tracker(training, writer, Tracker, (audit, *watchers))
                    state = State(training, tracker, progress)
                    if resumption is not None:
                        resumption.apply(run, state)
                    where = f"{training.plan.config.precision.value} on "
                    where += device_title(training.device)
                    size = table_bytes(training) / 1e6
                    place = f"{run.path}, sent to {run.url}" if run.url else run.path
                    progress.say(f"{where}; up to {size:,.1f} MB of tables in {place}")
                    checkpointer = Checkpointer(run, writer, state, self._stop)
                    with graphs:
                        fit(training, progress, tracker, checkpointer)
                    checkpointer.finish()
                checkpointer.end_if_diverged()  # all rows have been seen now
                for line in audit.lines():
                    _log.warning("%s: %s", run.path, line)
                self._record_end(Status.finished, progress)
        except UsageError:
            raise
        except BaseException as error:
            with contextlib.suppress(OSError, UsageError):  # the error under way tells more
                self._record_end(_status(error), progress)
            self._raise_explained(error, writer, progress.updates if progress is not None else 0)
            raise
        finally:
            if progress is not None:
                progress.close()

    def _record_end(self, status: Status, progress: Progress | None) -> None:
        """Error: OSError; UsageError if somebody has damaged run.json meanwhile."""
        info = dataclasses.replace(self._run.info(), status=status, last_step=0)
        if progress is not None:
            info = dataclasses.replace(
                info,
                last_step=progress.updates,
                seconds=progress.seconds,
                diverged=progress.diverged or info.diverged,
            )
        self._run.write_info(info)

    def _raise_explained(
        self, error: BaseException, writer: TableWriter | None, updates: int
    ) -> None:
        """Raises a clearer error in place of `error`, where there is one."""
        path = self._run.path
        readable = f"what was recorded until step {updates} is readable in {path}"
        resume = f"symrun resume {shlex.quote(str(path))}"
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
            error = RunError(f"{path} cannot be written: {refusal(error)}")
        if isinstance(error, RunError):
            written = f"what was written before is readable in {path}"
            raise RunError(f"{error}; {written}; once that is mended: {resume}") from None


def _status(error: BaseException) -> Status:
    if isinstance(error, Diverged):
        return Status.diverged
    interrupted = isinstance(error, Interrupted | KeyboardInterrupt)
    return Status.interrupted if interrupted else Status.failed
