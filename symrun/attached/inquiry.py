"""Why `exact` missed: looks at one update of the parameters concerned, weight by weight."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from symrun.laws import SGD
from symrun.tracking.shares import Share

_ROUNDING = 64
"""Roundings of a weight's type that do not count as a difference."""


class Inquiry:
    """Follows one update, and names the likely cause.

    Call `before` and `after` around it, and `cause` before the next one.

    parameters: with the share of each that is looked at, since others are on other ranks.
    declared: the settings of SGD that the laws use; None where the update is observed.
    Error: rounding; an update of zero tells nothing.
    """

    def __init__(
        self,
        parameters: Mapping[str, tuple[nn.Parameter, Share]],
        optimizer: torch.optim.Optimizer,
        lr: float,
        declared: SGD | None,
    ) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        self._lr, self._declared = lr, declared
        self._found: str | None = None
        self.complete = False
        """Whether the update was made."""

    @torch.no_grad()
    def before(self) -> None:
        state = self._optimizer.state
        self._weights = self._now()
        self._gradients = {
            name: None if one.grad is None else share.of(one.grad).clone()
            for name, (one, share) in self._parameters.items()
        }
        self._buffers = {
            name: share.of(buffer).clone()
            for name, (one, share) in self._parameters.items()
            if isinstance(buffer := state.get(one, {}).get("momentum_buffer"), Tensor)
        }

    def _now(self) -> dict[str, Tensor]:
        return {name: share.of(one).clone() for name, (one, share) in self._parameters.items()}

    @torch.no_grad()
    def after(self) -> None:
        self._stepped = self._now()
        self.complete = True
        for name in self._parameters if self._declared is not None else ():
            self._found = self._found or self._within(name)

    @torch.no_grad()
    def cause(self) -> str:
        """In words, to follow a colon."""
        for name, (whole, share) in self._parameters.items():
            parameter = share.of(whole)
            moved = (parameter - self._stepped[name]).abs().max()
            if moved > _ROUNDING * torch.finfo(parameter.dtype).eps * parameter.abs().max():
                size = float(moved / self._stepped[name].abs().max().clamp(min=1e-30))
                return (
                    f"{name} changes between two updates, by {size:.1e} of its largest weight: "
                    "something beside this optimizer writes to it, such as a clamp, a copy or "
                    "another optimizer"
                )
        return self._found or (
            "the next update was as it should be: it happened once, as when weights are loaded"
        )

    def _within(self, name: str) -> str | None:
        """What the update of a parameter was made of, if not of what was declared."""
        weights, gradient = self._weights[name].double().flatten(), self._gradients[name]
        step = (weights - self._stepped[name].double().flatten()) / (self._lr or 1.0)
        declared = self._declared
        assert declared is not None
        if gradient is None:
            return None
        gradient = gradient.to_dense().double().flatten()
        buffer = self._buffers.get(name)
        made = [gradient, weights] + ([] if buffer is None else [buffer.double().flatten()])
        expected = _coefficients(declared, first=buffer is None)[: len(made)]
        difference = step - sum(share * one for share, one in zip(expected, made, strict=True))
        eps = torch.finfo(self._weights[name].dtype).eps
        rounding = _ROUNDING * eps * (weights.abs().max() / (self._lr or 1.0) + step.abs().max())
        if difference.abs().max() <= rounding:
            return None
        if step.abs().max() == 0:
            return f"{name} does not move in the optimizer's step"
        return _departure(name, expected, _fitted(made, step), declared)


def _coefficients(declared: SGD, first: bool) -> list[float]:
    """Of gradient, weights and buffer in SGD's update."""
    undamped = 1.0 if first else 1 - declared.dampening
    share = 1 + declared.momentum * undamped if declared.nesterov else undamped
    if first and not declared.momentum:
        share = 1.0
    of_buffer = declared.momentum**2 if declared.nesterov else declared.momentum
    return [share, share * declared.weight_decay, of_buffer]


def _fitted(made: Sequence[Tensor], step: Tensor) -> tuple[list[float], float]:
    """The shares of what an update is made of that fit it best, and what they leave of it."""
    columns = torch.stack(list(made), 1)
    scale = columns.norm(dim=0).clamp(min=1e-300)
    shares = torch.linalg.lstsq(columns / scale, step[:, None]).solution[:, 0] / scale
    left = float((step - columns @ shares).norm() / step.norm())
    return shares.tolist(), left


def _departure(
    name: str, expected: Sequence[float], fitted: tuple[list[float], float], declared: SGD
) -> str:
    shares, left = fitted
    if left > 0.01:
        return f"the update of {name} is not that of SGD with {declared}"
    of_gradient, of_weights = shares[0] / expected[0], shares[1] / (shares[0] or 1.0)
    if abs(of_gradient - 1) > 0.01:
        return (
            f"the update of {name} has {of_gradient:.4g} times the gradient that there was before "
            "it: a gradient that is still scaled, or changed later than it was measured"
        )
    if len(shares) > 2 and abs(shares[2] - expected[2]) > 0.01 * max(abs(expected[2]), 0.1):
        return f"the update of {name} has a momentum of {shares[2]:.4g}, not {expected[2]:.4g}"
    declared_decay = f"{declared.weight_decay:g}"
    return f"the update of {name} has a weight decay of {of_weights:.4g}, not {declared_decay}"
