"""Times a piece of work: on the device, and on the host until its calls return."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_CALLS = 10
"""Calls between two events on a GPU, whose resolution is half a microsecond."""
_HOST_CALLS = 2
"""Few: a GPU queues about a thousand launches, and then the host has to wait."""
_WARM_UP = {"cpu": 2, "cuda": 5}
"""Untimed calls: libraries choose algorithms, and the 4th call captures a CUDA graph."""
_CYCLES_PER_SECOND = 2e9
"""An upper bound of a GPU's clock rate."""
_MAX_HOLD_SECONDS = 0.2


@dataclass(frozen=True)
class Work:
    """The call to be timed.

    less: a part of the call whose cost is subtracted.
    queued: whether a GPU starts only once all calls are in its queue, so that a slow host does not
        count.
    """

    call: Callable[[], object]
    less: Callable[[], object] | None = None
    queued: bool = True


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    seconds: the time between two events on a GPU, wall time on a CPU.
    host_seconds: the time until the call returns, without waiting for the GPU; None on a CPU, where
        it is the same.
    peak_bytes: the peak of allocated GPU memory; on a CPU, of the process since it started.
    """

    seconds: float
    host_seconds: float | None
    peak_bytes: int


class Clock:
    """Medians of `repeats` timings on `device`.

    Example: Clock(torch.device("cpu"), repeats=9).cost(Work(lambda: model(images))).seconds
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._repeats = repeats

    def cost(self, work: Work) -> Cost:
        """The work and its `less` are timed in turn, so that a drift in speed affects both."""
        calls = [work.call] if work.less is None else [work.call, work.less]
        for _ in range(_WARM_UP[self._device.type]):
            for call in calls:
                call()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(self._device)
        seconds, host = [], []
        for _ in range(self._repeats):
            timings = [self._timing(call, work.queued) for call in calls]
            seconds.append(timings[0][0] - sum(timing[0] for timing in timings[1:]))
            host.append(timings[0][1] - sum(timing[1] for timing in timings[1:]))
        return Cost(
            statistics.median(seconds),
            statistics.median(host) if self._on_gpu else None,
            self._peak_bytes(),
        )

    def _timing(self, call: Callable[[], object], queued: bool) -> tuple[float, float]:
        """The seconds of one call, on the device and on the host."""
        if not self._on_gpu:
            host = _host_seconds(call, 1)
            return host, host
        torch.cuda.synchronize(self._device)
        host = _host_seconds(call, _HOST_CALLS)
        torch.cuda.synchronize(self._device)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if queued:
            hold = min(2 * _CALLS * host, _MAX_HOLD_SECONDS)
            torch.cuda._sleep(int(hold * _CYCLES_PER_SECOND))
        first.record()
        for _ in range(_CALLS):
            call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / _CALLS, host

    def _peak_bytes(self) -> int:
        if self._on_gpu:
            return torch.cuda.max_memory_allocated(self._device)
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _host_seconds(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls
