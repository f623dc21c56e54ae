"""Devices, and the arithmetic modes on them: set in one place, refused where they do not exist."""

import contextlib
import os
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from symrun import ranks
from symrun.config import Device, Precision
from symrun.errors import RunError, UsageError

_ENOUGH_CHANNELS = 16


def select_device(device: Device) -> torch.device:
    """Error: UsageError if CUDA is asked for and missing, never a silent run on the CPU; or if
    there is no GPU for each process."""
    available = torch.cuda.is_available()
    if device is Device.cuda and not available:
        raise UsageError("device=cuda needs a CUDA GPU and torch finds none; try device=cpu")
    if not available or device is Device.cpu:
        return torch.device("cpu")
    own = ranks.gpu()
    return torch.device("cuda") if own is None else torch.device("cuda", own)


def device_title(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def set_precision(precision: Precision) -> None:
    """Set torch's switches: TF32 in convolutions for tf32 alone, in matrix products never.

    torch has an older and a newer set of them, and refuses to read either once they contradict
    each other, as `torch.compile` and `cudnn.flags()` do. So both are set, the older ones first,
    since setting those changes the newer ones; and the CPU's, which have the same names.
    """
    tf32 = precision is Precision.tf32
    backends: Any = torch.backends
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = tf32
    for cudnn in (backends.cudnn.conv, backends.cudnn.rnn):
        cudnn.fp32_precision = "tf32" if tf32 else "ieee"
    for other in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
        other.fp32_precision = "ieee"


def takes_channels_last(model: nn.Module, device: torch.device) -> bool:
    """Whether all convolutions of `model` can have their channels last on `device`.

    On the CPU, torch 2.14's backward of a 1x1 convolution with a stride and few input channels
    writes past its memory in this layout: from 4 or 8 channels of 64x64, batch 128, it crashed.
    """
    return device.type == "cuda" or not any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < _ENOUGH_CHANNELS
        for layer in model.modules()
    )


def set_determinism(deterministic: bool) -> None:
    """Whether torch refuses algorithms that give other bits at each call; the CPU has none here.

    If it does not, cuDNN times its algorithms where it first meets a shape, and takes the fastest.

    Assumes: cuBLAS was not used yet in this process, whose workspace has to be fixed before.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """What forward and loss run in: bfloat16 where it is safe for bf16, nothing otherwise."""
    if precision is Precision.bf16:
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def keep_float32(layer: nn.Linear) -> None:
    """Take a layer out of autocast, weights and input in float32.

    For the last linear layer: its column sums move by rounding alone, so bfloat16 would drown
    the translation symmetry.
    """
    vars(layer)["forward"] = types.MethodType(_linear_in_float32, layer)


def _linear_in_float32(layer: nn.Linear, features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return nn.functional.linear(features.float(), layer.weight, layer.bias)


@contextlib.contextmanager
def memory_in_one_line(remedy: str) -> Iterator[None]:
    """Error: RunError in place of torch's, if the memory is too small."""
    try:
        yield
    except RuntimeError as error:
        # On the CPU torch has no type of its own for it.
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate" in str(error):
            raise RunError(f"out of memory: {remedy}") from None
        raise
