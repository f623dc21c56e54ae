"""Every symmetry of a network's loss that follows from what its operations do, in any module.

Source: Kunin et al. 2021, section 3; Du et al. 2018 for rescale across positive homogeneity.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import methodcaller
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import symrun.symmetry.rules_elementwise
import symrun.symmetry.rules_layers
import symrun.symmetry.rules_normalisation  # noqa: F401  they fill RULES
from symrun.errors import UsageError
from symrun.symmetry.exponents import Exponents, State
from symrun.symmetry.grouping import groups_of
from symrun.symmetry.groups import Group, Symmetry
from symrun.symmetry.linear_system import LinearSystem
from symrun.symmetry.parameters import Transformed, overlapping
from symrun.symmetry.stand_ins import (
    Criterion,
    all_tensors,
    each_tensor,
    first_line,
    passed,
    random_numbers,
    seed_all,
    shapes_of,
    stand_ins,
    standing_in,
    untouched,
)
from symrun.symmetry.trace import Trace

_COMPARED = 3
"""Forward passes that show whether all make the same operations."""
_FOLLOWED = 4
"""Those of a model in which they do not, as where it skips layers at random or counts its calls."""
Made = Callable[[str, Tensor, int, LinearSystem], Transformed]
"""From the name of a parameter, its tensor and its number to what may be done to it."""
Found = TypeVar("Found")


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; `block` counts runs of convolutions of one output size."""

    name: str
    kind: str
    block: int | None


