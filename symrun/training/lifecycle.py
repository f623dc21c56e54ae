"""A run from its start, or from where it stopped, to its end."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import torch

from symrun import ranks
from symrun.config import BatchNorm, Config, OnDivergence, flat
from symrun.data import load
from symrun.errors import (
    Busy,
    Diverged,
    RunError,
    UsageError,
    refusal,
)
from symrun.files import locked
from symrun.places import is_url
from symrun.runs.checkpoint import last_whole_checkpoint
from symrun.runs.directory import (
    OUTPUTS,
    RunDirectory,
    runs_below,
    sweep_folder,
    working_copy,
)
from symrun.runs.info import DatasetInfo, ResumptionInfo, RunInfo, Status
from symrun.runs.mirror import written
from symrun.training.device import device_title
from symrun.training.disk_space import require_space
from symrun.training.isolation import isolated
from symrun.training.plan import Plan
from symrun.training.provenance import changed_code, describe, source_revision
from symrun.training.setup import Training, joined, prepare
from symrun.training.signals import StopRequest
from symrun.training.trainer import Resumption, Trainer
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
            training, described = _prepared(plan)
            ranks.from_first(lambda: _begin(run, training, described))
        except BaseException as error:
            _discard(run)
            if isinstance(error, OSError):
                raise RunError(f"{run.path} cannot be written: {refusal(error)}") from None
            raise
        try:
            Trainer(run, training, stop or StopRequest()).train(None)
        except UsageError:
            if not any(run.table("units").glob("*")):  # of the tracker, before the first record
                _discard(run)
            raise
    return run.path


def _begin(run: RunDirectory, training: Training, described: RunInfo) -> None:
    require_space(run, training)
    run.write_info(described)


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
    run = _mirrored(run, config)
    with _in_first(written(run)):
        if ranks.from_first(run.info).status is Status.finished:
            raise UsageError(f"{run.path} is finished: there is nothing left to do")
        _resume(run, config, anyway, stop or StopRequest())
    return run.path


def train_member(config: Config, stop: StopRequest) -> Path:
    """Train a member of a sweep, resume it if it broke off, or find it finished.

    An earlier run is that member if settings, device and code are the same; `run.again` trains it
    afresh.

    Error: Diverged if it did so already; Busy if another process trains it; else as in `train` and
    `resume`.
    """
    settled = ranks.everywhere(lambda: Plan.of(config)).config
    with _in_first(_claimed(settled)):
        run = None if config.run.again else ranks.from_first(lambda: earlier_run(config))
        return train(config, stop) if run is None else _went_on(_mirrored(run, config), stop)


def _went_on(run: RunDirectory, stop: StopRequest) -> Path:
    with _in_first(written(run)):
        info = ranks.from_first(lambda: _not_diverged(run))
        if info.status is not Status.finished:
            _log.warning("%s was started already, and goes on", run.path)
            _resume(run, ranks.from_first(run.config), False, stop)
        else:
            _log.warning("%s is finished already: run.again=true trains it again", run.path)
    return run.path


def _not_diverged(run: RunDirectory) -> RunInfo:
    info = run.info()
    if info.status is Status.diverged:
        raise Diverged(f"{run.path} diverged already: run.again=true trains it again")
    return info


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


def _prepared(plan: Plan) -> tuple[Training, RunInfo]:
    """What all processes train, and what run.json says of it.

    Error: RunError if the GPU is too small; UsageError for a batch of more than all images, or if
    the processes have different data sets.
    """
    training, described = ranks.everywhere(lambda: _prepared_alone(plan))
    firsts = ranks.from_first(lambda: described.dataset)
    ranks.everywhere(lambda: _require_data(described.dataset, firsts))
    with _gpu_large_enough():
        return joined(training), described


def _prepared_alone(plan: Plan) -> tuple[Training, RunInfo]:
    with _gpu_large_enough():
        dataset = load(plan.config.data)
        images, size = len(dataset.train.labels), plan.config.train.batch_size
        require("train.batch_size", size <= images, f"at most the {images:,} training images", size)
        training = prepare(plan, dataset)
        return training, describe(training, dataset)


def _require_data(own: DatasetInfo | None, firsts: DatasetInfo | None) -> None:
    """Error: UsageError if this process has other data than the first."""
    assert own is not None and firsts is not None
    if own.has_images_of(firsts):
        return
    here, there = (f"{one.title}, {one.counted}" for one in (own, firsts))
    differs = f"{here}, and process 0 has {there}"
    if here == there:
        differs = "as many examples as process 0, with other contents"
    another = f"process {ranks.rank()} has another data set"
    raise UsageError(f"{another}: {differs}: give all processes the same copy")


@contextlib.contextmanager
def _gpu_large_enough() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise RunError("the data set or the network does not fit into the GPU") from None


@isolated()
def _resume(run: RunDirectory, config: Config, anyway: bool, stop: StopRequest) -> None:
    plan = ranks.everywhere(lambda: Plan.of(config))
    info, checkpoint = ranks.from_first(lambda: (run.info(), last_whole_checkpoint(run)))
    recorded = checkpoint["config"] if checkpoint is not None else info.config.settings

    def accepted() -> list[str]:
        reasons = Config.from_mapping(recorded).differences(plan.config) + changed_code(info)
        goes_on = config.train.on_divergence is OnDivergence.go_on
        if info.status is Status.diverged and not goes_on:
            reasons.append("it diverged, and the same updates would do so again")
        if config.train.batch_norm is BatchNorm.local and ranks.count() != info.ranks:
            reasons.append(f"train.batch_norm=local, and {_ranks_changed(info)}")
        _refuse_or_say(run, reasons, anyway)
        return reasons

    reasons = ranks.everywhere(accepted)
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

    training, described = _prepared(plan)
    ranks.everywhere(lambda: _require_same(run, described, info))
    if not ranks.from_first(lambda: described.has_images_of(info)):
        reasons.append("its data set has other images now")
        ranks.everywhere(lambda: _refuse_or_say(run, reasons[-1:], anyway))
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
    Trainer(run, training, stop).train(Resumption(checkpoint, now))


def _require_same(run: RunDirectory, now: RunInfo, before: RunInfo) -> None:
    """Error: UsageError for a run of other data, another network, or epochs of another length."""
    for name in ("dataset", "model", "groups"):
        if getattr(now, name) != getattr(before, name):
            raise UsageError(f"{run.path} had another {name}: its data or its model has changed")
    if now.steps_per_epoch != before.steps_per_epoch:
        updates = f"{now.steps_per_epoch} updates in an epoch, {before.steps_per_epoch} before"
        remedy = f"resume it on as many processes as then, {before.ranks}"
        raise UsageError(
            f"{run.path} would have {updates}, since a last batch is too few: {remedy}"
        )


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
