"""The optimisers that can be trained with by name; an entry holds all that is particular to one.

Settings are torch.optim's own, with its constraints, and a schedule of the learning rate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

from symrun.laws.equilibrium import Equilibrium
from symrun.laws.sgd import kinds_of_sgd, laws_of_sgd
from symrun.typed import Setting, require, require_settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from symrun.laws import Law
    from symrun.laws.equilibrium import Array


_LARGEST = 1e30
"""Of settings without a bound of their own; above 1e38 float32 overflows, and the laws follow."""


class Schedule(Enum):
    """How the learning rate changes over a run; `symrun.schedule` computes it."""

    constant = "constant"
    multistep = "multistep"
    cosine = "cosine"
    warmup_cosine = "warmup_cosine"


@dataclass(frozen=True)
class OptimConfig:
    """What all optimisers have: torch.optim's own settings and constraints, and a schedule."""

    name: str
    lr: Annotated[float, Setting("learning rate", "> 0")]
    weight_decay: Annotated[float, Setting("weight decay, added to the gradient", ">= 0")]
    schedule: Annotated[Schedule, Setting("how the learning rate changes over the run")]
    milestones: Annotated[
        tuple[float, ...] | None,
        Setting("multistep: shares of the run after which lr shrinks, such as [0.5,0.75]"),
    ]
    gamma: Annotated[
        float | None, Setting("multistep: what lr is multiplied by at a milestone", "in (0, 1]")
    ]
    warmup: Annotated[
        float | None, Setting("warmup_cosine: share of the run over which lr rises", "in (0, 1)")
    ]

    @property
    def title(self) -> str:
        """Its name in figures."""
        return OPTIMIZERS[self.name].title

    @property
    def flow_rate(self) -> float:
        """How much faster than the sum of learning rates the time of gradient flow passes."""
        return 1.0

    @property
    def flow_decay(self) -> float:
        """The weight decay of the gradient flow that the optimiser discretises; 0 if it does not,
        because its update is no sum of gradients."""
        return 0.0

    def equilibrium(self, lr: "float | Array") -> Equilibrium | None:
        """What units of scale settle at if the learning rate stays `lr`; None if they do not, or
        nobody knows where."""
        return None

    def __post_init__(self) -> None:
        require_settings(self, "optim.")
        for setting in ("lr", "weight_decay", "eps"):
            value = getattr(self, setting, 0.0)
            require(f"optim.{setting}", value <= _LARGEST, f"<= {_LARGEST:g}", value)
        for setting, schedule, example in (
            ("milestones", Schedule.multistep, "[0.5,0.75]"),
            ("gamma", Schedule.multistep, "0.1"),
            ("warmup", Schedule.warmup_cosine, "0.05"),
        ):
            value, used = getattr(self, setting), self.schedule is schedule
            value = list(value) if isinstance(value, tuple) else value
            name, given = f"optim.schedule={schedule.value}", value is not None
            require(f"optim.{setting}", used or not given, f"null without {name}", value)
            needed = f"given with {name}, such as {example}"
            require(f"optim.{setting}", given or not used, needed, "null")
        if self.milestones is not None:
            rising = list(self.milestones) == sorted(set(self.milestones))
            inside = all(0 < milestone < 1 for milestone in self.milestones)
            allowed = bool(self.milestones) and rising and inside
            shares = "rising shares of the run, each in (0, 1)"
            require("optim.milestones", allowed, shares, list(self.milestones))


