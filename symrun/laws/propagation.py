"""All laws of a run at once: one update is one matrix for each degree."""

from collections.abc import Mapping

import torch
from torch import Tensor

from symrun.laws.law import Input, Law


class Propagation:
    """Advances all laws of all units by one update in one matrix product.

    conserved, degree: float64 [units], Q_0 and k. momentum: whether the optimiser has any, which
    decides what inputs there are.

    Assumes: finite states. One law's overflow makes all of that unit NaN, once a run has diverged.
    Error: rounding. From `prepare`, ValueError for a degree for which a law does not hold.
    Example:
        conserved, degree = torch.ones(3).double(), torch.tensor([1.0, 2.0, 2.0])
        propagation = Propagation(laws, conserved, degree, momentum=False)
        propagation.prepare(lr=0.1, first=True)
        propagation.advance(torch.zeros(2, 3).double())
        propagation.predicted["exact"]
    """

    def __init__(
        self, laws: Mapping[str, Law], conserved: Tensor, degree: Tensor, momentum: bool
    ) -> None:
        self._laws = laws
        starts = [law.start(conserved, degree) for law in laws.values()]
        self._state = torch.cat([*starts, conserved.new_empty(0, len(conserved))])
        rows = 0
        self._rows: dict[str, slice] = {}
        for name, start in zip(laws, starts, strict=True):
            self._rows[name] = slice(rows, rows + len(start))
            rows += len(start)
        degrees, which = torch.unique(degree, return_inverse=True)
        self._degrees = [int(k) for k in degrees.tolist()]
        size = self._state.numel()
        places = torch.arange(size, device=which.device).view_as(self._state)
        self._chosen = (places + size * which).flatten()
        """The index of each state entry in the flattened product for all degrees."""
        columns = rows + Input.count(momentum)
        self._matrices = conserved.new_zeros(len(self._degrees), rows, columns)
        self._prepared: tuple[float, bool] | None = None

    @property
    def state(self) -> Tensor:
        """The state of all laws, [rows, units]. Set it in place."""
        return self._state

    @property
    def predicted(self) -> dict[str, Tensor]:
        """Q by law, each [units]: views of the state, which `advance` changes."""
        return {name: self._state[rows.start] for name, rows in self._rows.items()}

    def prepare(self, lr: float, first: bool) -> None:
        """Make the matrices of the next update and copy them to the device, without waiting."""
        if (lr, first) == self._prepared:
            return
        self._prepared = lr, first
        matrices = torch.zeros(self._matrices.shape, dtype=torch.float64)
        for place, degree in zip(matrices, self._degrees, strict=True):
            for name, rows in self._rows.items():
                matrix = self._laws[name].matrix(degree, lr, first)
                height = len(matrix)
                place[rows, rows] = matrix[:, :height]
                place[rows, len(self._state) :] = matrix[:, height:]
        if self._matrices.is_cuda:
            matrices = matrices.pin_memory()
        self._matrices.copy_(matrices, non_blocking=True)

    def advance(self, inputs: Tensor) -> None:
        """Advance all laws by one update, in place and on the device alone.

        inputs: float64 [2 or 4, units], in the order of `Input`.
        """
        by_degree = self._matrices @ torch.cat([self._state, inputs])
        torch.index_select(by_degree.flatten(), 0, self._chosen, out=self._state.view(-1))
