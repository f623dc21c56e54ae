"""Follows a transformation of the parameters through one forward pass, operation by operation.

The model runs as it is, on tensors without data where it can; every operation that reaches torch's
dispatcher says what it does to exponents. So it does not matter how the model is written, and
nothing has to be captured first: torch.fx and torch.export show the same operations in a graph, but
refuse models that this can follow.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.symmetry.exponents import Exponents, State
from symrun.symmetry.guards import leads_to_division
from symrun.symmetry.parameters import Transformed
from symrun.symmetry.stand_ins import all_tensors

Rule = Callable[["Operation"], Any]
RULES: dict[str, Rule] = {}
"""What each operation of torch does, by its name without a trailing underscore: a rule returns the
state of the output, or of each output. An operation without a rule is not followed."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


class Operation:
    """One call of an operation, with the states of what it reads."""

    def __init__(
        self, trace: "Trace", function: Any, arguments: Mapping[str, Any], output: Any
    ) -> None:
        self.exponents = trace.exponents
        self.function = function
        self._trace = trace
        name = function._schema.name.split("::")[-1]
        self.name = name if name.endswith("__") else name.rstrip("_")
        self.in_place = self.name != name
        self.arguments = arguments
        self.output = output

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def state(self, argument: str) -> State:
        return self._used(self.arguments.get(argument), argument)

    def states(self, argument: str) -> list[State]:
        return [self._used(one, argument) for one in self.arguments[argument]]

    def _used(self, value: Any, argument: str) -> State:
        state = self._trace.state_of(value)
        if state.guarded and not leads_to_division(self.name, argument):
            self.exponents.pin(state, shift=False)  # the constant is felt
            return State(shift=state.shift)
        return state

    @property
    def shape(self) -> torch.Size:
        output = self.output[0] if isinstance(self.output, (tuple, list)) else self.output
        shape: torch.Size = output.shape
        return shape

    def regroup(self, argument: str, parts: int) -> None:
        """Axis 1 of a parameter counts anew in each part of its axis 0."""
        name = self.state(argument).parameter
        if name is not None and name in self._trace.parameters:
            parameter = self._trace.parameters[name]
            for block in parameter.scales:
                self.exponents.regroup(block, parts, parameter.shape[0])
            self._trace.set_state(self.arguments[argument], parameter.state())

    def read(self) -> list[State]:
        """The states of all tensors among the arguments."""
        return [self._trace.state_of(tensor) for tensor in all_tensors(self.arguments)]


_MAKE_ZEROS = ("zeros", "zeros_like", "new_zeros")


class Trace(TorchDispatchMode):
    """Within it, tensors have states. parameters: those that are transformed, by name.

    uses: of weights in products, in order: the name, the operation, and the shape of its output.
    """

    def __init__(self, exponents: Exponents, parameters: Mapping[str, Transformed]) -> None:
        TorchDispatchMode.__init__(self)
        self.exponents = exponents
        self.parameters = parameters
        self.uses: list[tuple[str, str, tuple[int, ...]]] = []
        self._states: dict[int, dict[tuple[Any, ...], State]] = {}
        self._kept: list[Any] = []
        self._count = 0

    def set_state(self, tensor: Tensor, state: State, written: bool = False) -> None:
        """Also of all that has the same memory and the same layout.

        written: whether the entries themselves were replaced, which the views of them show too.
        """
        place, layout = _place(tensor)
        known = self._states.setdefault(place, {})
        if not known:
            self._kept.append(tensor.untyped_storage())
        if written and len(known) > 1 and known.get(layout) is not state:
            self.exponents.pin(state, *known.values())  # what the views hold now is not known
            known.clear()
        known[layout] = state

    def state_of(self, value: Any) -> State:
        if not isinstance(value, Tensor):
            return State()
        place, layout = _place(value)
        known = self._states.get(place)
        if known is None:
            return State()
        state = known.get(layout)
        if state is None:
            self.exponents.pin(*known.values())
            return State()
        parameter = self.parameters.get(state.parameter or "")
        if parameter is not None and parameter.first_use is None:
            parameter.first_use = self._count
        if state and not value.requires_grad and torch.is_grad_enabled():
            self.exponents.pin(state)  # the gradient does not flow back through it
            return State(parameter=state.parameter)
        return state

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        self._count += 1
        schema = function._schema
        arguments = {argument.name: argument.default_value for argument in schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False)) | (kwargs or {})
        operation = Operation(self, function, arguments, output)
        name = operation.name
        states = operation.read()
        weight = next(
            (s.parameter for s in states if (s.parameter or "").endswith(".weight")), None
        )
        if weight is not None and name in ("convolution", "mm", "addmm", "bmm", "matmul"):
            self.uses.append((weight, name, tuple(operation.shape)))
        known = RULES.get(name)
        if known is None:
            self.exponents.pin(*states)
            result: Any = State()
        elif any(state or state.parameter for state in states) or name in _MAKE_ZEROS:
            result = known(operation)
        else:
            result = State()
        self._record(output, result, schema.is_mutable)
        return output

    def _record(self, output: Any, result: Any, written: bool) -> None:
        """result: the state of the first tensor of `output`, or one for each."""
        outputs = output if isinstance(output, (tuple, list)) else [output]
        states = [result, *[State()] * len(outputs)] if isinstance(result, State) else result
        for one, state in zip(outputs, states, strict=False):
            if isinstance(one, Tensor):
                self._kept.append(one)
                self.set_state(one, state, written)


def _place(tensor: Tensor) -> tuple[int, tuple[Any, ...]]:
    layout = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    return tensor.untyped_storage()._cdata, layout
