"""A run that stopped goes on, or says why it does not."""

import dataclasses
from datetime import datetime
from pathlib import Path

import torch

from symrun.config import Config, OnDivergence
from symrun.errors import Diverged, UsageError
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import OUTPUTS, TABLES, RunDirectory, runs_below
from symrun.runs.info import ResumptionInfo, Status
from symrun.runs.settings import RecordedConfig
from symrun.training.precision import device_title, select_device, with_precision
from symrun.training.preparation import require_runnable
from symrun.training.provenance import changed_code, source_digest, source_revision
from symrun.training.run import Resumption, Warn, go_on, prepared, train
from symrun.training.space import require_space
from symrun.training.state import Content
from symrun.training.stopping import StopRequest

_SAME_MEMBER = ("run.", "data.cache", "train.checkpoint_", "train.on_divergence")
"""How settings begin in which two members of a sweep may differ and still be the same."""


def resume(
    run: RunDirectory,
    config: Config,
    anyway: bool,
    warn: Warn,
    stop: StopRequest | None = None,
) -> Path:
    """Go on with a run from its last good checkpoint, bit for bit, and return its folder.

    config: its own, or with another device, place of the data or the like; another that computes
    something else, or another code, is refused unless `anyway`.

    Error: UsageError, with nothing changed, for a run that is finished, is thinned, is being
    written by another process, or would not be what it was; later as in `train`.
    Example: resume(run, Config.from_mapping(run.info().config.settings), False, print)
    """
    if run.info().thinned:
        raise UsageError(f"{run.path} is a thinned copy: resume the run that it was made from")
    with run.locked():
        if run.info().status is Status.finished:
            raise UsageError(f"{run.path} is finished: there is nothing left to do")
        _resume(run, config, anyway, warn, stop or StopRequest())
    return run.path


def train_member(config: Config, warn: Warn, stop: StopRequest) -> Path:
    """A member of a sweep: found finished, resumed if it broke off, else trained.

    It is the same if its settings, its device and the code are; `run.again` trains it afresh.

    Error: Diverged if it did so already; else as in `train` and `resume`.
    """
    run = None if config.run.again else earlier_run(config)
    if run is None:
        return train(config, warn, stop)
    with run.locked():
        info = run.info()
        if info.status is Status.diverged:
            raise Diverged(f"{run.path} diverged already: run.again=true trains it again")
        if info.status is not Status.finished:
            warn(f"{run.path} was started already, and goes on")
            _resume(run, Config.from_mapping(info.config.settings), False, warn, stop)
        else:
            warn(f"{run.path} is finished already: run.again=true trains it again")
    return run.path


def earlier_run(config: Config) -> RunDirectory | None:
    """The newest run that computes what `config` describes, with this code on this device.

    A thinned copy is none: it lacks records that `config` asks for, and cannot go on.
    """
    device = select_device(config.device)
    config = with_precision(config, device)
    folder = config.run.dir if config.run.dir is not None else OUTPUTS / config.run.name
    for run in runs_below(folder):
        info = run.info()
        if info.thinned:
            continue
        recorded = Config.from_mapping(info.config.settings)
        same_code = not changed_code(info) and info.device == device_title(device)
        if same_code and not recorded.differences(config, _SAME_MEMBER):
            return run
    return None


def _resume(run: RunDirectory, config: Config, anyway: bool, warn: Warn, stop: StopRequest) -> None:
    info = run.info()
    device = select_device(config.device)
    config = with_precision(config, device)
    require_runnable(config, device)
    checkpoint = _last_good(run, warn)
    recorded = checkpoint["config"] if checkpoint is not None else info.config.settings
    changed = Config.from_mapping(recorded).differences(config)
    reasons = [*changed, *changed_code(info)]
    goes_on = config.train.on_divergence is OnDivergence.go_on
    if info.status is Status.diverged and not goes_on:
        reasons.append("it diverged, and the same updates would do so again")
    if reasons and not anyway:
        reason = "; ".join(reasons)
        raise UsageError(f"{run.path} would not be what it was: {reason}: --anyway goes on")
    for reason in reasons:
        warn(f"goes on all the same: {reason}")
    step = checkpoint["step"] if checkpoint is not None else 0
    if checkpoint is not None and checkpoint["done"]:  # it lacks no more than its status
        run.write_info(dataclasses.replace(info, status=Status.finished, last_step=step))
        return
    if device_title(device) != info.device:
        warn(f"not the same bits: on {device_title(device)} now, on {info.device} before")
    if device.type == "cpu":
        # Sums are split by the number of threads
        torch.set_num_threads(info.threads or torch.get_num_threads())

    training, described = prepared(config, device)
    for name in ("dataset", "model", "groups"):
        if getattr(described, name) != getattr(info, name):
            raise UsageError(f"{run.path} had another {name}: its data or its model has changed")
    require_space(run, training, config)
    event = ResumptionInfo(
        step,
        datetime.now().astimezone().isoformat(),
        device_title(device),
        described.hardware,
        source_revision(),
        tuple(reasons),
    )
    now = dataclasses.replace(
        info,
        status=Status.running,
        config=RecordedConfig.of(config.to_dict()),
        precision=config.precision,
        source=source_digest(),
        resumed=(*info.resumed, event),
    )
    warn(f"{run.path} goes on from step {step}")
    go_on(run, config, training, warn, stop, Resumption(checkpoint, now))


def _last_good(run: RunDirectory, warn: Warn) -> Content | None:
    """The newest checkpoint that is whole, with a warning for each that is not."""
    for step, content in checkpoints(run):
        if isinstance(content, UsageError):
            warn(f"passed over: {content}")
            continue
        if _is_of_a_run(content):
            return content
        warn(f"passed over: {run.checkpoint(step)} holds no checkpoint of a run")
    return None


def _is_of_a_run(content: Content) -> bool:
    parts = content.get("parts")
    if not isinstance(parts, dict) or set(parts) != set(TABLES):
        return False
    counted = all(type(number) is int and number >= 0 for number in parts.values())
    described = isinstance(content.get("config"), dict)
    return counted and described and isinstance(content.get("done"), bool)
