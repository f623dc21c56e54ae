"""The optimisers that can be chosen, and the laws that hold for each."""

from collections.abc import Iterable

import torch
from torch import nn

from symrun.config import AdamConfig, OptimConfig, RmspropConfig, SgdConfig
from symrun.laws import SGD, Law, laws_of_sgd
from symrun.runs.tables import LAWS


def make_optimizer(optim: OptimConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of torch.optim that `optim` describes.

    On a GPU SGD is one kernel. It finds the learning rate of float32 weights on the device, so that
    a CUDA graph can hold it; for float64 that place is too narrow.
    """
    lr, weight_decay = optim.lr, optim.weight_decay
    parameters = list(parameters)
    weights = parameters[0]
    if isinstance(optim, SgdConfig):
        on_device = weights.is_cuda and weights.dtype is torch.float32
        return torch.optim.SGD(
            parameters,
            lr=torch.tensor(lr, device=weights.device) if on_device else lr,
            fused=weights.is_cuda or None,  # None is the default
            weight_decay=weight_decay,
            momentum=optim.momentum,
            dampening=optim.dampening,
            nesterov=optim.nesterov,
        )
    if isinstance(optim, RmspropConfig):
        return torch.optim.RMSprop(
            parameters,
            lr=lr,
            weight_decay=weight_decay,
            alpha=optim.alpha,
            eps=optim.eps,
            momentum=optim.momentum,
        )
    assert isinstance(optim, AdamConfig), optim
    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    betas = (optim.beta1, optim.beta2)
    return kind(parameters, lr=lr, weight_decay=weight_decay, betas=betas, eps=optim.eps)


def buffers_of(optim: OptimConfig) -> int:
    """Numbers that the optimiser keeps for each weight."""
    if isinstance(optim, SgdConfig):
        return int(optim.momentum > 0)
    return 1 + (optim.momentum > 0) if isinstance(optim, RmspropConfig) else 2


def laws_of(optim: OptimConfig) -> tuple[dict[str, Law], dict[str, str]]:
    """The laws that predict a run with `optim`, and the reason for each that does not, by column.

    Example: laws, unpredicted = laws_of(config.optim)
    """
    if isinstance(optim, SgdConfig):
        settings = SGD(optim.weight_decay, optim.momentum, optim.dampening, optim.nesterov)
        return laws_of_sgd(settings)
    reason = f"{optim.name} moves each parameter at a rate of its own, which breaks every symmetry"
    return {}, dict.fromkeys(LAWS, reason)
