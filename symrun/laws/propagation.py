"""All laws of a run at once: one update is one matrix for each kind of unit."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from symrun.laws.law import Input, Law

_MOST_DEGREES = 1000


class Rule(NamedTuple):
    """What moves some of the units at the next update.

    laws: those that describe it, by column. first: whether the optimiser has not updated before.
    """

    laws: Mapping[str, Law]
    lr: float
    first: bool


class Propagation:
    """Advances all laws of all units by one update in one matrix product.

    conserved, degree: float64 [units], Q_0 and k. laws: those of each rule that moves units, by
    column; a rule may lack some, which then predict NaN. rule_of: the rule of each unit, int64
    [units]; None: there is one. momentum: whether the optimiser has any, which decides what inputs
    there are. carried: of each rule, as in `Law.start`.

    Assumes: finite states. One law's overflow makes all of that unit NaN, once a run has diverged.
    Error: rounding. From `prepare`, ValueError for a degree for which a law does not hold.
    Example:
        conserved, degree = torch.ones(3).double(), torch.tensor([1.0, 2.0, 2.0])
        propagation = Propagation([laws], conserved, degree, momentum=False)
        propagation.prepare([Rule(laws, lr=0.1, first=True)])
        propagation.advance(torch.zeros(3, 3).double())
        propagation.predicted["exact"]
    """

    def __init__(
        self,
        laws: Sequence[Mapping[str, Law]],
        conserved: Tensor,
        degree: Tensor,
        momentum: bool,
        rule_of: Tensor | None = None,
        carried: Sequence[Tensor | None] = (),
    ) -> None:
        units = len(conserved)
        rule_of = torch.zeros(units, dtype=torch.int64) if rule_of is None else rule_of
        rule_of = rule_of.to(conserved.device)
        self._rows: dict[str, slice] = {}
        self._silent: dict[str, Tensor] = {}
        """Of a law that some rules lack, where it predicts nothing, bool [units]."""
        states = [conserved.new_zeros(0, units)]  # where there is no law
        rows = 0
        for name in dict.fromkeys(name for one in laws for name in one):
            starts = [
                one[name].start(conserved, degree, before) if name in one else None
                for one, before in zip(laws, carried or [None] * len(laws), strict=True)
            ]
            height = max(len(start) for start in starts if start is not None)
            state = conserved.new_zeros(height, units)
            for rule, start in enumerate(starts):
                here = rule_of == rule
                if start is None:
                    silent = self._silent.setdefault(name, torch.zeros_like(here))
                    silent |= here
                else:
                    state[: len(start)] = torch.where(here, start, state[: len(start)])
            states.append(state)
            self._rows[name] = slice(rows, rows + height)
            rows += height
        self.state = torch.cat(states)
        """Of all laws, [rows, units]. Set it in place."""
        key = rule_of * _MOST_DEGREES + degree.long()
        kinds, which = torch.unique(key, return_inverse=True)
        self._kinds = [divmod(kind, _MOST_DEGREES) for kind in kinds.tolist()]
        """The rule and the degree of each kind of unit."""
        size = self.state.numel()
        places = torch.arange(size, device=which.device).view_as(self.state)
        self._chosen = (places + size * which).flatten()
        """The index of each state entry in the flattened product for all kinds of unit."""
        columns = rows + Input.count(momentum)
        self._matrices = conserved.new_zeros(len(self._kinds), rows, columns)
        self._prepared: list[Rule] = []

    @property
    def by_law(self) -> dict[str, Tensor]:
        """The rows of the state that belong to each law."""
        return {name: self.state[rows] for name, rows in self._rows.items()}

    def continue_from(self, by_law: Mapping[str, Tensor]) -> None:
        """Go on from `by_law` of the same units, as far as their laws are the same."""
        for name, place in self.by_law.items():
            rows = by_law.get(name, place)[: len(place)]
            place[: len(rows)].copy_(rows)

    @property
    def exact(self) -> Tensor:
        """Q by the law `exact`, which every rule has, [units]: a view of the state."""
        return self.state[self._rows["exact"].start]

    @property
    def predicted(self) -> dict[str, Tensor]:
        """Q by law, each [units]: views of the state, which `advance` changes."""
        found = {name: self.state[rows.start] for name, rows in self._rows.items()}
        for name, silent in self._silent.items():
            found[name] = found[name].masked_fill(silent, torch.nan)
        return found

    def prepare(self, rules: Sequence[Rule]) -> None:
        """Make the matrices of the next update and copy them to the device, without waiting."""
        if list(rules) == self._prepared:
            return
        self._prepared = list(rules)
        matrices = torch.zeros(self._matrices.shape, dtype=torch.float64)
        state = len(self.state)
        for place, (number, degree) in zip(matrices, self._kinds, strict=True):
            rule = rules[number]
            for name, law in rule.laws.items():
                matrix = law.matrix(degree, rule.lr, rule.first)
                height, width = matrix.shape
                first = self._rows[name].start
                place[first : first + height, first : first + height] = matrix[:, :height]
                place[first : first + height, state : state + width - height] = matrix[:, height:]
        if self._matrices.is_cuda:
            matrices = matrices.pin_memory()
        self._matrices.copy_(matrices, non_blocking=True)

    def advance(self, inputs: Tensor) -> None:
        """Advance all laws by one update, in place and on the device alone.

        inputs: float64 [3 or 5, units], in the order of `Input`.
        """
        by_kind = self._matrices @ torch.cat([self.state, inputs])
        torch.index_select(by_kind.flatten(), 0, self._chosen, out=self.state.view(-1))
