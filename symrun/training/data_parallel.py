"""One run on several processes: each has a share of every batch, and the gradient is their mean."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from symrun import ranks
from symrun.config import BatchNorm, TrainConfig
from symrun.data.batches import Batches
from symrun.training.batch_norm import batch_norms
from symrun.typed import require


def least_batch(model: nn.Module, settings: TrainConfig) -> int:
    """The fewest examples that can be a batch: one a process, or two where each normalises its own.

    Error: UsageError if train.batch_size is less.
    """
    count = ranks.count()
    if count == 1:
        return 2
    local = settings.batch_norm is BatchNorm.local and bool(batch_norms(model))
    least, norm = (2 * count, " and train.batch_norm=local") if local else (count, "")
    enough = settings.batch_size >= least
    needed = f">= {least} for {count} processes{norm}"
    require("train.batch_size", enough, needed, settings.batch_size)
    return least


class DataParallel:
    """What an update needs when several processes make it together.

    forward: the model as DistributedDataParallel has it. The mean over processes of the weighted
    losses is the mean loss of the whole batch, and so is the gradient that each is left with.
    """

    def __init__(self, model: nn.Module, batches: Batches, settings: TrainConfig, seed: int):
        self._batches, self._seed = batches, seed
        device = next(model.parameters()).device
        wrapped = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=True,
        )
        wrapped.broadcast_buffers = False
        self.forward: Callable[[Tensor], Any] = wrapped
        self._averaged: list[Tensor] = []
        if settings.batch_norm is BatchNorm.local:
            for layer in batch_norms(model):
                statistics = layer.running_mean, layer.running_var
                self._averaged += [one for one in statistics if one is not None]

    def begin(self, step: int) -> None:
        """What a network draws in update `step`, such as dropout, depends on seed, step and process
        alone, so that a run can go on anywhere."""
        key = np.random.SeedSequence((self._seed, step, ranks.rank()))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def weighted(self, loss: Tensor, examples: int, step: int) -> Tensor:
        """The mean loss of this process's `examples` of batch `step`, by how many they are."""
        return loss * (examples * ranks.count() / self._batches.size(step))

    @torch.no_grad()
    def finish(self) -> None:
        """Average the running statistics of batch norms that see a share of the batch each.

        The average of the statistics is the statistics of the average, so that it does not matter
        when it is taken.
        """
        if not self._averaged:
            return
        together = torch.cat(self._averaged)
        ranks.add_up(together)
        parts = (together / ranks.count()).split([len(one) for one in self._averaged])
        torch._foreach_copy_(self._averaged, list(parts))

    def warm_up(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Let torch arrange its buckets of gradients, which it does in the second forward pass.

        Sums depend on the arrangement by rounding, so that a run that goes on would differ by it.
        The network stays as it is.
        """
        kept = [buffer.clone() for buffer in model.buffers()]
        batch = next(self._batches.epoch(1))
        for _ in range(2):
            loss(*batch).backward()
        model.zero_grad()
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), kept, strict=True):
                buffer.copy_(before)
