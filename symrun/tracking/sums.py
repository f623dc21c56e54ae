"""What sums over units at every step: plain torch, or a kernel on a GPU."""

import importlib.util
import warnings
from typing import Protocol

import torch
from torch import Tensor

from symrun.config import Sums
from symrun.errors import UsageError
from symrun.tracking.blocks import BlockSums
from symrun.tracking.momentum import Momentum
from symrun.tracking.slots import Slots


class UnitSums(Protocol):
    """Sums over rows and columns of parameters, float64 [planes, slots], as in `BlockSums`."""

    def weights(self) -> Tensor: ...

    def gradients(self) -> Tensor: ...


def require_possible(kind: Sums, device: torch.device) -> None:
    """Error: UsageError if the kernel is asked for where it cannot run."""
    hindrance = _hindrance(device)
    if kind is Sums.triton and hindrance is not None:
        raise UsageError(f"track.sums=triton {hindrance}; try track.sums=auto")


def choose(kind: Sums, slots: Slots, momentum: Momentum | None) -> UnitSums:
    """The kernel, where it can run. auto first holds its sums of the weights against torch's, and
    leaves it with a warning if they disagree or it cannot be built here.

    Error: UsageError if the kernel is asked for where it cannot run.
    """
    require_possible(kind, slots.device)
    reference = BlockSums(slots, momentum)
    if kind is Sums.torch or _hindrance(slots.device) is not None:
        return reference
    from symrun.tracking.kernel import KernelSums

    if not KernelSums.fits(slots):
        if kind is Sums.triton:
            raise UsageError("track.sums=triton needs dense parameters, all of one type")
        return reference
    kernel = KernelSums(slots, momentum)
    if kind is Sums.auto and (doubt := _doubt(kernel, reference)) is not None:
        warnings.warn(f"measuring with torch, as the kernel {doubt}", stacklevel=2)
        return reference
    return kernel


def _hindrance(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    return None


@torch.no_grad()
def _doubt(kernel: UnitSums, reference: UnitSums) -> str | None:
    """What speaks against the kernel: float64 sums of 2^20 terms agree far better than 1e-9."""
    expected = reference.weights()
    try:
        off = (kernel.weights() - expected).abs().max()
    except Exception as error:  # whatever Triton, its compiler or the driver has to say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"cannot be built: {reason}"
    agree = bool((off <= 1e-9 * expected.abs().max()).item())
    return None if agree else "disagrees with it"
