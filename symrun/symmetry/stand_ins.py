"""Runs a module with other tensors in place of its parameters and buffers.

The module itself runs and not a copy, so that what is bound to it counts: a method replaced on an
instance, a hook, a closure. Afterwards it is as it was.
"""

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Criterion = Callable[[Any], Tensor]
"""From what a model returns to the loss."""
_SPREAD = 0.1
"""Of random inputs at least, where those that they are like hardly differ."""


def each_tensor(inputs: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """`inputs` with `function` of each tensor in place of it, in tuples, lists and mappings too."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {name: each_tensor(value, function) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(each_tensor(value, function) for value in inputs)
    return inputs


def passed(model: nn.Module, inputs: Any) -> Any:
    """What `model` returns: for several inputs as arguments if they are a tuple, by name if they
    are a mapping."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def all_tensors(inputs: Any) -> list[Tensor]:
    """In nested tuples, lists and mappings, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    each_tensor(inputs, note)
    return found


def random_like(inputs: Any, seed: int) -> Any | None:
    """`inputs` with normal numbers in place of floats, of their mean and spread in each tensor;
    None if there are no floats."""
    draws = torch.Generator().manual_seed(seed)

    def drawn(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() and tensor.dim() and tensor.numel()):
            return tensor
        values = tensor.double()
        spread = float(values.std(correction=0).clamp(min=_SPREAD))
        noise = torch.randn(tensor.shape, dtype=torch.float64, generator=draws)
        return values.mean() + spread * noise.to(tensor.device)

    changed = each_tensor(inputs, drawn)
    same = zip(all_tensors(inputs), all_tensors(changed), strict=True)
    return None if all(old is new for old, new in same) else changed


def shapes_of(inputs: Any) -> str:
    """Of all tensors, such as "[2, 3, 32, 32]"."""
    return ", ".join(str(list(tensor.shape)) for tensor in all_tensors(inputs))


def stand_ins(model: nn.Module, made: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A tensor for each parameter and buffer of `model`, with the hooks on its gradient.

    made: a new tensor, from the parameter or buffer that it stands for.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        stand_in = made(tensor).detach()
        if isinstance(tensor, nn.Parameter):
            stand_in = nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
            for hook in (tensor._backward_hooks or {}).values() if tensor.requires_grad else ():
                stand_in.register_hook(hook)
        found[name] = stand_in
    return found


@contextlib.contextmanager
def standing_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it `tensors` are in place of the parameters and buffers of `model`, also where the
    model reads these by another way than its modules: from a list, or a closure.

    What runs the forward pass again, such as checkpointing, needs them in the backward pass too.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    in_place_of = {id(tensor): tensors[name] for name, tensor in named}
    places = [
        (module, name, tensor)
        for module in model.modules()
        for own in (module._parameters, module._buffers)
        for name, tensor in own.items()
        if tensor is not None
    ]
    try:
        for module, name, tensor in places:
            setattr(module, name, in_place_of[id(tensor)])
        with _Replaced(in_place_of):
            yield
    finally:
        for module, name, tensor in places:
            setattr(module, name, tensor)


class _Replaced(TorchFunctionMode):
    """Within it functions of torch get other tensors than those that they are called with."""

    def __init__(self, in_place_of: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._in_place_of = in_place_of

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*self._changed(args), **self._changed(kwargs or {}))

    def _changed(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._in_place_of.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(self._changed(one) for one in value)
        if type(value) is dict:
            return {name: self._changed(one) for name, one in value.items()}
        return value


def first_line(error: BaseException) -> str:
    """Of the message of what was raised first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def seed_all(seed: int) -> None:
    """Of all random numbers that a forward pass may draw: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def random_numbers() -> tuple[Any, ...]:
    """The states of the host's generators, which change where one draws."""
    numpy = pickle.dumps(np.random.get_state())
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within it passes may draw random numbers and set attributes of the modules; afterwards all
    of these are as they were. A list or another object that a pass changes stays changed."""
    kept = [(module, dict(vars(module))) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    gpus = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(gpus), torch.enable_grad():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for module, attributes in kept:
                vars(module).clear()
                vars(module).update(attributes)
            for module, _ in kept:  # what a module derives of its own, as nn.LSTM's list, follows
                for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                    if tensor is not None:
                        setattr(module, name, tensor)