@dataclass(frozen=True)
class Structure:
    """The layers of a network in forward order, and its symmetry groups.

    varies: whether one forward pass may make other operations than the next.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    varies: bool = False

    @property
    def balanced(self) -> Group | None:
        """The first group of homogeneity; None if nobody asked for one."""
        return next((one for one in self.groups if one.symmetry is Symmetry.homogeneity), None)


def cross_entropy(outputs: Any) -> Tensor:
    """The part of softmax cross-entropy, over axis 1, that symmetries depend on."""
    first = outputs if isinstance(outputs, Tensor) else next(iter(outputs))
    return first.log_softmax(1).sum()


def find_structure(
    model: nn.Module, example_input: Any, criterion: Criterion = cross_entropy
) -> Structure:
    """The layers of `model` and every symmetry group that follows from its operations.

    Nothing is computed and nothing of `model` changes: it runs with tensors without data in place
    of its own, on the device "meta", or with copies if it cannot. Normalisation and dropout act as
    the modules' `training` flags stand now.

    example_input: a batch; a tuple of several arguments, or a mapping of named ones.
    criterion: from what the model returns to the loss, on its device.

    A parameter that is frozen, unused or shares memory with another belongs to no group, nor does
    what the search cannot follow. `prove` holds what it found against the model.

    Error: UsageError if the model fails on the example.
    Example:
        structure = find_structure(model, torch.zeros(2, 3, 32, 32))
        sum(group.units for group in structure.groups)
    """
    return without_data(
        model, example_input, lambda example, device: _found(model, example, criterion, device)
    )


def without_data(
    model: nn.Module, example: Any, search: Callable[[Any, torch.device | str], Found]
) -> Found:
    """What `search(example, device)` finds on the device "meta", or else on the model's.

    Error: UsageError if it fails on both.
    """
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    for device in ("meta", own):
        try:
            return search(each_tensor(example, methodcaller("to", device)), device)
        except Exception as error:  # a forward that reads values, or raises what it likes
            failure = error
    raise UsageError(
        f"{type(model).__name__} fails on inputs of shape {shapes_of(example)}, so its "
        f"symmetries cannot be found: {first_line(failure)}"
    ) from failure


def _found(
    model: nn.Module, example: Any, criterion: Criterion, device: torch.device | str
) -> Structure:
    exponents = Exponents()

    def end(trace: Trace, returned: Any) -> Tensor:
        loss = criterion(returned)
        exponents.pin(trace.state_of(loss))
        return loss

    varies = _differ(model, example, criterion)
    parameters, uses = follow(model, example, exponents, Transformed.of, end, device, varies)
    _fix_what_is_left(parameters, exponents)
    groups = groups_of(list(parameters.values()), exponents.system.solution())
    return Structure(_layers(uses), groups, varies)


def follow(
    model: nn.Module,
    example: Any,
    exponents: Exponents,
    made: Made,
    end: Callable[[Trace, Any], Tensor],
    device: torch.device | str,
    varies: bool,
) -> tuple[dict[str, Transformed], list[tuple[str, str, tuple[int, ...]]]]:
    """The parameters that may be transformed, once the equations of forward passes are in
    `exponents`; and the uses of weights, as in `Trace`.

    end: from what the model returned to what all is trained for, whose equations it adds. varies:
    as in `Structure`.
    """
    tensors = stand_ins(model, lambda tensor: tensor.to(device, copy=True))
    excluded = overlapping(model)
    parameters = {
        name: made(name, tensor, order, exponents.system)
        for order, (name, tensor) in enumerate(tensors.items())
        if tensor.requires_grad
        and name not in excluded
        and tensor.numel()
        and tensor.is_floating_point()
    }
    uses: list[tuple[str, str, tuple[int, ...]]] = []
    trained: set[str] = set()
    with untouched(model):
        for number in range(_FOLLOWED if varies else 1):
            seed_all(number)
            trace = Trace(exponents, parameters)
            for name, _ in model.named_parameters():
                known = parameters.get(name)
                trace.set_state(tensors[name], known.state() if known else State(parameter=name))
            with standing_in(model, tensors):
                with trace:
                    result = end(trace, passed(model, example))
                trained |= _with_gradient(tensors, result)
            uses += trace.uses
    for name in parameters.keys() - trained:
        parameters[name].first_use = None
    return parameters, uses


def _with_gradient(tensors: Mapping[str, Tensor], result: Tensor) -> set[str]:
    """The names of those on which the result depends."""
    wanted = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    if not result.requires_grad:
        return set()
    gradients = torch.autograd.grad(result.sum(), list(wanted.values()), allow_unused=True)
    return {name for name, one in zip(wanted, gradients, strict=True) if one is not None}


def passes_differ(
    model: nn.Module, example: Any, criterion: Criterion, dtype: torch.dtype | None = None
) -> bool:
    """Whether one forward pass may make other operations than the next: it draws random numbers on
    the host, or counts its calls. Those that dropout draws on the device make no difference.

    dtype: of all parameters and buffers that are no whole numbers; None: as they are.
    Assumes: the model and the criterion run on the device of the example, if not on "meta".
    """
    try:
        on_meta = each_tensor(example, lambda tensor: tensor.to("meta"))
        return _differ(model, on_meta, criterion, dtype)
    except Exception:  # as in find_structure
        return _differ(model, example, criterion, dtype)


def _differ(
    model: nn.Module, example: Any, criterion: Criterion, dtype: torch.dtype | None = None
) -> bool:
    (device, *_) = (tensor.device for tensor in all_tensors(example))

    def made(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else None
        return tensor.to(device, kind, copy=True)

    tensors = stand_ins(model, made)
    seen = set()
    with untouched(model):
        for number in range(_COMPARED):
            seed_all(number)
            before = random_numbers()
            with standing_in(model, tensors), _Operations() as operations:
                criterion(passed(model, example))
            seen.add(tuple(operations.made))
            if random_numbers() != before:
                return True
    return len(seen) > 1


class _Operations(TorchDispatchMode):
    """Notes what is computed, from tensors of what shapes and from what numbers."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.made: list[Any] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        shapes = [tuple(tensor.shape) for tensor in all_tensors(args)]
        numbers = [one for one in args if isinstance(one, int | float)]
        self.made.append((function, *shapes, *numbers))
        return function(*args, **(kwargs or {}))


def _fix_what_is_left(parameters: dict[str, Transformed], exponents: Exponents) -> None:
    """Of the blocks of one parameter, a constant that moves from one to another changes nothing."""
    for parameter in parameters.values():
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
