"""The parameters of a network and the variables that stand for what is done to them."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from symrun.symmetry.exponents import Block, State, Term
from symrun.symmetry.linear_system import LinearSystem


@dataclass(eq=False)
class Transformed:
    """A parameter that is trained, with its variables.

    scales, shifts: a block each axis. order: of all parameters. first_use: number of the operation
    that reads it first; None: none does.
    """

    name: str
    shape: tuple[int, ...]
    order: int
    scales: list[Block]
    shifts: list[Block]
    first_use: int | None = None

    @classmethod
    def of(cls, name: str, tensor: Tensor, order: int, system: LinearSystem) -> "Transformed":
        shape = tuple(tensor.shape)
        axes = [axis for axis, size in enumerate(shape) if size > 1] or list(range(len(shape)))[:1]

        def blocks() -> list[Block]:
            together: list[Block] = []
            for axis in axes:
                variables = system.fresh(shape[axis]).view(_only(shape, axis))
                together.append(Block(variables, (axis,), siblings=together))
            return together or [Block(system.fresh(1).view(()), ())]

        return cls(name, shape, order, blocks(), blocks())

    def state(self) -> State:
        uniform = len(self.shifts) == 1
        return State(
            tuple(Term(b.variables.expand(self.shape), b) for b in self.scales),
            tuple(Term(b.variables.expand(self.shape), None, uniform) for b in self.shifts),
            self.name,
        )


def in_forward_order(parameters: Iterable[Transformed]) -> list[Transformed]:
    """Those that an operation reads, in the order of their first use."""
    used = (one for one in parameters if one.first_use is not None)
    return sorted(used, key=lambda one: (one.first_use, one.order))


def _only(shape: tuple[int, ...], axis: int) -> list[int]:
    return [size if number == axis else 1 for number, size in enumerate(shape)]


def overlapping(model: nn.Module) -> set[str]:
    """The names of parameters that share memory with another tensor of the model.

    A parameter that several modules hold is one tensor.
    """
    named: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    by_storage: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in named:
        if tensor.numel() == 0 or tensor.device.type == "meta":
            continue
        first = int(tensor.storage_offset())
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        last = first + sum((int(size) - 1) * int(stride) for size, stride in steps)
        by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((first, last, name))
    found: set[str] = set()
    for spans in by_storage.values():
        furthest, owner = -1, ""
        for first, last, name in sorted(spans):
            if first <= furthest:
                found |= {owner, name}
            if last > furthest:
                furthest, owner = last, name
    return found
