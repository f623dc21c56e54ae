"""Counts what a piece of work launches on a GPU, with torch's profiler."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from symrun.bench.clock import Work
from symrun.errors import RunError

_CALLS = 3
_ROWS = 80
_IGNORED_ACTIVITIES = ("gpu_user_annotation", "cuda_sync")
"""Activities that the profiler also lists on the device's time line."""


@dataclass(frozen=True)
class Launches:
    """The mean number of kernels, copies and fills in one call.

    seconds: their durations, without the gaps between them.
    """

    count: float
    seconds: float


def launches(work: Work) -> Launches:
    """The launches of `work`, minus those of `work.less`.

    Error: RunError if the profiler sees nothing on the GPU.
    """
    whole = _launches(work.call)
    if work.less is None:
        return whole
    less = _launches(work.less)
    return Launches(whole.count - less.count, whole.seconds - less.seconds)


def profile_table(work: Work, device: torch.device) -> str:
    """A table of the operations or kernels in `work`, the slowest first (GPU time on a GPU)."""
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = _profiled(work.call, device.type == "cuda").key_averages()
    return str(averages.table(sort_by=by, row_limit=_ROWS, max_name_column_width=90))


def _launches(call: Callable[[], object]) -> Launches:
    found = [
        event
        for event in _profiled(call, on_gpu=True).events() or []
        if event.device_type.name == "CUDA"
        and not getattr(event, "is_user_annotation", False)
        and getattr(event, "activity_type", None)
        not in _IGNORED_ACTIVITIES  # an older torch lacks it
    ]
    if not found:
        raise RunError("the profiler sees nothing on the GPU: it needs NVIDIA's CUPTI")
    seconds = sum(event.time_range.elapsed_us() for event in found) / 1e6
    return Launches(len(found) / _CALLS, seconds / _CALLS)


def _profiled(call: Callable[[], object], on_gpu: bool) -> profile:
    """The profile of some calls, after a call to warm up."""
    call()
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    if on_gpu:
        torch.cuda.synchronize()
    # One cycle keeps its events anyway, but torch 2.11 warns without acc_events
    found = profile(activities=activities, acc_events=True)
    with found:
        for _ in range(_CALLS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    return found
