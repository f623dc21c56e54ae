"""The model as torch.compile makes it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from symrun.errors import RunError


def compiled(model: nn.Module, batch_size: int) -> Callable[[Tensor], Tensor]:
    """`model`, compiled for training on batches of `batch_size`; others go through it as it is.

    Compiling, at the first call, takes a minute. Error: RunError from that call, if it fails.
    """
    torch._dynamo.reset()  # it compiles a few networks a process, and then silently none
    fast = torch.compile(model, dynamic=False)

    def forward(images: Tensor) -> Tensor:
        if len(images) != batch_size:
            logits: Tensor = model(images)
            return logits
        try:
            logits = fast(images)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"train.compile=true fails here, leave it out: {reason}") from None
        return logits

    return forward
