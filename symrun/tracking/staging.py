"""Results on their way from the device to the host, without the step waiting for them."""

import torch
from torch import Tensor

_lent: list["Staged"] = []
"""Those whose pinned memory is in use. It is given back by the thread that asked for it: given back
by another, while a CUDA graph is captured, it would become part of the capture."""


class Staged:
    """A copy of a device tensor that is under way to the host.

    Making one costs the step an enqueued copy; `wait` waits for its arrival, so it belongs in
    the writing thread.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        self._taken = False
        if values.device.type == "cuda":
            for staged in [staged for staged in _lent if staged._taken]:
                staged._host = torch.empty(0)
                _lent.remove(staged)
            self._host: Tensor = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
            _lent.append(self)
        else:
            self._host = values.clone()

    def wait(self) -> Tensor:
        """The values, to keep."""
        if self._arrived is None:
            return self._host
        self._arrived.synchronize()
        values = self._host.clone()
        self._taken = True
        return values
