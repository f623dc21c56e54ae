"""Says which row and column sums of the parameters make up each unit, and adds them up."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun.errors import RunError
from symrun.symmetry import Group, Members
from symrun.symmetry.lines import lines_by_unit


class Lines(NamedTuple):
    """Sums over lines of a parameter, rows (axis 0) or columns (axis 1), that units need.

    units, parts: as in `Members`. degree: 1 sums theta, 2 sums products.
    """

    axis: int
    units: tuple[int, ...]
    degree: int
    parts: int = 1


class Layout:
    """Adds sums over single lines of a matrix up to sums over units, one slot per unit.

    units: int64 [lines], the unit of each line; -1: none. first: the slot of unit 0; the slots of
    the other units follow. count: the number of units.
    """

    def __init__(self, units: Tensor, first: int, device: torch.device) -> None:
        self.count = int(units.max()) + 1
        self.slots = torch.where(units < 0, -1, first + units)
        """The slot of each line, int64 [lines], on the CPU; -1: none."""
        table, in_order = lines_by_unit(units, self.count), torch.arange(len(units))
        neighbours = torch.equal(table.T.flatten(), in_order)
        self._single = len(table) == 1
        self._summed, self._shape = (2, table.T.shape) if neighbours else (1, table.shape)
        self._index: Tensor | None = None
        if not neighbours and not torch.equal(table.flatten(), in_order):
            self._index = table.flatten().to(device)

    def by_unit(self, sums: Tensor) -> Tensor:
        """Sums over single lines, [planes, lines], as sums over units, [planes, count].

        It uses no atomics, so every call gives the same bits, on a GPU too.
        """
        if self._index is not None:
            sums = F.pad(sums, (0, 1)).index_select(1, self._index)
        return sums if self._single else sums.view(-1, *self._shape).sum(self._summed)


class Pass(NamedTuple):
    """The row and column layouts of one degree, summed in one pass over a matrix."""

    degree: int
    rows: list[Layout]
    columns: list[Layout]


class Source:
    """One parameter, or several vectors concatenated, as a matrix [rows, columns].

    A weight's columns are in memory order, so that nothing is copied. If lines need parts, the
    matrix is [rows of a part, parts, columns]: sums over the last axis are those of all rows, and
    sums over the first are those of the columns of all parts.

    lines: the sums that units need. Their slots start at `first_slot`, in the order of the layouts
    in `passes`, rows before columns.
    parts: the fewest into which the parts of all lines can be cut. columns: those of one part.
    lenient: whether a parameter may lack a gradient, which counts as 0 then.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        lines: Iterable[Lines],
        first_slot: int,
        lenient: bool = False,
    ) -> None:
        self.parameters = parameters
        self._lenient = lenient
        self.slots = 0
        self.first_slots: dict[Lines, int] = {}
        first = next(iter(parameters.values()))
        self._shape = first.shape
        self._order = [0, *sorted(range(1, first.dim()), key=first.stride, reverse=True)]
        lines = sorted(lines, key=lambda one: (-one.degree, one.axis))
        self.parts = math.lcm(*(one.parts for one in lines))
        self.columns = math.prod(self._shape[1:])
        passes: dict[int, Pass] = {}
        for one in lines:
            slot = self.first_slots[one] = first_slot + self.slots
            layout = Layout(self._as_in_memory(one), slot, first.device)
            self.slots += layout.count
            here = passes.setdefault(one.degree, Pass(one.degree, [], []))
            (here.columns if one.axis else here.rows).append(layout)
        self.passes = list(passes.values())

    def _as_in_memory(self, lines: Lines) -> Tensor:
        """The unit of each row, or of each column of the matrix, int64."""
        units = torch.tensor(lines.units)
        if lines.axis == 0:
            return units.view(self.parts, -1).T.flatten()
        units = units.view(lines.parts, 1, *self._shape[1:])
        units = units.expand(-1, self.parts // lines.parts, *self._shape[1:])
        return units.permute(0, 1, *(axis + 1 for axis in self._order[1:])).flatten()

    @property
    def dense(self) -> bool:
        """Whether each parameter's matrix is contiguous in memory."""
        return all(
            parameter.permute(self._order[: parameter.dim()]).is_contiguous()
            for parameter in self.parameters.values()
        )

    def weights(self) -> Tensor:
        return self.matrix(self.parameters.values())

    def gradients(self) -> Tensor:
        """Error: RunError if a parameter has none."""
        return self.matrix(self.single_gradients())

    def single_gradients(self) -> list[Tensor]:
        """The gradient of each parameter. Error: RunError if one has none."""
        found = []
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None and self._lenient:
                gradient = torch.zeros_like(parameter)
            if gradient is None:
                raise RunError(f"{name} has no gradient: the loss does not depend on it")
            found.append(gradient.to_dense() if gradient.is_sparse else gradient)
        return found

    def matrix(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors shaped as the parameters are, such as gradients, as the matrix."""
        if len(self._shape) < 2:
            matrix = torch.cat([tensor.view(-1) for tensor in tensors])[:, None]
        else:
            (tensor,) = tensors
            matrix = tensor.permute(self._order).reshape(len(tensor), -1)
        if self.parts == 1:
            return matrix
        return matrix.view(self.parts, -1, self.columns).movedim(0, 1)


class Reductions:
    """The sums that make up the units of `groups`, one slot each; the last slot holds 0.

    A sum belongs to one unit and one parameter. Groups with the same units over a parameter share
    their sums, whatever their signs.

    Tensors of slots are float64 [planes, slots], those of units [planes, units]. A plane is one
    summed quantity; the units of one group follow those of the group before. lenient: as in Source.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], lenient: bool = False) -> None:
        self._lenient = lenient
        parameters = dict(model.named_parameters())
        self.device = next(iter(parameters.values())).device
        self.count = 0
        self.sources: list[Source] = []
        first_slots = self._add_sources(parameters, groups)

        units = sum(group.units for group in groups)
        most = max((len(group.members) for group in groups), default=0)
        index = torch.full((most, units), self.count)
        sign = torch.zeros(most, units, dtype=torch.float64)
        degree = torch.empty(units, dtype=torch.float64)
        start = 0
        for group in groups:
            degree[start : start + group.units] = group.symmetry.degree
            for number, members in enumerate(group.members):
                here = slice(start, start + members.count)
                first = first_slots[members.parameter, _lines(group, members)]
                index[number, here] = first + torch.arange(members.count)
                sign[number, here] = members.sign
            start += group.units
        self.count += 1
        self.degree = degree.to(self.device)
        self._index, self._sign = index.to(self.device), sign.to(self.device)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all sources, in the order in which the kernels number them."""
        return [parameter for source in self.sources for parameter in source.parameters.values()]

    def signed(self, slots: Tensor) -> Tensor:
        """[planes, slots] -> [planes, units], with the signs of the members: the reducer B.

        It needs no other sum for a sign of -2 than for one of -1, because B is linear in the signs:
        Q = B(theta, theta), the defect is B(theta, g), the force B(g, g).
        """
        return (self._gathered(slots) * self._sign).sum(1)

    def unsigned(self, slots: Tensor) -> Tensor:
        """[planes, slots] -> [planes, units], with the size of the members' signs.

        The scale of a quantity that `signed` gives: what its terms add up to without cancelling.
        """
        return (self._gathered(slots) * self._sign.abs()).sum(1)

    def _gathered(self, slots: Tensor) -> Tensor:
        return slots.index_select(1, self._index.flatten()).view(-1, *self._index.shape)

    def _add_sources(
        self, parameters: dict[str, nn.Parameter], groups: Sequence[Group]
    ) -> dict[tuple[str, Lines], int]:
        """Returns the slot of unit 0, by parameter and lines.

        Vectors with one unit per entry are many and small, so they share one source, with scalars.
        """
        joined: dict[int, dict[str, nn.Parameter]] = {}
        matrices: dict[str, dict[Lines, None]] = {}
        for group in groups:
            for members in group.members:
                name, lines = members.parameter, _lines(group, members)
                own_units = lines.units == tuple(range(members.count))
                if own_units and lines.axis == 0 and parameters[name].dim() < 2:
                    joined.setdefault(lines.degree, {})[name] = parameters[name]
                else:
                    matrices.setdefault(name, {})[lines] = None
        first_slots: dict[tuple[str, Lines], int] = {}
        for degree, vectors in joined.items():
            slot = self.count
            for name, vector in vectors.items():
                first_slots[name, Lines(0, tuple(range(vector.numel())), degree)] = slot
                slot += vector.numel()
            whole = Lines(0, tuple(range(slot - self.count)), degree)
            self._add(Source(vectors, [whole], self.count, self._lenient))
        for name, needed in matrices.items():
            matrix = {name: parameters[name]}
            source = self._add(Source(matrix, needed, self.count, self._lenient))
            first_slots |= {(name, lines): slot for lines, slot in source.first_slots.items()}
        return first_slots

    def _add(self, source: Source) -> Source:
        self.sources.append(source)
        self.count += source.slots
        return source


def _lines(group: Group, members: Members) -> Lines:
    """The parts of a depthwise convolution are single rows: as rows they need fewer tiles."""
    degree, units = group.symmetry.degree, members.units
    if members.length == 1 < members.parts:
        width = len(units) // members.parts
        rows = units[::width]
        if units == tuple(unit for unit in rows for _ in range(width)):
            return Lines(0, rows, degree)
    return Lines(members.axis, units, degree, members.parts)
