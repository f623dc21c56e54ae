"""`symrun.track`: one line in a training loop of the user's own."""

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from symrun.attached.ranks import Ranks
from symrun.attached.records import NoRecords, Records
from symrun.attached.spread import whole_on_first
from symrun.attached.subject import (
    name_of,
    proven_structure,
    require_of,
    scored,
    unwrapped,
    with_entries,
)
from symrun.attached.tracked import TrackedRun
from symrun.errors import UsageError
from symrun.laws import SGD
from symrun.places import place
from symrun.remote.store import Store
from symrun.runs.directory import RunDirectory
from symrun.runs.mirror import check_out
from symrun.runs.tables import DYNAMICS
from symrun.symmetry import Group, Structure
from symrun.tracking import Watcher
from symrun.tracking.output_source import OutputSource
from symrun.tracking.shares import is_spread
from symrun.typed import require


def track(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    example_input: Any,
    path: str | Path | None = None,
    *,
    loss: Callable[..., Tensor] | None = None,
    target: Any = None,
    structure: Structure | None = None,
    every: int = 20,
    parameters: int = 100,
    audit: str = "warn",
    dynamics: bool = False,
    homogeneity: bool = False,
    matrices: str = "diagonal",
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
    None: softmax cross-entropy. structure: what `find_structure` found in this network, which is
    neither searched nor proven again. every: updates between records. parameters: sampled in each
    layer.
    audit: "warn", "error" or "off" where what happens is not what the laws describe.
    dynamics: record effective learning rate and angle of units of scale as well.
    homogeneity: record the norm of all that scales the outputs too, and the source that drives it.
    Where gradients are clipped or come from a GradScaler, what its laws predict is wrong.
    matrices: "diagonal", "sample" or "full": of each conserved matrix, as in attention, record only
    the diagonal, also as many other entries as it has rows, or all. With `structure`, of those that
    `find_matrices` put into it.
    sgd: the settings of an optimiser of your own that is SGD by another name.
    In a distributed run the first process tracks; in the others this does nothing. If parameters
    are spread over the processes, as by fully_shard, all call it, and each measures what it holds.

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
    allowed = matrices in ("diagonal", "sample", "full")
    require("matrices", allowed, "diagonal, sample or full", repr(matrices))
    require("audit", audit in ("warn", "error", "off"), "warn, error or off", repr(audit))
    require("model", isinstance(model, nn.Module), "a torch.nn.Module", type(model).__name__)
    inner = unwrapped(model)
    distributed = dist.is_available() and dist.is_initialized()
    if homogeneity and distributed and dist.get_world_size() > 1:
        alone = "a single process: the others' outputs are not seen here"
        require("homogeneity", False, f"False unless there is {alone}", homogeneity)
    if distributed and dist.get_rank() > 0 and not is_spread(inner):
        return _Untracked()
    named = path is None or (isinstance(path, str | Path) and str(path) not in ("", "."))
    require("path", named, "the name of a folder", repr(path))
    hooked = hasattr(optimizer, "register_step_pre_hook")
    require("optimizer", hooked, "a torch.optim.Optimizer", type(optimizer).__name__)
    if torch.is_inference_mode_enabled():
        raise UsageError("torch.inference_mode() is on, where nothing can be trained: leave it")
    while isinstance(inside := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inside  # as Accelerate wraps it
    ranks = Ranks.of(inner)
    given = structure
    if given is not None:
        require_of(given, inner)
    if structure is None or homogeneity:
        with whole_on_first(inner, ranks):
            structure = ranks.from_first(
                lambda: proven_structure(
                    inner, example_input, loss, target, homogeneity, matrices != "diagonal", given
                )
            )
    if matrices != "diagonal":
        structure = with_entries(structure, matrices, inner, given is not None)
    if not structure.groups:
        raise UsageError(
            f"{name_of(inner)} has no symmetry that symrun knows with this loss: there is nothing "
            "to track"
        )
    records = _records(ranks, None if path is None else place(str(path)))
    return TrackedRun(
        inner,
        optimizer,
        structure,
        ranks,
        records,
        every,
        parameters,
        audit,
        DYNAMICS if dynamics else (),
        sgd,
        watchers,
        _source(model, inner, structure.balanced),
    )


def _source(model: nn.Module, inner: nn.Module, group: Group | None) -> OutputSource | None:
    """Measured at the outputs of `model`, within which `inner` is; None if no group needs it."""
    if group is None:
        return None
    source = OutputSource(inner, group)

    def watched(hook: object, _: nn.Module, inputs: tuple[Any, ...], returned: Any) -> None:
        source.watch(scored(returned))

    class AtOutputs:
        """The hook of the forward pass. In a copy of the model, or a saved one, there is one of the
        standard library in its place that does nothing, so that it is opened without symrun."""

        __call__ = torch.compiler.disable(watched)

        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (contextlib.nullcontext(), "__exit__")

    source.handles.append(model.register_forward_hook(AtOutputs()))
    return source


def _records(ranks: Ranks, path: Path | str | None) -> Records:
    """Of the first rank; the others know the folder."""
    made: list[Records] = []

    def make() -> tuple[Path, bool]:
        made.append(Records(*_folder(path)))
        return made[0].path, made[0].goes_on

    where = ranks.from_first(make)
    return made[0] if made else NoRecords(*where)


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
        self._records, self._ranks = NoRecords(), Ranks()
        self.step, self.path = 0, self._records.path
        self._tracker, self._state, self._open = None, None, False
        self._process, self._hooks = os.getpid(), []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
