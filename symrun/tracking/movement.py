"""How an optimiser moves the groups of a network: all by one rule, or each by its own."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from symrun.laws import Law, ObservedUpdate, Rule
from symrun.symmetry import Group
from symrun.tracking.momentum import momentum_of
from symrun.tracking.parts import Part


class Movement(Protocol):
    """Divides the groups into parts, and tells what moves each at the next update."""

    @property
    def parts(self) -> Sequence[Part]: ...

    def rules(self, lr: float | None) -> Sequence[Rule]:
        """Of each part. lr: the learning rate; None if it is read off the optimiser."""
        ...


class OneRule:
    """All groups are moved by one rule.

    Error: UsageError for an SGD that one set of laws does not describe, as in `momentum_of`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, groups: Sequence[Group], laws: Mapping[str, Law]
    ) -> None:
        observed = any(isinstance(law, ObservedUpdate) for law in laws.values())
        momentum = None if observed else momentum_of(optimizer)
        self._laws, self._momentum = laws, momentum
        self.parts = [Part(tuple(range(len(groups))), laws, momentum, observed)]

    def rules(self, lr: float | None) -> Sequence[Rule]:
        assert lr is not None, "one rule needs a learning rate"
        return [Rule(self._laws, lr, self._momentum is not None and self._momentum.first)]
