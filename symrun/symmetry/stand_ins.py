"""Runs a module with other tensors in place of its parameters and buffers.

The module itself runs and not a copy, so that what is bound to it counts: a method replaced on an
instance, a hook, a closure. Afterwards it is as it was.
"""

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Criterion = Callable[[Any], Tensor]
"""From what a model returns to the loss."""


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


def loss_with(
    model: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor, criterion: Criterion
) -> Tensor:
    """The loss of `model` with `tensors` in place of its own."""
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
        return criterion(model(inputs))
    finally:
        for module, name, tensor in places:
            setattr(module, name, tensor)


def seed_all(seed: int) -> None:
    """Of all random numbers that a forward pass may draw: torch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def random_numbers() -> tuple[Any, ...]:
    """The states of the host's generators, which change where one draws."""
    kind, keys, *place = np.random.get_state(legacy=True)
    numpy = (kind, keys.tobytes(), *place)  # type: ignore[union-attr]
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
