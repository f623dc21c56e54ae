"""Says which row and column sums of the parameters make up each unit, and adds them up."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symrun.errors import RunError
from symrun.symmetry import Group, Members
from symrun.symmetry.lines import lines_by_unit
from symrun.tracking.shares import Shares


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
    the other units follow. count: the number of units, some of which may have no line here.
    """

    def __init__(self, units: Tensor, first: int, count: int, device: torch.device) -> None:
        self.slots = torch.where(units < 0, -1, first + units)
        """The slot of each line, int64 [lines], on the CPU; -1: none."""
        table, in_order = lines_by_unit(units, count), torch.arange(len(units))
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
        return sums if self._single else sums.view(len(sums), *self._shape).sum(self._summed)


class Pass(NamedTuple):
    """The row and column layouts of one degree, summed in one pass over a matrix."""

    degree: int
    rows: list[Layout]
    columns: list[Layout]


class Source:
    """One parameter, or several vectors concatenated, as a matrix [rows, columns].

    Only the share of this rank is in it. A weight's columns are in memory order, so that nothing is
    copied. If lines need parts, the matrix is [rows of a part, parts, columns]: sums over the last
    axis are those of all rows, and sums over the first are those of the columns of all parts.

    lines: the sums that units need. Their slots start at `first_slot`, in the order of the layouts
    in `passes`, rows before columns.
    parts: the fewest of one height that lie within the parts of all lines. columns: those of one
    part. empty: whether this rank has nothing to sum.
    lenient: whether a parameter may lack a gradient, which counts as 0 then.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        lines: Iterable[Lines],
        first_slot: int,
        shares: Shares,
        lenient: bool = False,
    ) -> None:
        self.parameters = parameters
        self._lenient = lenient
        self._shares = [shares.share_of(parameter) for parameter in parameters.values()]
        self.slots = 0
        self.first_slots: dict[Lines, int] = {}
        first = next(iter(parameters.values()))
        stride = self._shares[0].of(first).stride
        self._shape = first.shape
        self._order = [0, *sorted(range(1, first.dim()), key=stride, reverse=True)]
        self._rows = self._rows_here()
        lines = sorted(lines, key=lambda one: (-one.degree, one.axis))
        self.parts = self._parts(lines)
        self.columns = math.prod(len(axis) for axis in self._shares[0].axes[1:])
        self.empty = len(self._rows) * self.columns == 0
        passes: dict[int, Pass] = {}
        for one in lines:
            slot = self.first_slots[one] = first_slot + self.slots
            count = max(one.units) + 1
            layout = Layout(self._as_in_memory(one), slot, count, first.device)
            self.slots += count
            here = passes.setdefault(one.degree, Pass(one.degree, [], []))
            (here.columns if one.axis else here.rows).append(layout)
        self.passes = list(passes.values())

    def _rows_here(self) -> Tensor:
        """The place of each row among those of all ranks, int64."""
        sizes = [parameter.shape[:1].numel() for parameter in self.parameters.values()]
        starts = torch.tensor([0, *sizes]).cumsum(0)
        pairs = zip(starts, self._shares, strict=False)
        return torch.cat([start + share.axes[0] for start, share in pairs])

    def _parts(self, lines: Iterable[Lines]) -> int:
        height = rows = len(self._rows)
        for parts in {one.parts for one in lines} - {1}:
            part = self._rows // max(1, self._shape[:1].numel() // parts)
            height = math.gcd(height, *(1 + part.diff().nonzero().flatten()).tolist())
        return rows // height if rows else 1

    def _as_in_memory(self, lines: Lines) -> Tensor:
        """The unit of each row, or of each column of the matrix, int64."""
        units = torch.tensor(lines.units)
        if lines.axis == 0:
            return units[self._rows].view(self.parts, -1).T.flatten()
        units = units.view(lines.parts, *self._shape[1:])
        firsts = self._rows[:: max(1, len(self._rows) // self.parts)]
        part = firsts * lines.parts // max(1, self._shape[:1].numel())
        units = units[torch.meshgrid(part, *self._shares[0].axes[1:], indexing="ij")]
        return units.permute(self._order).flatten()

    @property
    def dense(self) -> bool:
        """Whether each parameter's matrix is contiguous in memory."""
        return all(
            parameter.permute(self._order[: parameter.dim()]).is_contiguous()
            for parameter in self.local(self.parameters.values())
        )

    def local(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """This rank's share of tensors that are shaped and spread as the parameters are."""
        return [share.of(tensor) for share, tensor in zip(self._shares, tensors, strict=True)]

    def weights(self) -> Tensor:
        return self.matrix(self.local(self.parameters.values()))

    def gradients(self) -> Tensor:
        """Error: RunError if a parameter has none."""
        return self.matrix(self.single_gradients())

    def single_gradients(self) -> list[Tensor]:
        """The share of each parameter's gradient. Error: RunError if one has none."""
        return self.local(
            gradient_of(name, parameter, self._lenient)
            for name, parameter in self.parameters.items()
        )

    def matrix(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors shaped as the shares are, such as those of gradients, as the matrix."""
        if len(self._shape) < 2:
            matrix = torch.cat([tensor.view(-1) for tensor in tensors])[:, None]
        else:
            (matrix,) = tensors
            if matrix.dim() > 2:
                matrix = matrix.permute(self._order).reshape(len(matrix), self.columns)
        if self.parts == 1:
            return matrix
        return matrix.view(self.parts, -1, self.columns).movedim(0, 1)


def gradient_of(name: str, parameter: nn.Parameter, lenient: bool) -> Tensor:
    """The gradient, dense. lenient: whether it counts as 0 where there is none.

    Error: RunError if there is none else.
    """
    gradient = parameter.grad
    if gradient is None and lenient:
        gradient = torch.zeros_like(parameter)
    if gradient is None:
        raise RunError(f"{name} has no gradient: the loss does not depend on it")
    return gradient.to_dense() if gradient.is_sparse else gradient


class Reductions:
    """The sums that make up the units of `groups`, one slot each; the last slot holds 0.

    A sum belongs to one unit and one parameter. Groups with the same units over a parameter share
    their sums, whatever their signs.

    Tensors of slots are float64 [planes, slots], those of units [planes, units]. A plane is one
    summed quantity; the units of one group follow those of the group before. lenient: as in Source.
    shares: what this rank sums; None: everything.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[Group],
        lenient: bool = False,
        shares: Shares | None = None,
    ) -> None:
        self._lenient, self.shares = lenient, shares or Shares(model)
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
        parts = _by_width(sign != 0)
        self._tables = [
            (index[:width, place].to(self.device), sign[:width, place].to(self.device))
            for place, width in parts
        ]
        order = torch.cat([place for place, _ in parts])
        self._order = order.argsort().to(self.device) if len(parts) > 1 else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all sources, in the order in which the kernels number them."""
        return [parameter for source in self.sources for parameter in source.parameters.values()]

    def local(self, of: Callable[[nn.Parameter], Tensor]) -> list[Tensor]:
        """This rank's share of a tensor of each parameter, in the order of `parameters`."""
        return [
            share
            for source in self.sources
            for share in source.local(map(of, source.parameters.values()))
        ]

    def signed(self, slots: Tensor) -> Tensor:
        """[planes, slots] -> [planes, units], with the signs of the members: the reducer B.

        It needs no other sum for a sign of -2 than for one of -1, because B is linear in the signs:
        Q = B(theta, theta), the defect is B(theta, g), the force B(g, g).
        """
        return self._reduced(slots, [sign for _, sign in self._tables])

    def unsigned(self, slots: Tensor) -> Tensor:
        """[planes, slots] -> [planes, units], with the size of the members' signs.

        The scale of a quantity that `signed` gives: what its terms add up to without cancelling.
        """
        return self._reduced(slots, [sign.abs() for _, sign in self._tables])

    def _reduced(self, slots: Tensor, signs: Sequence[Tensor]) -> Tensor:
        found = []
        for (index, _), sign in zip(self._tables, signs, strict=True):
            gathered = slots.index_select(1, index.flatten()).view(-1, *index.shape)
            found.append(gathered.mul_(sign).sum(1))
        if self._order is None:
            return found[0]
        return torch.cat(found, 1).index_select(1, self._order)

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
            self._add(Source(vectors, [whole], self.count, self.shares, self._lenient))
        for name, needed in matrices.items():
            matrix = {name: parameters[name]}
            source = self._add(Source(matrix, needed, self.count, self.shares, self._lenient))
            first_slots |= {(name, lines): slot for lines, slot in source.first_slots.items()}
        return first_slots

    def _add(self, source: Source) -> Source:
        self.sources.append(source)
        self.count += source.slots
        return source


def _by_width(used: Tensor) -> list[tuple[Tensor, int]]:
    """Divides the columns of a table in two if that halves it: a residual stream has dozens of
    members, and other groups a few.

    used: the entries that count, bool [most, columns].
    Returns: the places of some columns, int64, and the row at which the last of them ends.
    """
    most, columns = used.shape
    rows = torch.arange(1, most + 1)
    ends = torch.cat([used * rows[:, None], torch.zeros(1, columns)]).amax(0)
    sizes = [
        end * int((ends <= end).sum()) + most * int((ends > end).sum()) for end in rows.tolist()
    ]
    least = min(sizes, default=0)
    if 2 * least >= most * columns:
        return [(torch.arange(columns), most)]
    narrow = 1 + sizes.index(least)
    few, many = (ends <= narrow).nonzero(), (ends > narrow).nonzero()
    return [(few.flatten(), narrow), (many.flatten(), most)]


def _lines(group: Group, members: Members) -> Lines:
    """The parts of a depthwise convolution are single rows: as rows they need fewer tiles."""
    degree, units = group.symmetry.degree, members.units
    if members.length == 1 < members.parts:
        width = len(units) // members.parts
        rows = units[::width]
        if units == tuple(unit for unit in rows for _ in range(width)):
            return Lines(0, rows, degree)
    return Lines(members.axis, units, degree, members.parts)
