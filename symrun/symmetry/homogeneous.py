"""Operations that keep a positive scaling of one unit: f(c x) = c f(x) on the unit's entries.

An operation that is not listed here ends a symmetry group.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn


@dataclass(frozen=True)
class UnitAxis:
    """Where a tensor's units lie: on `axis`, each as `spread` consecutive entries."""

    axis: int
    spread: int


# AlphaDropout is missing on purpose: it writes a constant, which does not scale.
_POINTWISE: set[Any] = {
    nn.Identity, nn.ReLU, nn.LeakyReLU, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    F.relu, F.leaky_relu, F.dropout, F.dropout1d, F.dropout2d, F.dropout3d,
    torch.relu, "relu", "contiguous",
}  # fmt: skip

# Pooling over the last axes, as many as the number says.
_POOLING: dict[Any, int] = {
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3,
    nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3,
    nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3,
    F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3,
    F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3,
    F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3,
}  # fmt: skip

_FLATTEN: set[Any] = {torch.flatten, "flatten"}


def channel_axis(ndim: int, dimensions: int) -> int:
    """Axis of the channels in front of `dimensions` spatial axes."""
    return ndim - dimensions - 1


def pass_through(
    node: fx.Node, module: nn.Module | None, shape: tuple[int, ...], units: UnitAxis
) -> UnitAxis | None:
    """Where the units of an input of `shape` lie behind `node`; None if their scaling is lost."""
    operation = type(module) if module is not None else node.target
    if operation in _POINTWISE:
        return units
    if operation in _POOLING:
        channels = channel_axis(len(shape), _POOLING[operation])
        return units if units.axis == channels else None
    if isinstance(module, nn.Flatten):
        return _flatten(shape, units, module.start_dim, module.end_dim)
    if operation in _FLATTEN:
        arguments: Any = node.args[1:]
        return _flatten(shape, units, *arguments, **node.kwargs)
    return None


def _flatten(
    shape: tuple[int, ...], units: UnitAxis, start_dim: Any = 0, end_dim: Any = -1
) -> UnitAxis | None:
    start, end = start_dim % len(shape), end_dim % len(shape)
    if units.axis < start:
        return units
    if units.axis > end:
        return UnitAxis(units.axis - (end - start), units.spread)
    if units.axis > start:
        return None  # another axis varies slower: a unit's entries are no longer consecutive
    return UnitAxis(start, units.spread * math.prod(shape[start + 1 : end + 1]))
