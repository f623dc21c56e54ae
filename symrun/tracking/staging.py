"""Copies from the device to the host that the training step does not wait for."""

import torch
from torch import Tensor

_pinned: list["Staged"] = []
"""Copies whose pinned memory is in use. The thread that allocated it must free it: done by another
while a CUDA graph is captured, the call would become part of the capture."""


class Staged:
    """A copy of a device tensor to the host, which runs in the background.

    The constructor only enqueues the copy; `wait` blocks, so it belongs in the writing thread.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._copied_out = False
        if values.device.type == "cuda":
            for staged in [staged for staged in _pinned if staged._copied_out]:
                staged._host = torch.empty(0)
                _pinned.remove(staged)
            self._host: Tensor = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
            _pinned.append(self)
        else:
            self._host = values.clone()

    def wait(self) -> Tensor:
        """The values, in memory of their own, once they have arrived."""
        if self._arrived is None:
            return self._host
        self._arrived.synchronize()
        values = self._host.clone()
        self._copied_out = True
        return values
