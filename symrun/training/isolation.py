"""The caller's global state of torch: without effect on a run, and afterwards as it was."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from symrun.errors import UsageError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Compute as in a process of its own, whatever the caller has set in torch, and put it back.

    The number of threads is the caller's choice and has its effect.

    Error: UsageError within torch.autocast, whose cache of weights would outlive their updates.
    Example:
        with isolated():
            torch.manual_seed(0)
    """
    nesting = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    if nesting > 1 or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        remedy = "call symrun outside of it; `precision=bf16` has its own"
        raise UsageError(f"torch.autocast is active: {remedy}")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_switches_kept())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(_restore_environment, os.environ.get(_WORKSPACE))
        stack.enter_context(_random_numbers_kept())
        torch.set_default_dtype(torch.float32)
        backends: Any = torch.backends
        backends.mkldnn.enabled = backends.cudnn.enabled = True
        backends.cudnn.deterministic = False
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def _switches_kept() -> Iterator[None]:
    """Put back how torch computes. A switch that cannot be read, since it contradicts a newer one
    for the same thing, is left as the run had it."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    # In this order, since setting the older switches changes the newer ones
    places = [(cudnn, "allow_tf32"), (cudnn.conv, "fp32_precision"), (cudnn.rnn, "fp32_precision")]
    newer = (backends.cuda.matmul, mkldnn.matmul, mkldnn.conv)
    places += [(switch, "fp32_precision") for switch in newer]
    places += [(cudnn, name) for name in ("enabled", "deterministic", "benchmark")]
    kept, product = [], None
    for place, name in [*places, (mkldnn, "enabled")]:
        with contextlib.suppress(RuntimeError):
            kept.append((place, name, getattr(place, name)))
    with contextlib.suppress(RuntimeError):
        product = torch.get_float32_matmul_precision()
    determinism = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(determinism)
        if product is not None:
            torch.set_float32_matmul_precision(product)
        for place, name, value in kept:
            setattr(place, name, value)


@contextlib.contextmanager
def _random_numbers_kept() -> Iterator[None]:
    cuda: Any = torch.cuda
    started = cuda.is_initialized()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count()) if started else ()):
            yield
    finally:
        if not started:  # the caller's seed, or torch's own, is what CUDA would have begun with
            torch.cuda.manual_seed_all(torch.initial_seed())


def _restore_environment(workspace: str | None) -> None:
    if workspace is None:
        os.environ.pop(_WORKSPACE, None)
    else:
        os.environ[_WORKSPACE] = workspace
