"""Loss and accuracy, summed on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symrun import ranks
from symrun.tracking.staging import Staged


class Scores:
    """Sums of loss and hits over labels, kept on the device; no call waits for it.

    Each process has its own, and all of them read at the same update.
    """

    def __init__(self, device: torch.device) -> None:
        # loss, hits in the first, hits in the first five, labels, batches whose loss was finite
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, outputs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """outputs [..., classes], labels [...], loss: mean over the labels."""
        first = outputs.topk(min(5, outputs.shape[-1]), dim=-1).indices
        hits = first == labels[..., None]
        count = labels.numel()
        hits_1, hits_5 = hits[..., 0].sum(), hits.sum()
        added: list[Tensor | int] = [loss * count, hits_1, hits_5, count, loss.isfinite()]
        for place, value in enumerate(added):
            self.sums[place].add_(value)  # `sums[0] += x` would copy the sum onto itself as well

    def read_and_reset(self) -> Staged:
        """The sums so far over all processes, on their way to the host; counting starts again."""
        staged = Staged(self.sums if ranks.count() == 1 else _total(ranks.gathered(self.sums)))
        self.sums.zero_()  # in place: a graph adds to it there
        return staged

    def state(self) -> Tensor:
        """What `restore` takes, for all processes together."""
        return self.sums if ranks.count() == 1 else ranks.gathered(self.sums)

    def restore(self, state: Tensor) -> None:
        """Error: RuntimeError for another shape."""
        rows = state.view(-1, len(self.sums))
        if len(rows) != ranks.count():  # the first process has all that there was
            total = _total(rows)
            rows = torch.zeros(ranks.count(), len(total), dtype=total.dtype)
            rows[0], rows[:, -1] = total, total[-1]
        self.sums.copy_(rows[ranks.rank()])


def _total(rows: Tensor) -> Tensor:
    """Of the sums of all processes, [processes, 5]. A batch is finite if all of its shares are."""
    return torch.cat([rows[:, :-1].sum(0), rows[:, -1:].amin(0)])


@dataclass(frozen=True)
class Means:
    loss: float
    top1: float
    top5: float
    labels: int
    finite: int
    """Batches whose loss was finite: none after the first that was not, as weights stay nan."""


def means(staged: Staged) -> Means:
    """Waits for the device."""
    loss, top1, top5, labels, finite = staged.wait().tolist()
    return Means(loss / labels, top1 / labels, top5 / labels, int(labels), int(finite))
