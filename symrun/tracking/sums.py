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
    """The kernel, where it can run; auto also holds its sums of the weights against torch's, once,
    and if they disagree warns and leaves it.

    Error: as in `require_possible`.
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
    if kind is Sums.auto and not _agree(kernel, reference):
        warnings.warn("the measuring kernel disagrees with torch, which measures now", stacklevel=2)
        return reference
    return kernel


def _hindrance(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    return None


@torch.no_grad()
def _agree(kernel: UnitSums, reference: UnitSums) -> bool:
    """Far within float32's rounding: sums of up to 2^20 terms, float64, stay below 1e-9."""
    expected = reference.weights()
    off = (kernel.weights() - expected).abs().max()
    return bool((off <= 1e-9 * expected.abs().max()).item())
