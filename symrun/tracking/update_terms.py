"""What an update does to each unit, in terms: its projection on the symmetry, and its own size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from symrun.laws import DiscreteLaw, Input, ObservedUpdate, Rule
from symrun.tracking.dynamics import dynamics
from symrun.tracking.parts import PartMeasures


class UpdateTerms:
    """Columns about the update that follows a record.

        theta_{n+1} = s theta_n - eta u_n,   s = 1 - eta lambda with decoupled weight decay, else 1
        projection       B(theta_n, u_n), or the sum of u_n
        discretisation   eta^2 B(u_n, u_n), 0 for a linear quantity
        effective_lr, angle   as in `dynamics`

    Units whose parameters have different settings have s = 1, and no projection if these are
    learning rates. All follow from what the laws take in and from the change of Q, so nothing more
    is measured.
    """

    def __init__(self, measures: PartMeasures) -> None:
        self._rule_of, self._degree = measures.rule_of, measures.degree
        self._of_scale = measures.of_scale
        self._quadratic = (measures.degree > 1).to(measures.degree)
        self._factors = measures.degree.new_zeros(len(measures.parts), 6)
        self._prepared: list[Rule] = []

    def prepare(self, rules: Sequence[Rule]) -> None:
        """Copy what `columns` needs of the next update to the device, without waiting."""
        if list(rules) == self._prepared:
            return
        self._prepared = list(rules)
        factors = torch.tensor([_factors(rule) for rule in rules], dtype=torch.float64)
        if self._factors.is_cuda:
            factors = factors.pin_memory()
        self._factors.copy_(factors, non_blocking=True)

    def columns(self, measured: Tensor, inputs: Tensor, lost: Tensor) -> dict[str, Tensor]:
        """Each float64 [units].

        measured: Q_n. inputs: of the laws. lost: Q_n - Q_{n+1}, by the law `exact`.
        """
        factors = self._factors.index_select(0, self._rule_of).T
        of_force, of_defect, of_quantity, of_update, lr, shrunk = factors
        size = of_force * inputs[Input.force]
        size += of_defect * inputs[Input.defect] + of_quantity * measured
        if len(inputs) > Input.update_sq:
            size += of_update * inputs[Input.update_sq]
        size *= self._quadratic
        along = (lost + size) / self._degree
        return {
            "projection": (along - shrunk * measured) / lr,
            "discretisation": self._quadratic * (size - 2 * shrunk * along + shrunk**2 * measured),
            **dynamics(measured, along, size, lr, self._of_scale),
        }


def _factors(rule: Rule) -> tuple[float, ...]:
    """What B(w, w) of the step w = theta_n - theta_{n+1} is made of: force, defect, Q, B(u, u);
    then eta, NaN if it is 0 or there is no single one, and 1 - s."""
    exact, lr = rule.laws["exact"], rule.lr or math.nan
    if isinstance(exact, ObservedUpdate):
        return 1.0, 0.0, 0.0, 0.0, lr, rule.lr * exact.decay
    assert isinstance(exact, DiscreteLaw)
    decay, lr_sq = exact.sgd.weight_decay, rule.lr**2
    if exact.sgd.momentum:
        return 0.0, 0.0, 0.0, lr_sq, lr, 0.0
    return lr_sq, 2 * decay * lr_sq, decay**2 * lr_sq, 0.0, lr, 0.0
