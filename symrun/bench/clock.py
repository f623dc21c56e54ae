"""How long a piece of work takes: on the device, and on the host until its calls return."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_CALLS = 10
"""Between two events on a GPU, which tell times apart by half a microsecond."""
_HOST_CALLS = 2
"""Few, as a GPU takes about a thousand launches into its queue, and then the host waits for it."""
_WARM_UP = {"cpu": 2, "cuda": 5}
"""Calls that are not timed: libraries choose algorithms; a CUDA graph is captured at the 4th."""
_CYCLES_A_SECOND = 2e9
"""Of a GPU's clock, which is not faster."""
_LONGEST_HOLD = 0.2
"""Seconds."""


@dataclass(frozen=True)
class Work:
    """One call of it is what is measured.

    less: a part of it that does not count; what it costs is taken off.
    queued: whether a GPU starts only once all calls wait in its queue, so that a slow host does not
        count. Else it is timed as it comes.
    """

    call: Callable[[], object]
    less: Callable[[], object] | None = None
    queued: bool = True


@dataclass(frozen=True)
class Cost:
    """seconds: between two events on a GPU, of the wall clock on a CPU.

    host_seconds: until the call returns, without waiting for the GPU; None on a CPU, where that is
        the same.
    peak_bytes: the most that was allocated on the GPU meanwhile; on a CPU the most that the process
        has held since it started.
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
        """Work and what is taken off it take turns, so that a drift of the speed hits both."""
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
        """Seconds of one call, and the host's."""
        if not self._on_gpu:
            host = _host_seconds(call, 1)
            return host, host
        torch.cuda.synchronize(self._device)
        host = _host_seconds(call, _HOST_CALLS)
        torch.cuda.synchronize(self._device)
        first, last = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        if queued:
            hold = min(2 * _CALLS * host, _LONGEST_HOLD)
            torch.cuda._sleep(int(hold * _CYCLES_A_SECOND))  # type: ignore[no-untyped-call]
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
