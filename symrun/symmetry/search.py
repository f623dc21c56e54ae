"""Every symmetry of a network's loss that follows from what its operations do, in any module.

Source: Kunin et al. 2021, section 3; Du et al. 2018 for rescale across positive homogeneity.
"""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import symrun.symmetry.rules_elementwise
import symrun.symmetry.rules_layers  # noqa: F401  both fill RULES
from symrun.errors import UsageError
from symrun.symmetry.exponents import Exponents, State
from symrun.symmetry.grouping import groups_of
from symrun.symmetry.groups import Group
from symrun.symmetry.linear_system import LinearSystem
from symrun.symmetry.parameters import Transformed, overlapping
from symrun.symmetry.randomness import random_numbers_kept, seed_all
from symrun.symmetry.trace import Trace, tensors_in

PASSES = 6
"""Forward passes that show whether all make the same operations, at least."""
FOLLOWED = 4
"""Of a model whose passes do not, such as one that skips layers at random or counts its calls."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; `block` counts runs of convolutions of one output size."""

    name: str
    kind: str
    block: int | None


@dataclass(frozen=True)
class Structure:
    """The layers of a network in forward order, and its symmetry groups."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]


def cross_entropy(outputs: Any) -> Tensor:
    """The part of softmax cross-entropy, over axis 1, that symmetries depend on."""
    first = outputs if isinstance(outputs, Tensor) else next(iter(outputs))
    return first.log_softmax(1).sum()  # type: ignore[no-any-return]


def find_structure(
    model: nn.Module,
    example_input: Tensor,
    criterion: Callable[[Any], Tensor] = cross_entropy,
) -> Structure:
    """The layers of `model` and every symmetry group that follows from its operations.

    Nothing is computed and nothing of `model` changes: a copy without data makes the forward
    passes. Normalisation and dropout act as the modules' `training` flags stand now.

    criterion: from what the model returns to the loss, on tensors without data too.

    A parameter that is frozen, unused or shares memory with another belongs to no group, nor does
    what the search cannot follow; `verified` proves what it found.

    Error: UsageError if the model cannot run on tensors without data.
    Example:
        structure = find_structure(model, torch.zeros(2, 3, 32, 32))
        sum(group.units for group in structure.groups)
    """
    skeleton = _skeleton(model)
    system = LinearSystem()
    exponents = Exponents(system)
    excluded = overlapping(model)
    parameters = {
        name: Transformed.of(name, tensor, order, system)
        for order, (name, tensor) in enumerate(skeleton.named_parameters())
        if tensor.requires_grad and name not in excluded and tensor.numel()
    }
    uses: list[tuple[str, str, tuple[int, ...]]] = []
    trained: set[str] = set()
    example = example_input.to("meta")
    with random_numbers_kept():
        for number in range(FOLLOWED if passes_differ(model, example, criterion) else 1):
            seed_all(number)
            trace = Trace(exponents, parameters)
            for name, tensor in skeleton.named_parameters():
                known = parameters.get(name)
                trace.set_state(tensor, known.state() if known else State(parameter=name))
            trained |= _followed(model, skeleton, example, criterion, trace)
            uses += trace.uses
    for name in parameters.keys() - trained:
        parameters[name].first_use = None
    _fix_what_is_left(parameters, exponents)
    return Structure(_layers(uses), groups_of(list(parameters.values()), system.solution()))


def _followed(
    model: nn.Module,
    skeleton: nn.Module,
    example: Tensor,
    criterion: Callable[[Any], Tensor],
    trace: Trace,
) -> set[str]:
    """The names of the parameters on which the loss depends."""
    try:
        with torch.enable_grad(), trace:
            loss = criterion(skeleton(example))
            trace.exponents.pin(trace.state_of(loss))
        names, tensors = zip(*skeleton.named_parameters(), strict=True)
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        given = {id(t) for t, g in zip(wanted, found, strict=True) if g is not None}
        return {name for name, tensor in zip(names, tensors, strict=True) if id(tensor) in given}
    except Exception as error:  # a user's forward can raise anything
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = str(first).splitlines()[0] if str(first) else type(first).__name__
        raise UsageError(
            f"{type(model).__name__} does not run on tensors without data, so its symmetries "
            f"cannot be found: {reason}"
        ) from error


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy on the device "meta", with no data, that shares what the model shares."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"{type(model).__name__} cannot be copied, so its symmetries cannot be found: {reason}"
        ) from error


def passes_differ(model: nn.Module, example: Tensor, criterion: Callable[[Any], Tensor]) -> bool:
    """Whether one forward pass makes other operations than the next, at random or by counting."""
    skeleton, seen = _skeleton(model), set()
    with random_numbers_kept(), torch.enable_grad():
        for number in range(PASSES):
            seed_all(number)
            with contextlib.suppress(Exception), _Operations() as operations:
                criterion(skeleton(example.to("meta")))
            seen.add(tuple(operations.made))
    return len(seen) > 1


class _Operations(TorchDispatchMode):
    """Notes what is computed, and from tensors of what shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.made.append((function, *(tuple(tensor.shape) for tensor in tensors_in(args))))
        return function(*args, **(kwargs or {}))


def _fix_what_is_left(parameters: dict[str, Transformed], exponents: Exponents) -> None:
    """Unused parameters have no dynamics; and of the blocks of one parameter, a constant that moves
    from one to another changes nothing."""
    for parameter in parameters.values():
        if parameter.first_use is None:
            for block in (*parameter.scales, *parameter.shifts):
                exponents.system.pin(block.variables)
        parts = max(block.parts for block in parameter.scales)
        for block in [block for block in parameter.scales if not block.anchored][:-1]:
            exponents.system.pin(block.variables.reshape(parts, -1)[:, 0])


def _layers(uses: list[tuple[str, str, tuple[int, ...]]]) -> tuple[Layer, ...]:
    layers: dict[str, Layer] = {}
    sizes: list[tuple[int, ...]] = []
    for weight, operation, shape in uses:
        name = weight.removesuffix(".weight")
        if name in layers:
            continue
        if operation == "convolution":
            if sizes[-1:] != [shape[2:]]:
                sizes.append(shape[2:])
            layers[name] = Layer(name, "convolution", len(sizes) - 1)
        else:
            layers[name] = Layer(name, "linear", None)
    return tuple(layers.values())
