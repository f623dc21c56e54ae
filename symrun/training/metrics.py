"""Loss and accuracy, summed on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from symrun.tracking.staging import Staged


class Scores:
    """Sums of loss and hits over labels, kept on the device; no call waits for it."""

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
        """The sums so far, on their way to the host; counting starts again."""
        staged = Staged(self.sums)
        self.sums.zero_()  # in place: a graph adds to it there
        return staged


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
