"""A network whose parameters are shards, as the symmetries are found and proven on it: whole."""

import contextlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from symrun.attached.ranks import Ranks
from symrun.symmetry.stand_ins import stand_ins, standing_in, untouched
from symrun.tracking.shares import Shares

_OF_RANKS = "torch.distributed."
"""Modules of torch whose hooks gather parameters and spread what a module takes and returns."""


@contextlib.contextmanager
def whole_on_first(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Within it `model` has whole parameters on the first rank, in host memory, and none of the
    hooks that gather them. On the other ranks it has empty ones and cannot run.

    One parameter at a time passes from rank to rank, over the host: no accelerator holds more than
    its shard. All ranks call it; afterwards the model is as it was.
    """
    if ranks.alone:
        yield
        return
    shares = Shares(model)
    tensors = stand_ins(model, lambda tensor: _gathered(tensor, shares, ranks))
    with untouched(model):
        for module in model.modules():
            attributes = vars(module)  # which no class redirects, as that of torch.compile does
            for name in ("_forward_pre_hooks", "_forward_hooks"):
                hooks = attributes[name].items()
                attributes[name] = OrderedDict(one for one in hooks if not _of_ranks(one[1]))
        with standing_in(model, tensors):
            yield


@torch.no_grad()
def _gathered(tensor: Tensor, shares: Shares, ranks: Ranks) -> Tensor:
    """A parameter or buffer as a whole on the first rank, on the CPU; an empty one elsewhere."""
    if not isinstance(tensor, nn.Parameter):
        return tensor.to("cpu", copy=True) if ranks.first else tensor.new_empty(0)
    share = shares.share_of(tensor)
    parts = ranks.gathered((share.axes, share.of(tensor).cpu()))
    whole = torch.empty(tensor.shape if ranks.first else (0,), dtype=tensor.dtype)
    for axes, part in parts:  # an index of each axis along that axis: none of every entry
        places = [one[(...,) + (None,) * (len(axes) - 1 - axis)] for axis, one in enumerate(axes)]
        (whole if whole.dim() else whole.view(1))[tuple(places)] = part
    return whole


def _of_ranks(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_OF_RANKS)
