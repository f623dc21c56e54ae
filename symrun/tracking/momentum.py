"""The update that SGD with momentum is about to make, from its buffers, without touching them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symrun.errors import UsageError


@dataclass(frozen=True)
class ComingUpdate:
    """Float64, shaped as the weights are. buffer: b_n. update: u_n, so that theta moves -lr u."""

    buffer: Tensor
    update: Tensor


class Momentum:
    """Reads the momentum buffers b_{n-1} of torch.optim.SGD and says what b_n and u_n will be.

    They are formed before the update, since afterwards theta_n is gone and, with Nesterov, torch
    may have overwritten the gradient.
    """

    def __init__(self, optimizer: torch.optim.SGD) -> None:
        self._optimizer = optimizer

    @property
    def first(self) -> bool:
        """Whether the next update is the first, which makes the buffers."""
        return not any("momentum_buffer" in state for state in self._optimizer.state.values())

    @property
    def nesterov(self) -> bool:
        return bool(self._optimizer.param_groups[0]["nesterov"])

    @property
    def factors(self) -> tuple[float, float, float]:
        """Weight decay, momentum, and 1 - dampening, as they stand now."""
        settings = self._optimizer.param_groups[0]  # that of all: momentum_of checked
        return settings["weight_decay"], settings["momentum"], 1 - settings["dampening"]

    def buffer(self, parameter: nn.Parameter) -> Tensor:
        """b_{n-1} of `parameter`. Assumes: this is not the first update."""
        buffer: Tensor = self._optimizer.state[parameter]["momentum_buffer"]
        return buffer

    def update(self, weight: Tensor, gradient: Tensor, last: Tensor | None = None) -> ComingUpdate:
        """weight, gradient: float64. last: b_{n-1}; None in the first update."""
        decay, momentum, undamped = self.factors
        decayed = torch.add(gradient, weight, alpha=decay)
        if last is None:
            buffer = decayed
        else:
            buffer = last.to(torch.float64, copy=True).mul_(momentum).add_(decayed, alpha=undamped)
        update = torch.add(decayed, buffer, alpha=momentum) if self.nesterov else buffer
        return ComingUpdate(buffer, update)


def momentum_of(optimizer: torch.optim.Optimizer) -> Momentum | None:
    """None unless `optimizer` is SGD with momentum.

    Error: UsageError for an SGD that the laws do not describe: groups of other settings, steps
    uphill, or momentum from updates that were not tracked.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
    settings = {tuple(group[name] for name in names) for group in optimizer.param_groups}
    if len(settings) > 1:
        raise UsageError("the laws need the same settings of SGD for all groups of parameters")
    if optimizer.param_groups[0]["maximize"]:
        raise UsageError("the laws are those of descent: SGD must have maximize=False")
    if not optimizer.param_groups[0]["momentum"]:
        return None
    momentum = Momentum(optimizer)
    if not momentum.first:
        raise UsageError("SGD has momentum already: track it from its first update on")
    return momentum
