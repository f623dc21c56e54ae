"""Draws a network's random numbers so that no two units look alike by chance.

A gate that is shut once in a hundred draws, as by dropout, is open in most batches, where its units
look as if they were linear.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_PROBABILITIES = ("p", "dropout_p", "dropout")
_UNIFORM = ("aten::rand", "aten::rand_like", "aten::uniform_")
_NORMAL = ("aten::randn", "aten::randn_like", "aten::normal_")
_NEAR = 1e-6
"""How far from a bound uniform numbers lie, of the distance between both: what takes their
logarithm stays finite."""
_STRETCH = 10
"""Of normal numbers: what lies beyond three standard deviations becomes one in three."""


class EvenGates(TorchDispatchMode):
    """Within it a gate that is drawn at random is open as often as not, or nearly so.

    Dropout has the probability 1/2, uniform numbers lie at either of their bounds, and normal ones
    are ten times as large. Other random numbers are as they are. drawn: whether any was drawn.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.drawn = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        names = [argument.name for argument in function._schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **kwargs}
        given = [name for name in _PROBABILITIES if isinstance(values.get(name), int | float)]
        if any(not 0 < values[name] < 1 for name in given):  # it drops nothing, or all
            return function(*args, **kwargs)
        self.drawn = True
        values |= dict.fromkeys(given, 0.5)
        name = function._schema.name
        odds = "self" if name == "aten::bernoulli" and not given else "p"
        if isinstance(chance := values.get(odds), Tensor):
            values[odds] = torch.where((chance > 0) & (chance < 1), 0.5, chance)
        low, high = values.get("from", 0.0), values.get("to", 1.0)
        drawn = function(*[values.pop(one) for one in names[: len(args)]], **values)
        if name in _UNIFORM:
            lower = drawn < (low + high) / 2
            near = torch.where(lower, low + _NEAR * (drawn - low), high - _NEAR * (high - drawn))
            return drawn.copy_(near)
        return drawn.mul_(_STRETCH) if name in _NORMAL else drawn
