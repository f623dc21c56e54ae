"""Chooses how a run sums over units: in plain torch, or by the GPU kernel."""

import importlib.util
import logging
from typing import Protocol

import torch
from torch import Tensor

from symrun.config import Sums
from symrun.errors import RunError, UsageError
from symrun.tracking.momentum import Momentum
from symrun.tracking.reductions import Reductions
from symrun.tracking.torch_sums import TorchSums

_log = logging.getLogger(__name__)


class UnitSums(Protocol):
    """Sums over rows and columns of parameters, float64 [planes, slots], as in `TorchSums`."""

    def weights(self) -> Tensor: ...

    def gradients(self, norms: bool = True) -> Tensor: ...


def require_possible(kind: Sums, device: torch.device) -> None:
    """Error: UsageError if the kernel is asked for where it cannot run."""
    hindrance = _hindrance(device)
    if kind is Sums.triton and hindrance is not None:
        raise UsageError(f"track.sums=triton {hindrance}; try track.sums=auto")


def select_sums(kind: Sums, reductions: Reductions, momentum: Momentum | None) -> UnitSums:
    """The kernel if it can run and agrees with plain torch, which is the fallback of auto.

    It warns if a kernel that could run cannot be built or disagrees.

    Error: UsageError or RunError if the kernel is asked for where it cannot run.
    """
    require_possible(kind, reductions.device)
    reference = TorchSums(reductions, momentum)
    if kind is Sums.torch or _hindrance(reductions.device) is not None:
        return reference
    kernel, reason = _kernel(reductions, momentum, reference)
    if kernel is not None:
        return kernel
    if kind is Sums.triton:
        raise RunError(f"track.sums=triton cannot be had: the kernel {reason}; try track.sums=auto")
    _log.warning("measuring with torch, as the kernel %s", reason)
    return reference


def _kernel(
    reductions: Reductions, momentum: Momentum | None, reference: UnitSums
) -> tuple[UnitSums | None, str]:
    """The kernel, or None and the reason why it cannot be used."""
    try:
        from symrun.tracking.kernel import KernelSums

        if not KernelSums.fits(reductions):
            return None, "needs dense parameters, all of one type"
        kernel = KernelSums(reductions, momentum)
        agreed = agree(kernel, reference, reductions)
    except Exception as error:  # Triton, its compiler and the driver raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return None, f"cannot be built: {reason}"
    return (kernel, "") if agreed else (None, "disagrees with it")


def _hindrance(device: torch.device) -> str | None:
    if device.type != "cuda":
        return "needs a CUDA GPU"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton"
    return None


@torch.no_grad()
def agree(kernel: UnitSums, reference: UnitSums, reductions: Reductions) -> bool:
    """Whether both give the same sums; the weights stand in for the gradients.

    Float64 sums of 2^20 terms agree far more closely than the required 1e-9.
    """
    parameters = reductions.parameters
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = parameter.detach()
    try:
        return all(
            bool(((ours - theirs).abs().max() <= 1e-9 * theirs.abs().max()).item())
            for ours, theirs in (
                (kernel.weights(), reference.weights()),
                (kernel.gradients(), reference.gradients()),
            )
        )
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
