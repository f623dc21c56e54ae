"""Predicts the next update of SGD with momentum from its buffers, without changing them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from symrun.errors import UsageError
from symrun.laws import SGD


class Momentum:
    """Reads the momentum buffers b_{n-1} of torch.optim.SGD and says what b_n and u_n will be.

    It computes them before the update: afterwards theta_n is gone and, with Nesterov, torch may
    have overwritten the gradient.

    group: which of the optimiser's groups of parameters it reads. declared: settings to use in
    place of those that the optimiser has.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, group: int = 0, declared: SGD | None = None
    ) -> None:
        self._optimizer, self._group, self._declared = optimizer, group, declared

    @property
    def first(self) -> bool:
        """Whether the next update is the first, which creates the buffers."""
        state = self._optimizer.state
        return not any(
            state.get(parameter, {}).get("momentum_buffer") is not None
            for parameter in self._optimizer.param_groups[self._group]["params"]
        )

    @property
    def nesterov(self) -> bool:
        return bool(self._settings["nesterov"])

    @property
    def factors(self) -> tuple[float, float, float]:
        """Weight decay, momentum, and 1 - dampening, as they stand now."""
        settings = self._settings
        return settings["weight_decay"], settings["momentum"], 1 - settings["dampening"]

    @property
    def _settings(self) -> Mapping[str, Any]:
        if self._declared is not None:
            return vars(self._declared)
        settings: Mapping[str, Any] = self._optimizer.param_groups[self._group]
        return settings

    def buffer(self, parameter: nn.Parameter) -> Tensor:
        """b_{n-1} of `parameter`. Assumes: this is not the first update."""
        buffer: Tensor = self._optimizer.state[parameter]["momentum_buffer"]
        return buffer.to_dense() if buffer.is_sparse else buffer

    def buffer_and_update(
        self,
        weight: Tensor,
        gradient: Tensor,
        last: Tensor | None = None,
        memory: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """b_n and u_n, float64 and shaped as the weight is; theta will move by -lr u_n.

        weight, gradient: float64. last: b_{n-1}; None in the first update. memory: for both, two
        float64 tensors; to allocate them for every block would cost.
        """
        decay, momentum, undamped = self.factors
        if memory is None:
            memory = torch.empty_like(gradient), torch.empty_like(gradient)
        decayed, buffer = memory
        torch.add(gradient, weight, alpha=decay, out=decayed)
        if last is None:
            buffer.copy_(decayed)
        else:
            buffer.copy_(last)
            fresh = decayed if undamped == 1 else undamped * decayed
            torch.add(fresh, buffer, alpha=momentum, out=buffer)
        if not self.nesterov:
            return buffer, buffer
        return buffer, decayed.add_(buffer, alpha=momentum)


def momentum_of(optimizer: torch.optim.Optimizer) -> Momentum | None:
    """A reader of the momentum of `optimizer`; None unless it is SGD with momentum.

    Error: UsageError for an SGD that one set of laws does not describe: groups of other settings,
    or steps uphill.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    names = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
    settings = {tuple(group[name] for name in names) for group in optimizer.param_groups}
    if len(settings) > 1:
        raise UsageError("the laws need the same settings of SGD for all groups of parameters")
    if optimizer.param_groups[0]["maximize"]:
        raise UsageError("the laws are those of descent: SGD must have maximize=False")
    return Momentum(optimizer) if optimizer.param_groups[0]["momentum"] else None