@dataclass(frozen=True)
class SgdConfig(OptimConfig):
    weight_decay: Annotated[
        float, Setting("weight decay, added to the gradient; below 1 / optim.lr", ">= 0")
    ]
    momentum: Annotated[float, Setting("share of the momentum buffer that stays", "in [0, 1)")]
    dampening: Annotated[
        float, Setting("share of the gradient kept out of the buffer", "in [0, 1)")
    ]
    nesterov: Annotated[bool, Setting("Nesterov's momentum")]

    @property
    def flow_rate(self) -> float:
        return (1 - self.dampening) / (1 - self.momentum)

    @property
    def flow_decay(self) -> float:
        return self.weight_decay

    def equilibrium(self, lr: "float | Array") -> Equilibrium | None:
        if not self.weight_decay:
            return None
        return Equilibrium.of_sgd(
            lr, self.weight_decay, self.momentum, self.dampening, self.nesterov
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        decay = self.weight_decay
        bound = f"< 1 / optim.lr ({1 / self.lr:g})"
        require("optim.weight_decay", self.lr * decay < 1, bound, decay)
        without_momentum = "0 where optim.momentum is 0, since it has no effect there"
        require(
            "optim.dampening",
            self.momentum > 0 or self.dampening == 0,
            without_momentum,
            self.dampening,
        )
        nesterov_allowed = self.momentum > 0 and self.dampening == 0
        needs = "false unless optim.momentum > 0 and optim.dampening = 0"
        require("optim.nesterov", not self.nesterov or nesterov_allowed, needs, self.nesterov)


@dataclass(frozen=True)
class AdamConfig(OptimConfig):
    """Adam, and AdamW, whose weight decay is decoupled from the gradient."""

    weight_decay: Annotated[
        float, Setting("weight decay: of adam in the gradient, of adamw beside it", ">= 0")
    ]
    beta1: Annotated[float, Setting("decay of the gradients' running mean", "in [0, 1)")]
    beta2: Annotated[float, Setting("decay of the running mean of squared gradients", "in [0, 1)")]
    eps: Annotated[float, Setting("added to the root of the mean squared gradient", "> 0")]

    def equilibrium(self, lr: "float | Array") -> Equilibrium | None:
        if not self.weight_decay or self.name != "adamw":
            return None
        return Equilibrium.of_adamw(lr, self.weight_decay, self.beta1)


@dataclass(frozen=True)
class RmspropConfig(OptimConfig):
    alpha: Annotated[float, Setting("decay of the running mean of squared gradients", "in [0, 1)")]
    eps: Annotated[float, Setting("added to the root of the mean squared gradient", "> 0")]
    momentum: Annotated[float, Setting("share of the momentum buffer that stays", "in [0, 1)")]


@dataclass(frozen=True)
class Optimizer:
    """One optimiser.

    settings: the class of its settings. title: its name in figures. build(settings, parameters):
    the optimiser of torch.optim. buffers(settings): numbers that it keeps for each weight.
    laws(settings): as `laws_of`. capturable: whether a CUDA graph can hold its step.
    """

    settings: type[OptimConfig]
    title: str
    build: Callable[[Any, Sequence["nn.Parameter"]], "torch.optim.Optimizer"]
    buffers: Callable[[Any], int]
    laws: Callable[[Any], tuple[dict[str, "Law"], dict[str, str]]]
    capturable: bool = False


def make_optimizer(
    optim: OptimConfig, parameters: Sequence["nn.Parameter"]
) -> "torch.optim.Optimizer":
    """The optimiser of torch.optim that `optim` describes."""
    return OPTIMIZERS[optim.name].build(optim, parameters)


def laws_of(optim: OptimConfig) -> tuple[dict[str, "Law"], dict[str, str]]:
    """The laws that predict a run with `optim`, and the reason for each that does not, by column.

    Example: laws, unpredicted = laws_of(config.optim)
    """
    return OPTIMIZERS[optim.name].laws(optim)


def _sgd(optim: SgdConfig, parameters: Sequence["nn.Parameter"]) -> "torch.optim.Optimizer":
    """On a GPU one kernel. It finds the learning rate of float32 weights on the device, so that a
    CUDA graph can hold it; for float64 that place is too narrow."""
    import torch  # takes a second

    weights = parameters[0]
    on_device = weights.is_cuda and weights.dtype is torch.float32
    return torch.optim.SGD(
        parameters,
        lr=torch.tensor(optim.lr, device=weights.device) if on_device else optim.lr,
        fused=weights.is_cuda or None,  # None is the default
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        dampening=optim.dampening,
        nesterov=optim.nesterov,
    )


def _sgd_laws(optim: SgdConfig) -> tuple[dict[str, "Law"], dict[str, str]]:
    from symrun.laws.law import SGD

    return laws_of_sgd(SGD(optim.weight_decay, optim.momentum, optim.dampening, optim.nesterov))


def _adam(optim: AdamConfig, parameters: Sequence["nn.Parameter"]) -> "torch.optim.Optimizer":
    import torch

    kind = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
    betas = (optim.beta1, optim.beta2)
    return kind(
        parameters, lr=optim.lr, weight_decay=optim.weight_decay, betas=betas, eps=optim.eps
    )


def _rmsprop(optim: RmspropConfig, parameters: Sequence["nn.Parameter"]) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.RMSprop(
        parameters,
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        alpha=optim.alpha,
        eps=optim.eps,
        momentum=optim.momentum,
    )


def _observed_laws(optim: OptimConfig) -> tuple[dict[str, "Law"], dict[str, str]]:
    from symrun.laws import ObservedUpdate

    reason = f"{optim.name} moves each parameter at a rate of its own, which breaks every symmetry"
    laws = {"exact": ObservedUpdate(optim.weight_decay if optim.name == "adamw" else 0.0)}
    kinds = kinds_of_sgd(momentum=False)
    return {**laws}, {name: reason for name, kind in kinds.items() if not kind.identity}


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(
        SgdConfig, "SGD", _sgd, lambda optim: int(optim.momentum > 0), _sgd_laws, capturable=True
    ),
    "adam": Optimizer(AdamConfig, "Adam", _adam, lambda optim: 2, _observed_laws),
    "adamw": Optimizer(AdamConfig, "AdamW", _adam, lambda optim: 2, _observed_laws),
    "rmsprop": Optimizer(
        RmspropConfig, "RMSprop", _rmsprop, lambda optim: 1 + (optim.momentum > 0), _observed_laws
    ),
}
