"""What a network computes, in float64 and without the constants that keep its divisions safe."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.symmetry.guards import guard_of, leads_to_division
from symrun.symmetry.stand_ins import all_tensors

_NEGLIGIBLE = 1e-24
_COARSER = (torch.float32, torch.float16, torch.bfloat16)


def nearby(tensor: Tensor) -> Tensor:
    """In float64; a parameter is moved by a tenth, so that nothing of it is zero or one."""
    if not tensor.is_floating_point():
        return tensor.clone()
    exact = tensor.detach().to(torch.float64, copy=True)
    if isinstance(tensor, nn.Parameter) and tensor.numel():
        size = max(float(tensor.detach().norm()) / tensor.numel() ** 0.5, 0.1)
        exact.add_(torch.randn(tensor.shape).to(exact.device), alpha=0.1 * size)
    return exact


@contextlib.contextmanager
def exactly(guards: bool) -> Iterator["Exact"]:
    """Within it, what a network makes of its own is in float64, and constants that keep divisions
    safe are too small to be felt. guards: also those that it adds or bounds by itself."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Exact(guards) as mode:
            yield mode
    finally:
        torch.set_default_dtype(default)


class Exact(TorchDispatchMode):
    """felt: whether something other than a division followed such a constant."""

    def __init__(self, guards: bool) -> None:
        TorchDispatchMode.__init__(self)
        self.felt = False
        self._guards = guards
        self._guarded: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        schema = function._schema
        names = [argument.name for argument in schema.arguments]
        values = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        name = schema.name.split("::")[-1].rstrip("_")
        for argument, value in values.items() if self._guarded else ():
            for tensor in all_tensors(value):
                if tensor.layout is torch.strided:
                    guarded = tensor.untyped_storage()._cdata in self._guarded
                    self.felt |= guarded and not leads_to_division(name, argument)
        guard = guard_of(name, values) if self._guards else None
        small = [one for one in ("eps", "epsilon", guard) if one in names]
        values |= dict.fromkeys(small, _NEGLIGIBLE)
        if values.get("dtype") in _COARSER:  # what the network casts to a coarser type
            values["dtype"] = torch.float64
        given = [values.pop(one) for one in names[: len(args)]]
        output = function(*given, **values)
        if guard is not None:
            self._guarded[output.untyped_storage()._cdata] = output
        return output
