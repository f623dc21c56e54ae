"""All that a run needs to go on bit for bit: copied while it trains, and put back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symrun.errors import UsageError
from symrun.tracking import Tracker
from symrun.tracking.staging import Staged
from symrun.training.progress import Progress
from symrun.training.setup import Training

Content = dict[str, Any]


@dataclass(frozen=True)
class State:
    """What changes while a run trains. Batches are not among it: they come from seed and step."""

    training: Training
    tracker: Tracker
    progress: Progress

    def snapshot(self) -> Callable[[], Content]:
        """A copy as it is now. The copying is on the device; calling what is returned waits for it,
        so it belongs in the writing thread."""
        content = {
            "model": self.training.model.state_dict(),
            "optimizer": self.training.optimizer.state_dict(),
            "laws": self.tracker.state,
            "progress": self.progress.state(),
            "generator": torch.get_rng_state(),
        }
        device = self.training.device
        if device.type == "cuda":
            content["gpu_generator"] = torch.cuda.get_rng_state(device)
        staged = _mapped(content, lambda values: Staged(values.detach()))
        return lambda: _mapped(staged, lambda copy: copy.wait())

    @torch.no_grad()
    def restore(self, content: Content, what: str) -> None:
        """Set everything to a snapshot, on this device, in the memory where it lies now.

        Error: UsageError, "`what` does not fit ...", for the state of another run.
        """
        training = self.training
        try:
            training.model.load_state_dict(content["model"])
            _restore_optimizer(training.optimizer, content["optimizer"])
            _fill(self.tracker.state, content["laws"])
            self.progress.restore(content["progress"])
            torch.set_rng_state(content["generator"])
            if training.device.type == "cuda" and "gpu_generator" in content:
                torch.cuda.set_rng_state(content["gpu_generator"], training.device)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            raise UsageError(
                f"{what} does not fit the network and the settings of its run"
            ) from None


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: Content) -> None:
    """Set what `optimizer` has where it lies: a CUDA graph reads it there, and would go on with the
    old learning rate if another tensor took its place.

    Error: as `load_state_dict` has, and ValueError for a tensor of another shape.
    """
    settings = [dict(group) for group in optimizer.param_groups]
    buffers = {parameter: dict(kept) for parameter, kept in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, before in zip(optimizer.param_groups, settings, strict=True):
        for name in group.keys() & before.keys() - {"params"}:
            group[name] = _in_place(before[name], group[name])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept, before = optimizer.state.get(parameter, {}), buffers.get(parameter, {})
            for name, values in kept.items():
                if isinstance(before.get(name), Tensor):
                    kept[name] = _in_place(before[name], values)
                elif isinstance(values, Tensor) and values.shape == parameter.shape:
                    # A copy from the host has lost the layout of the weight's own memory
                    kept[name] = torch.empty_like(parameter, dtype=values.dtype).copy_(values)


def _in_place(before: Any, value: Any) -> Any:
    """`value`, in the memory of `before` if that is a tensor, and as a number if it is a number."""
    if isinstance(before, Tensor):
        _fill(before, torch.as_tensor(value))
        return before
    return value.item() if isinstance(value, Tensor) and isinstance(before, float) else value


def _fill(place: Tensor, values: Tensor) -> None:
    """Error: ValueError for another shape, which `copy_` alone would spread."""
    if place.shape != values.shape:
        raise ValueError("another shape")
    place.copy_(values)


def _mapped(content: Any, function: Callable[[Any], Any]) -> Any:
    """`content` with `function` of each tensor, or staged tensor, in place of it."""
    if isinstance(content, dict):
        return {key: _mapped(value, function) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_mapped(value, function) for value in content]
    return function(content) if isinstance(content, Tensor | Staged) else content
