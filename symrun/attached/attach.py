"""`symrun.track`: one line in a training loop of the user's own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from symrun.attached.subject import proven_structure, unwrapped
from symrun.attached.tracked import TrackedRun
from symrun.errors import UsageError
from symrun.laws import SGD
from symrun.places import place
from symrun.remote.store import Store
from symrun.runs.directory import RunDirectory
from symrun.runs.mirror import check_out
from symrun.tracking import Watcher
from symrun.typed import require


def track(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    example_input: Any,
    path: str | Path | None = None,
    *,
    loss: Callable[..., Tensor] | None = None,
    target: Any = None,
    every: int = 20,
    parameters: int = 100,
    audit: str = "warn",
    dynamics: bool = False,
    sgd: SGD | None = None,
    watchers: Sequence[Watcher] = (),
) -> TrackedRun:
    """Track `model` from the next step of `optimizer` on; the loop stays as it is.

    It finds and proves the symmetries, hooks the optimiser's step, and writes a run that `symrun
    check`, `plot` and `report` take. Weights, gradients and random numbers stay as they are without
    it, bit for bit.

    example_input: a batch as the model takes it, of at least two examples; a tuple of several
    arguments, or a mapping of named ones. path: the run's folder or URL; None: a new one in
    outputs/own. With that of an earlier run, call `load_state_dict` before the first step.
    loss: from what the model returns to the loss, or with `target`, from that and the target;
    None: softmax cross-entropy. every: updates between records. parameters: sampled in each layer.
    audit: "warn", "error" or "off" where what happens is not what the laws describe.
    dynamics: record effective learning rate and angle of units of scale as well.
    sgd: the settings of an optimiser of your own that is SGD by another name.
    In a distributed run the first process tracks; in the others this does nothing.

    Error: UsageError if nothing is conserved, or the model or the loss fails on the example.
    Example:
        with symrun.track(model, optimizer, images, "runs/mine") as tracker:
            for images, labels in batches:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
            saved = tracker.state_dict()
    """
    for name, value, least in (("every", every, 1), ("parameters", parameters, 0)):
        allowed = isinstance(value, int) and value >= least
        require(name, allowed, f"an integer >= {least}", repr(value))
    require("audit", audit in ("warn", "error", "off"), "warn, error or off", repr(audit))
    if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
        return _Untracked()
    named = path is None or (isinstance(path, str | Path) and str(path) not in ("", "."))
    require("path", named, "the name of a folder", repr(path))
    require("model", isinstance(model, nn.Module), "a torch.nn.Module", type(model).__name__)
    hooked = hasattr(optimizer, "register_step_pre_hook")
    require("optimizer", hooked, "a torch.optim.Optimizer", type(optimizer).__name__)
    if torch.is_inference_mode_enabled():
        raise UsageError("torch.inference_mode() is on, where nothing can be trained: leave it")
    while isinstance(inside := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inside  # as Accelerate wraps it
    inner = unwrapped(model)
    structure = proven_structure(inner, example_input, loss, target)
    if not structure.groups:
        raise UsageError(
            f"{type(inner).__name__} has no symmetry that symrun knows with this loss: there is "
            "nothing to track"
        )
    run, goes_on = _folder(None if path is None else place(str(path)))
    return TrackedRun(
        inner, optimizer, structure, run, every, parameters, audit, dynamics, sgd, watchers, goes_on
    )


def _folder(path: Path | str | None) -> tuple[RunDirectory, bool]:
    """The folder of the run, and whether there is an earlier one in it."""
    run = None
    if isinstance(path, str):
        run = check_out(path) if "run.json" in Store(path).files() else None
    elif path is not None and (path / "run.json").exists():
        run = RunDirectory.open(path)
    if run is not None:
        if run.info().loop is None:
            raise UsageError(f"path={path} is a run of symrun train: choose another path")
        return run, True
    return RunDirectory.create(path, "own", "path"), False


class _Untracked(TrackedRun):
    """In the processes of a distributed run that do not track: all methods do nothing."""

    def __init__(self) -> None:
        self.step, self.path = 0, Path(os.devnull)
        self._tracker, self._state, self._open = None, None, False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
