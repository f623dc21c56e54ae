"""What drives the norm of all that scales the outputs: S = sum of z dL/dz over the outputs z."""

import logging
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from symrun.symmetry import Group

_LOG = logging.getLogger(__name__)
_CHANGED = (
    "homogeneity: the outputs were changed in place after the forward pass, so that their source "
    "is not known and counts as 0: change a copy, outputs.clone()"
)
_BLOCK = 2**22
"""Entries that are multiplied in float64 at a time: the outputs of a language model are large."""


class OutputSource:
    """Adds up S over the backward passes of an update, on the device and in float64.

    Call `watch` with the outputs of each forward pass, as the model returns them. The backward pass
    then finds its S, which counts if the pass adds to the gradients of the parameters; it waits for
    nothing and changes nothing. S lasts as long as these gradients: until they are None or all 0,
    as zero_grad() leaves them. An output of infinite size whose gradient is 0, as behind a mask,
    adds 0. Outputs that were changed in place are not known any more: they add 0, with a warning.

    group: of homogeneity. averaged: the processes whose gradients are averaged; None: this alone.
    Assumes: the loss depends on the parameters through the watched outputs alone, and nothing
    changes gradients between backward and update.
    Error: rounding of the outputs and their gradients, in the type that they have.
    Example:
        from symrun.symmetry.homogeneity import find_homogeneity

        source = OutputSource(model, find_homogeneity(model, images))
        outputs = model(images)
        source.watch(outputs)
        torch.nn.functional.cross_entropy(outputs, labels).backward()
        source.taken()
    """

    def __init__(
        self, model: nn.Module, group: Group, averaged: "dist.ProcessGroup | None" = None
    ) -> None:
        self._averaged = averaged
        self.handles: list[RemovableHandle] = []
        """Of the hooks that it works by; who adds one to the model leaves its handle here."""
        self._members = [model.get_parameter(one.parameter) for one in reversed(group.members)]
        self._witness = self._members[0]
        self._choose_witness()
        self._sum = torch.zeros((), dtype=torch.float64, device=self._witness.device)
        self._pending = torch.zeros_like(self._sum)
        """S of the backward pass that is under way, until it reaches the parameters."""
        self._pass = -1
        """Torch's number of that pass."""
        self._warned = False
        self.fed = False
        """Whether a backward pass went through the outputs since `taken`."""

    def watch(self, outputs: Tensor) -> None:
        if not outputs.requires_grad:
            return
        if not self._witness.requires_grad:  # frozen since then
            self._choose_witness()
        outputs.register_hook(partial(self._add, outputs.detach(), outputs._version))

    def taken(self) -> Tensor:
        """S of the next update, float64 []; 0 if it is not finite. With `averaged` all processes
        call it, and each gets the mean."""
        total = self._sum.clone()
        if self._averaged is not None:
            dist.all_reduce(total, group=self._averaged)
            total /= dist.get_world_size(self._averaged)
        self.fed = False
        return torch.where(total.isfinite(), total, 0.0)

    def _choose_witness(self) -> None:
        """The parameter whose gradient tells whether those of a backward pass are there."""
        for one in self._members:
            if one.requires_grad:
                self._witness = one
                self.handles.append(one.register_post_accumulate_grad_hook(self._commit))
                return

    @torch.no_grad()
    def _add(self, outputs: Tensor, version: int, gradient: Tensor) -> None:
        self._begin(outputs.device)
        self.fed = True
        if outputs._version != version:
            if not self._warned:
                _LOG.warning(_CHANGED)
            self._warned = True
            return
        blocks = (one.reshape(-1).split(_BLOCK) for one in (outputs, gradient))
        for values, steepness in zip(*blocks, strict=True):
            products = values.double() * steepness.double()
            self._pending.add_(torch.where(steepness == 0, 0.0, products).sum())

    def _begin(self, device: torch.device) -> None:
        """Forget what an earlier pass left, if this is another one."""
        number = torch._C._current_graph_task_id()
        if number == self._pass:
            return
        self._pass = number
        self._sum, self._pending = self._sum.to(device), self._pending.to(device)
        self._pending.zero_()
        gradient = self._witness.grad
        if gradient is None:
            self._sum.zero_()
        else:
            there = (gradient != 0).any().to(device)
            self._sum.copy_(torch.where(there, self._sum, 0.0))

    @torch.no_grad()
    def _commit(self, _: Tensor) -> None:
        self._sum.add_(self._pending)
        self._pending.zero_()
