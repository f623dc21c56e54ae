"""A run from its start, or from where it stopped, to its end."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

from symrun import ranks
from symrun.config import BatchNorm, Config, OnDivergence, flat
from symrun.data import Dataset, load
from symrun.errors import (
    Busy,
    Diverged,
    Interrupted,
    ProcessLost,
    RunError,
    Stopped,
    UsageError,
    refusal,
)
from symrun.files import locked
from symrun.loggers import logging_to
from symrun.places import is_url
from symrun.runs.checkpoint import last_whole_checkpoint
from symrun.runs.directory import (
    OUTPUTS,
    TABLES,
    RunDirectory,
    runs_below,
    sweep_folder,
    working_copy,
)
from symrun.runs.info import ResumptionInfo, RunInfo, Status
from symrun.runs.mirror import written
from symrun.runs.writer import NoWriter, TableWriter
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
    plan = ranks.everywhere(lambda: Plan.of(config))
    run = ranks.from_first(lambda: RunDirectory.create(config.run.dir, config.run.name))
    with _in_first(written(run)):
        try:
            training, dataset = ranks.everywhere(lambda: _prepared(plan))
            ranks.from_first(lambda: _begin(run, training, dataset))
        except BaseException as error:
            _discard(run)
            if isinstance(error, OSError):
                raise RunError(f"{run.path} cannot be written: {refusal(error)}") from None
            raise
        try:
            _Trainer(run, training, stop or StopRequest()).train(None)
        except UsageError:
            if not any(run.table("units").glob("*")):  # of the tracker, before the first record
                _discard(run)
            raise
    return run.path


def _begin(run: RunDirectory, training: Training, dataset: Dataset) -> None:
    require_space(run, training)
    run.write_info(describe(training, dataset))


def _discard(run: RunDirectory) -> None:
    if ranks.is_first():
        run.discard()


@contextlib.contextmanager
def _in_first(lock: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """The first of the processes holds `lock`. Error: what taking it raises, in all of them."""
    with contextlib.ExitStack() as stack:
        ranks.from_first(lambda: stack.enter_context(lock))
        yield


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
    if ranks.from_first(run.info).thinned:
        raise UsageError(f"{run.path} is a thinned copy: resume the run that it was made from")
    with _in_first(written(_mirrored(run, config))):
        if ranks.from_first(run.info).status is Status.finished:
            raise UsageError(f"{run.path} is finished: there is nothing left to do")
        _resume(_mirrored(run, config), config, anyway, stop or StopRequest())
    return run.path


def train_member(config: Config, stop: StopRequest) -> Path:
    """Train a member of a sweep, resume it if it broke off, or find it finished.

    An earlier run is that member if settings, device and code are the same; `run.again` trains it
    afresh.

    Error: Diverged if it did so already; Busy if another process trains it; else as in `train` and
    `resume`.
    """
    with _in_first(_claimed(Plan.of(config).config)):
        run = None if config.run.again else ranks.from_first(lambda: earlier_run(config))
        return train(config, stop) if run is None else _went_on(_mirrored(run, config), stop)


def _went_on(run: RunDirectory, stop: StopRequest) -> Path:
    with _in_first(written(run)):
        info = ranks.from_first(run.info)
        if info.status is Status.diverged:
            raise Diverged(f"{run.path} diverged already: run.again=true trains it again")
        if info.status is not Status.finished:
            _log.warning("%s was started already, and goes on", run.path)
            _resume(run, ranks.from_first(run.config), False, stop)
        else:
            _log.warning("%s is finished already: run.again=true trains it again", run.path)
    return run.path


@contextlib.contextmanager
def _claimed(config: Config) -> Iterator[None]:
    """Keep other processes from starting the same member before its run can be found. A folder that
    the user named is the claim by itself.

    Error: Busy; UsageError if there is no place for the lock.
    """
    if config.run.dir is not None:
        yield
        return
    lock = sweep_folder(config.run.name) / f"{member_digest(config)}.lock"
    with contextlib.ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise Busy("this member is being trained by another process") from None
        except OSError as error:
            raise UsageError(f"{lock} cannot be made: {refusal(error)}") from None
        yield


def member_digest(config: Config) -> str:
    """What tells a member of a sweep from others: twelve digits of a hash of its settings."""
    settings = flat(config.to_dict())
    free = [key for key in settings if key.startswith(_SAME_MEMBER) and key != "run.dir"]
    telling = {key: settings[key] for key in settings if key not in free}
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:12]


def earlier_run(config: Config, elsewhere: bool = False) -> RunDirectory | None:
    """The newest run that computes what `config` describes, with this code on this device.

    elsewhere: it may have run on any device of that kind, which another machine has.

    A thinned copy is none: it lacks records that `config` asks for, and cannot go on.
    """
    plan = Plan.of(config, elsewhere)
    folder = config.run.dir and working_copy(config.run.dir)
    for run in runs_below(folder or OUTPUTS / config.run.name):
        info = run.info()
        if elsewhere:
            same = (info.device == "cpu") == (plan.device.type == "cpu")
        else:
            same = info.device == device_title(plan.device)
        if info.thinned or not same:
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
    plan = ranks.everywhere(lambda: Plan.of(config))
    info, checkpoint = ranks.from_first(lambda: (run.info(), last_whole_checkpoint(run)))
    recorded = checkpoint["config"] if checkpoint is not None else info.config.settings
    reasons = Config.from_mapping(recorded).differences(plan.config) + changed_code(info)
    goes_on = config.train.on_divergence is OnDivergence.go_on
    if info.status is Status.diverged and not goes_on:
        reasons.append("it diverged, and the same updates would do so again")
    if config.train.batch_norm is BatchNorm.local and ranks.count() != info.ranks:
        reasons.append(f"train.batch_norm=local, and {_ranks_changed(info)}")
    _refuse_or_say(run, reasons, anyway)
    step = checkpoint["step"] if checkpoint is not None else 0
    if checkpoint is not None and checkpoint["done"]:  # all was written but the status
        finished = dataclasses.replace(info, status=Status.finished, last_step=step)
        ranks.from_first(lambda: run.write_info(finished))
        return
    device = device_title(plan.device)
    if device != info.device:
        _log.warning("not the same bits: on %s now, on %s before", device, info.device)
    if ranks.count() != info.ranks:
        _log.warning("not the same bits: %s", _ranks_changed(info))
        reasons.append(_ranks_changed(info))
    elif plan.device.type == "cpu":
        # Sums are split by the number of threads
        torch.set_num_threads(info.threads or torch.get_num_threads())

    training, dataset = ranks.everywhere(lambda: _prepared(plan))
    described = describe(training, dataset)
    for name in ("dataset", "model", "groups"):
        if getattr(described, name) != getattr(info, name):
            raise UsageError(f"{run.path} had another {name}: its data or its model has changed")
    if described.steps_per_epoch != info.steps_per_epoch:
        updates = f"{described.steps_per_epoch} updates in an epoch, {info.steps_per_epoch} before"
        remedy = f"resume it on as many processes as then, {info.ranks}"
        raise UsageError(
            f"{run.path} would have {updates}, since a last batch is too few: {remedy}"
        )
    if not described.has_images_of(info):
        reasons.append("its data set has other images now")
        _refuse_or_say(run, reasons[-1:], anyway)
    ranks.from_first(lambda: require_space(run, training))
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
        ranks=described.ranks,
        resumed=(*info.resumed, event),
    )
    _log.warning("%s goes on from step %d", run.path, step)
    _Trainer(run, training, stop).train(Resumption(checkpoint, now))


def _ranks_changed(info: RunInfo) -> str:
    processes = "process" if ranks.count() == 1 else "processes"
    return f"on {ranks.count()} {processes} now, on {info.ranks} before"


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
        ranks.from_first(lambda: self._rewind(run, step))

    def _rewind(self, run: RunDirectory, step: int) -> None:
        run.truncate_to(self.parts, step)
        run.write_info(self.info)


class _Trainer:
    """Trains a run, from its start or a checkpoint to its end; of several processes each does this.

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
            logger, alone = training.plan.config.logger, ranks.count() == 1
            with self._stop.deferred(quiet=not alone), logging_to(logger, run) as watchers:
                with self._writer(resumption) as writer:
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
                    with graphs, ranks.losses_in_one_line():
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

    def _writer(self, resumption: Resumption | None) -> TableWriter | NoWriter:
        if not ranks.is_first():
            return NoWriter()
        parts = resumption.parts if resumption else None
        return TableWriter(self._run, parts, patient=ranks.count() > 1)

    def _record_end(self, status: Status, progress: Progress | None) -> None:
        """Error: OSError; UsageError if somebody has damaged run.json meanwhile."""
        if not ranks.is_first():
            return
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
        self, error: BaseException, writer: TableWriter | NoWriter | None, updates: int
    ) -> None:
        """Raises a clearer error in place of `error`, where there is one."""
        path = self._run.path
        readable = f"what was recorded until step {updates} is readable in {path}"
        resume = f"{ranks.command('resume')} {shlex.quote(str(path))}"
        if isinstance(error, Stopped):
            assert writer is not None
            writer.raise_failure()  # a full disk would make what follows untrue
            raise Stopped(f"stopped by {error}, and saved; go on with: {resume}") from None
        if isinstance(error, ProcessLost):
            raise ProcessLost(f"{error}; go on from the last checkpoint with: {resume}") from None
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
