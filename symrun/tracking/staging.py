"""Results on their way from the device to the host, without the step waiting for them."""

import torch
from torch import Tensor


class Staged:
    """A copy of a device tensor that is under way to the host.

    Making one costs the step an enqueued copy; `wait` waits for its arrival, so it belongs in
    the writing thread.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._host = values.clone()

    def wait(self) -> Tensor:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
