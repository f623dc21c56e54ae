"""The model as torch.compile makes it."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from symrun.errors import RunError

_ADVICE = "TensorFloat32 tensor cores for float32 matrix multiplication available"
"""How torch's advice begins to let matrix products of float32 round to TF32: no precision here
does. It is given once a process."""


def compiled(model: nn.Module, batch_size: int) -> Callable[[Tensor], Any]:
    """`model`, compiled for training on batches of `batch_size`; others go through it as it is.

    Compiling, at the first call, takes a minute. What forward takes out of autocast stays out of it
    in backward, as without compiling; by torch's default the weight gradients of such a layer would
    round to bfloat16. Error: RunError from that call, if it fails.
    """
    torch._dynamo.reset()  # it compiles a few networks a process, and then silently none
    fast = torch.compile(model, dynamic=False)
    built = False

    def forward(images: Tensor) -> Any:
        nonlocal built
        if len(images) != batch_size:
            return model(images)
        try:
            with contextlib.nullcontext() if built else _compiling():
                outputs = fast(images)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise RunError(f"train.compile=true fails here, leave it out: {reason}") from None
        built = True
        return outputs

    return forward


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    config = torch._functorch.config
    with warnings.catch_warnings(), config.patch(backward_pass_autocast="off"):
        warnings.filterwarnings("ignore", _ADVICE)
        yield
