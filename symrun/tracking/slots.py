"""Sums over the rows and columns of parameters, and how units are made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from symrun.errors import RunError
from symrun.symmetry import Block, Group


@dataclass(frozen=True)
class Columns:
    """Sums over columns, units and all else of a block's `shape` [rows, units, ...], in `slots`.

    linear: sums of theta and g for a linear reducer, not of products for a quadratic one.
    """

    shape: tuple[int, ...]
    linear: bool
    slots: slice


@dataclass
class Source:
    """One parameter, or all vectors one after the other, as a matrix [rows, columns].

    A weight's columns stand in the order in which they lie in memory, so that none is copied.
    rows: the slots of the sums over rows; None if no unit needs them.
    """

    parameters: dict[str, nn.Parameter]
    rows: slice | None = None
    columns: list[Columns] = field(default_factory=list)

    def __post_init__(self) -> None:
        first = next(iter(self.parameters.values()))
        self._shape = first.shape
        self._order = sorted(range(1, first.dim()), key=first.stride, reverse=True)

    @property
    def dense(self) -> bool:
        """Whether a parameter's matrix is its memory as it lies, row after row, with no gaps."""
        return all(
            parameter.permute(0, *self._order).is_contiguous()
            for parameter in self.parameters.values()
        )

    @property
    def reducers(self) -> list[bool]:
        """Whether linear: of the kinds of reducers that units here need."""
        quadratic = self.rows is not None or self.columns_of(linear=False)
        return [False] * bool(quadratic) + [True] * bool(self.columns_of(linear=True))

    def columns_of(self, linear: bool) -> list[Columns]:
        return [columns for columns in self.columns if columns.linear == linear]

    def weights(self) -> Tensor:
        return self.matrix(self.parameters.values())

    def gradients(self) -> Tensor:
        """Error: RunError if a parameter has none."""
        return self.matrix(self.single_gradients())

    def single_gradients(self) -> list[Tensor]:
        """As the parameters have them. Error: RunError if one has none."""
        found = []
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                raise RunError(f"{name} has no gradient: the loss does not depend on it")
            found.append(parameter.grad)
        return found

    def matrix(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors shaped as the parameters are, such as gradients, as [rows, columns]."""
        if len(self._shape) == 1:
            return torch.cat(list(tensors))[:, None]
        (tensor,) = tensors
        return tensor.permute(0, *self._order).reshape(len(tensor), -1)

    def by_unit(self, sums: Tensor, columns: Columns) -> Tensor:
        """Sums over single columns, [planes, columns], as sums over units, [planes, units]."""
        return self.ordered_by_unit(sums, columns).sum(2)

    def ordered_by_unit(self, sums: Tensor, columns: Columns) -> Tensor:
        """Sums over single columns, [planes, columns], as [planes, units, columns of a unit]."""
        if not self._order:
            return sums[:, :, None]
        sizes = [self._shape[axis] for axis in self._order]
        back = [1 + self._order.index(axis) for axis in sorted(self._order)]
        planes, units = len(sums), columns.shape[1]
        return sums.view(planes, *sizes).permute(0, *back).reshape(planes, units, -1)


class Slots:
    """All sums that the units of `groups` are made of, a slot each; the last slot holds 0.

    Tensors of slots are float64 [planes, slots], of units [planes, units], where a plane is one
    summed quantity and the units of the groups lie one after the other.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        parameters = dict(model.named_parameters())
        self.device = next(iter(parameters.values())).device
        self.sources: list[Source] = []
        self.count = 0
        places = self._places(parameters, groups)

        units = sum(group.units for group in groups)
        most = max((len(group.blocks) for group in groups), default=0)
        index = torch.full((most, units), self.count)
        sign = torch.zeros(most, units, dtype=torch.float64)
        degree = torch.empty(units, dtype=torch.float64)
        start = 0
        for group in groups:
            here = slice(start, start + group.units)
            start += group.units
            degree[here] = group.symmetry.degree
            for number, block in enumerate(group.blocks):
                index[number, here] = torch.arange(self.count)[places[_key(group, block)]]
                sign[number, here] = block.sign
        self.count += 1
        self.degree = degree.to(self.device)
        self._index, self._sign = index.to(self.device), sign.to(self.device)

    def signed(self, slots: Tensor) -> Tensor:
        """What enters a unit counts against what leaves it: [planes, slots] -> [planes, units]."""
        return (self._gathered(slots) * self._sign).sum(1)

    def unsigned(self, slots: Tensor) -> Tensor:
        return (self._gathered(slots) * self._sign.abs()).sum(1)

    def _gathered(self, slots: Tensor) -> Tensor:
        return slots.index_select(1, self._index.flatten()).view(-1, *self._index.shape)

    def _places(
        self, parameters: dict[str, nn.Parameter], groups: Sequence[Group]
    ) -> dict["_Key", slice]:
        """Give each sum that is needed its slots."""
        places: dict[_Key, slice] = {}
        vectors: dict[str, nn.Parameter] = {}
        matrices: dict[str, Source] = {}
        first = self.count
        keyed = {_key(group, block): block for group in groups for block in group.blocks}
        for key, block in keyed.items():
            parameter = parameters[block.parameter]
            if block.unit_axis == 0 and parameter.dim() == 1:
                vectors[block.parameter] = parameter
                places[key] = self._take(len(parameter))
        if vectors:
            self.sources.append(Source(vectors, slice(first, self.count)))
        for key, block in keyed.items():
            if key in places:
                continue
            name = block.parameter
            source = matrices.setdefault(name, Source({name: parameters[name]}))
            units = places[key] = self._take(block.shape[block.unit_axis])
            if block.unit_axis == 0:
                source.rows = units
            else:
                source.columns.append(Columns(block.shape, key.linear, units))
        self.sources += matrices.values()
        return places

    def _take(self, slots: int) -> slice:
        self.count += slots
        return slice(self.count - slots, self.count)


@dataclass(frozen=True)
class _Key:
    """Blocks with the same key share their sums, whatever their signs."""

    parameter: str
    shape: tuple[int, ...]
    unit_axis: int
    linear: bool


def _key(group: Group, block: Block) -> _Key:
    return _Key(block.parameter, block.shape, block.unit_axis, group.symmetry.degree == 1)
