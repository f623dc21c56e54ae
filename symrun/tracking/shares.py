"""Which part of each parameter this rank sums, and how the sums of all ranks are added up."""

import math
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from symrun.errors import UsageError


class Share:
    """The entries of one parameter that this rank sums; each entry is in the share of one rank.

    axes: for each axis of the parameter, int64, the places of the entries that are here: the share
    is their product. A scalar counts as a vector of one.
    rows: first and number of those that this rank sums, where others hold the same; None: all.
    """

    def __init__(self, axes: list[Tensor], placements: Any, rows: tuple[int, int] | None) -> None:
        self._placements, self._rows = placements, rows
        if rows is not None:
            axes[0] = axes[0].narrow(0, *rows)
        self.axes = tuple(axes)

    def of(self, tensor: Tensor) -> Tensor:
        """The share of a tensor that is shaped and spread as the parameter is, without a copy."""
        if self._placements is not None:
            tensor = _local(tensor, self._placements)
        if self._rows is None:
            return tensor
        return (tensor if tensor.dim() else tensor.view(1)).narrow(0, *self._rows)


class Shares:
    """Divides a model among ranks: each sums what it holds, and of what several hold, some rows.

    Without ranks and DTensors each share is the whole parameter, and nothing is exchanged.

    ranks: those that add up their sums, all of which must ask for the same sums in the same order;
    None: those of the default process group if a parameter is a DTensor, else this process alone.
    Error: UsageError if this process is not one of them.
    """

    def __init__(self, model: nn.Module, ranks: "dist.ProcessGroup | None" = None) -> None:
        if ranks is None and is_spread(model):
            ranks = dist.group.WORLD
        self._group, self._ranks, self._place = ranks, [0], 0
        if ranks is not None:
            self._place = dist.get_rank(ranks)
            if self._place < 0:
                raise UsageError("this process is not one of the `ranks` that track the model")
            self._ranks = dist.get_process_group_ranks(ranks)
        self.first = self._place == 0
        """Whether this rank is the one that writes."""
        self.single = ranks is None
        """Whether nothing has to be added up."""

    def share_of(self, parameter: Tensor) -> Share:
        """Error: UsageError for a parameter that holds a term of a sum on each rank."""
        axes = [torch.arange(size, device="cpu") for size in parameter.shape or (1,)]
        copies, copy = len(self._ranks), self._place
        placements = getattr(parameter, "placements", None)
        if placements is not None:
            copies, copy = self._divide(axes, parameter)
        if copies == 1:
            return Share(axes, placements, None)
        first, end = (len(axes[0]) * one // copies for one in (copy, copy + 1))
        return Share(axes, placements, (first, end - first) if copy < copies else (0, 0))

    def takes(self, piece: int) -> bool:
        """Whether this rank sums a piece, by its number, of what all ranks hold."""
        return piece % len(self._ranks) == self._place

    def added(self, sums: Tensor) -> Tensor:
        """`sums` of all ranks, added up in place; the host does not wait for a GPU."""
        if self._group is not None:
            dist.all_reduce(sums, group=self._group)
        return sums

    def require_all(self, model: nn.Module) -> None:
        """Error: UsageError if the ranks together do not hold each entry of `model` once."""
        if self._group is None:
            return
        sizes = [[len(axis) for axis in self.share_of(one).axes] for one in model.parameters()]
        device = next(model.parameters()).device
        held = self.added(torch.tensor([math.prod(one) for one in sizes], device=device)).tolist()
        for (name, parameter), count in zip(model.named_parameters(), held, strict=True):
            if count != parameter.numel():
                raise UsageError(
                    f"the ranks hold {count} of the {parameter.numel()} entries of {name}: give as "
                    "`ranks` the process group of all that hold a part of the model"
                )

    def _divide(self, axes: list[Tensor], parameter: Any) -> tuple[int, int]:
        """Leave in `axes` what this rank holds of a DTensor. Returns how many ranks hold the same,
        and which of them this is."""
        mesh = parameter.device_mesh
        copies, copy = 1, 0
        for placement, size, here in zip(
            parameter.placements, mesh.shape, mesh.get_coordinate(), strict=True
        ):
            if placement.is_partial():
                raise UsageError(f"a parameter is {placement}: only a shard or a copy is tracked")
            if placement.is_replicate():
                copies, copy = copies * size, copy * size + here
            else:
                pieces = getattr(placement, "split_factor", 1)
                axis = placement.dim
                axes[axis] = held(axes[axis], size, here, pieces)
        if self._ranks[0] not in mesh.mesh.flatten().tolist():
            return 2, 2  # the mesh of the first rank holds the same
        return copies, copy


def held(entries: Tensor, ranks: int, rank: int, pieces: int = 1) -> Tensor:
    """The entries of an axis that a rank holds: DTensor's Shard, or its _StridedShard, which
    divides each of several pieces.

    Example: held(torch.arange(5), 2, 1).tolist() == [3, 4]
    """

    def chunk(piece: Tensor) -> Tensor:
        height = -(-len(piece) // ranks)
        return piece[rank * height : (rank + 1) * height]

    return torch.cat([chunk(piece) for piece in torch.chunk(entries, pieces)])


def is_spread(model: nn.Module) -> bool:
    """Whether a parameter is a DTensor, as fully_shard and tensor parallelism make them."""
    tensor = sys.modules.get("torch.distributed.tensor")
    kinds = getattr(tensor, "DTensor", ())
    return any(isinstance(one, kinds) for one in model.parameters())


def _local(tensor: Any, placements: Any) -> Tensor:
    if tensor.placements != placements:  # such as a gradient that is still a sum over ranks
        tensor = tensor.redistribute(placements=placements)
    local: Tensor = tensor.to_local()
    return local
