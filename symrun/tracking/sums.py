"""What sums over units at every step: plain torch, or a kernel on a GPU."""

import importlib.util
import warnings
from typing import Protocol

import torch
from torch import Tensor

from symrun.config import Sums
from symrun.errors import RunError, UsageError
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
    """The kernel, where it can run. It is first held against torch; if it cannot be built here or
    disagrees, auto leaves it with a warning.

    Error: UsageError or RunError if the kernel is asked for where it cannot run.
    """
    require_possible(kind, slots.device)
    reference = BlockSums(slots, momentum)
    if kind is Sums.torch or _hindrance(slots.device) is not None:
        return reference
    kernel, doubt = _kernel(slots, momentum, reference)
    if kernel is not None:
        return kernel
    if kind is Sums.triton:
        raise RunError(f"track.sums=triton cannot be had: the kernel {doubt}; try track.sums=auto")
    warnings.warn(f"measuring with torch, as the kernel {doubt}", stacklevel=2)
    return reference


def _kernel(
    slots: Slots, momentum: Momentum | None, reference: UnitSums
) -> tuple[UnitSums | None, str]:
    """The kernel, or what speaks against it."""
    try:
        from symrun.tracking.kernel import KernelSums

        if not KernelSums.fits(slots):
            return None, "needs dense parameters, all of one type"
        kernel = KernelSums(slots, momentum)
        doubt = doubt_of(kernel, reference, slots)
    except Exception as error:  # whatever Triton, its compiler or the driver has to say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"cannot be built: {reason}"
    return (kernel, "") if doubt is None else (None, doubt)


def _hindrance(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    return None


@torch.no_grad()
def doubt_of(kernel: UnitSums, reference: UnitSums, slots: Slots) -> str | None:
    """Whether the two disagree, with the weights in the place of gradients as well. Float64 sums of
    2^20 terms agree far better than 1e-9."""
    parameters = [p for source in slots.sources for p in source.parameters.values()]
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = parameter.detach()
    try:
        for ours, theirs in (
            (kernel.weights(), reference.weights()),
            (kernel.gradients(), reference.gradients()),
        ):
            if not bool(((ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()).item()):
                return "disagrees with it"
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    return None
