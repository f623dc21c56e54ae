"""All laws of a run at once: one update is one small matrix."""

from collections.abc import Mapping

import torch
from torch import Tensor

from symrun.laws.law import Drive, Law, MomentumDrive


class Propagation:
    """Takes the laws from update to update, all units and all laws in one matrix product.

    A law is linear in its state and in its drive. For one learning rate and one degree an update
    is therefore a matrix, whose columns are where the law's own `advance` sends the basis.

    conserved, degree: float64 [units], Q_0 and k. momentum: whether the drives carry momentum.

    Assumes: finite states. One law's overflow makes all of that unit NaN, once a run has diverged.
    Error: against `advance`, rounding.
    Example:
        laws, _ = laws_of_sgd(SGD(weight_decay=1e-4))
        propagation = Propagation(laws, conserved, degree, momentum=False)
        propagation.prepare(lr=0.1, first=True)
        propagation.advance(drive)
        propagation.predicted["exact"]
    """

    def __init__(
        self, laws: Mapping[str, Law], conserved: Tensor, degree: Tensor, momentum: bool
    ) -> None:
        self._laws = laws
        self._linear = degree == 1
        starts = [law.start(conserved, degree) for law in laws.values()]
        self._state = torch.cat([*starts, conserved.new_empty(0, len(conserved))])
        rows = 0
        self._rows: dict[str, slice] = {}
        for name, start in zip(laws, starts, strict=True):
            self._rows[name] = slice(rows, rows + len(start))
            rows += len(start)
        inputs = 4 if momentum else 2
        self._update = conserved.new_zeros(2, rows, rows + inputs)
        self._prepared: tuple[float, bool] | None = None

    @property
    def state(self) -> Tensor:
        """All that the laws carry along, [rows, units]: in place, and to be set so."""
        return self._state

    @property
    def predicted(self) -> dict[str, Tensor]:
        """Q by law, each [units]: views of the state, which `advance` changes."""
        return {name: self._state[rows.start] for name, rows in self._rows.items()}

    def prepare(self, lr: float, first: bool) -> None:
        """Set the coming update's learning rate, and whether it is the first: on the host, and
        from there to the device without waiting for it."""
        if (lr, first) == self._prepared:
            return
        self._prepared = lr, first
        update = torch.zeros(self._update.shape, dtype=torch.float64)
        for name, rows in self._rows.items():
            for degree, matrix in enumerate(self._matrices(self._laws[name], rows, lr, first)):
                height = len(matrix)
                update[degree, rows, rows] = matrix[:, :height]
                update[degree, rows, len(self._state) :] = matrix[:, height:]
        if self._update.is_cuda:
            update = update.pin_memory()
        self._update.copy_(update, non_blocking=True)

    def advance(self, drive: Drive) -> None:
        """Take all laws over one update: on the device alone, into the same memory each time."""
        inputs = [drive.force, drive.defect]
        if drive.momentum is not None:
            inputs += [drive.momentum.force, drive.momentum.cross]
        linear, quadratic = self._update @ torch.cat([self._state, torch.stack(inputs)])
        torch.where(self._linear, linear, quadratic, out=self._state)

    def _matrices(self, law: Law, rows: slice, lr: float, first: bool) -> tuple[Tensor, Tensor]:
        """From state and inputs to the next state, [rows, rows + inputs], for degree 1 and 2."""
        height = rows.stop - rows.start
        width = height + self._update.shape[2] - len(self._state)
        basis = torch.eye(width, dtype=torch.float64).repeat(1, 2)
        degree = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat_interleave(width)
        force, defect, *carried = basis[height:]
        momentum = MomentumDrive(carried[0], carried[1], first) if carried else None
        sent = law.advance(basis[:height], Drive(degree, force, defect, momentum), lr)
        return sent[:, :width], sent[:, width:]
