"""What drives the norm of all that scales the outputs: S = sum of z dL/dz over the outputs z."""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from symrun.laws import Input
from symrun.symmetry import Group

_BLOCK = 2**22
"""Entries that are multiplied in float64 at a time: the outputs of a language model are large."""


class OutputSource:
    """Adds up S over the backward passes of an update, on the device and in float64.

    Call `watch` with the outputs of each forward pass, as the model returns them. The backward pass
    then adds its S, just as it adds to the gradients; it waits for nothing and changes nothing. A
    sum whose gradients were thrown away without an update, by zero_grad(), is thrown away too.

    group: of homogeneity. averaged: the processes whose gradients are averaged; None: this alone.
    Assumes: the loss depends on the parameters through the watched outputs alone, and nothing
    changes gradients between backward and update.
    Error: rounding of the outputs and their gradients, in the type that they have.
    Example:
        source = OutputSource(model, group)
        outputs = model(images)
        source.watch(outputs)
        torch.nn.functional.mse_loss(outputs, targets).backward()
        source.taken()
    """

    def __init__(
        self, model: nn.Module, group: Group, averaged: "dist.ProcessGroup | None" = None
    ) -> None:
        self._averaged = averaged
        self._witness = model.get_parameter(group.members[-1].parameter)
        """Its gradient tells whether those of the last backward pass are still there."""
        self.handles = [self._witness.register_post_accumulate_grad_hook(self._note)]
        """Of the hooks that it works by; who adds one to the model leaves its handle here."""
        self._accumulated = False
        self._sum = torch.zeros((), dtype=torch.float64, device=self._witness.device)
        self.fed = False
        """Whether a backward pass went through the outputs since `taken`."""

    def watch(self, outputs: Tensor) -> None:
        if outputs.requires_grad:
            outputs.register_hook(partial(self._add, outputs.detach()))

    def taken(self) -> Tensor:
        """S of the next update, float64 []; it begins anew. With `averaged` all processes call it,
        and each gets the mean."""
        total = self._sum.clone()
        if self._averaged is not None:
            dist.all_reduce(total, group=self._averaged)
            total /= dist.get_world_size(self._averaged)
        self._sum.zero_()
        self._accumulated = self.fed = False
        return total

    @torch.no_grad()
    def _add(self, outputs: Tensor, gradient: Tensor) -> None:
        if self._sum.device != outputs.device:
            self._sum = self._sum.to(outputs.device)
        if self._accumulated and self._witness.grad is None:
            self._sum.zero_()
            self._accumulated = False
        blocks = (one.reshape(-1).split(_BLOCK) for one in (outputs, gradient))
        for values, steepness in zip(*blocks, strict=True):
            self._sum.add_((values.double() * steepness.double()).sum())
        self.fed = True

    def _note(self, _: Tensor) -> None:
        self._accumulated = True


def with_source(inputs: Tensor, source: Tensor) -> Tensor:
    """`inputs` of the laws with h S in its place, and without it in the defect; [3 or 5, units].

    source: h S of each unit, 0 but for homogeneity, [units].
    """
    found = inputs.clone()
    found[Input.source] = source
    found[Input.defect] -= source
    return found
