"""Members as tasks of Ray, on this machine or on a cluster that shares this folder."""

import contextlib
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from symrun.errors import Stopped, UsageError, in_one_line
from symrun.sweeps.member import Command, Ended, Member, Stop
from symrun.sweeps.settings import RayConfig

_POLL_SECONDS = 0.5
_CANCEL_SECONDS = 0.2


def run(settings: RayConfig, members: Sequence[Member], stop: Stop) -> Iterator[Ended]:
    """Train the members as Ray finds room for them.

    Error: UsageError if Ray is not there, or has no machine that is large enough; Stopped once the
    members have saved, if this process was asked to stop.
    """
    ray = _started(settings)
    try:
        _require_room(settings, ray)
        task = ray.remote(num_cpus=settings.cpus, num_gpus=settings.gpus or 0)(_train)
        refs = {task.remote(member.command(settings.cpus)): member for member in members}
        with stop.deferred():
            while refs and stop.requested is None:
                for ref in ray.wait([*refs], timeout=_POLL_SECONDS)[0]:
                    yield _ended(ray, ref, refs.pop(ref))
            for ref in refs:
                ray.cancel(ref)
            if refs:
                ray.wait([*refs], num_returns=len(refs))
    finally:
        ray.shutdown()
    if refs:
        raise Stopped(
            f"stopped by {stop.requested}, and the members have saved: the same command goes on"
        )


def _train(command: Command) -> int:
    """The exit code of the command; a task that Ray cancels lets it save first."""
    process = command.start()
    try:
        while process.poll() is None:
            time.sleep(_CANCEL_SECONDS)  # Ray's KeyboardInterrupt does not end a longer wait
        return process.returncode
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _started(settings: RayConfig) -> Any:
    """The module, connected to the cluster. Error: UsageError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it tells its makers of each start
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UsageError("sweep=ray needs Ray: type pip install 'symrun[ray]'") from None
    own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(
            address=settings.address,
            log_to_driver=False,
            logging_level="ERROR",
            **({} if settings.address else own),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = in_one_line(str(error).splitlines()[0])
        raise UsageError(f"sweep.address={settings.address} is no Ray: {reason}") from None
    return ray


def _require_room(settings: RayConfig, ray: Any) -> None:
    """Error: UsageError for what no machine has, for which Ray would wait without end."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, kind, wanted in (
        ("cpus", "CPU", settings.cpus),
        ("gpus", "GPU", settings.gpus or 0),
    ):
        most = int(max((machine.get(kind, 0) for machine in machines), default=0))
        if wanted > most:
            remedy = f"type sweep.{name}={most}" if most else "type device=cpu sweep.gpus=0"
            raise UsageError(f"sweep.{name}={wanted}, and Ray's machines have {most}: {remedy}")


def _ended(ray: Any, ref: Any, member: Member) -> Ended:
    with contextlib.suppress(ray.exceptions.TaskCancelledError):
        try:
            return Ended(member, ray.get(ref))
        except ray.exceptions.RayError as error:
            return Ended(member, 1, f"Ray: {in_one_line(str(error).splitlines()[0])}")
    return Ended(member, 1, "Ray: cancelled")
