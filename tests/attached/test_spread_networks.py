"""`symrun.track` of a network whose parameters are shards, in two processes that track it together.

Each table is held against that of one process which trains on the whole batch, in float64.
"""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from loops import loss_of, made
from ranks import on_ranks
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import symrun
from symrun.attached import ranks as ranks_module

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}


def sharded(model, **policy):
    for module in getattr(model, "blocks", model).children():
        if next(module.parameters(), None) is not None:
            fully_shard(module, **policy)
    return fully_shard(model, **policy)


def on_mesh(model, shape):
    """In copies of shards, or over rows and columns of one copy; gathered until the next pass."""
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "within"))
    if shape == (2, 1):
        model = fully_shard(model, mesh=mesh)
        model.set_reshard_after_backward(False)
        return model
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    return fully_shard(parallelize_module(model, mesh["within"], plan), mesh=mesh["data"])


def divided(name):
    """The network and this rank's half of the batch; of BatchNorm, whose statistics do not add up,
    the whole."""
    model, inputs, labels = made(name)
    if not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in model.modules()):
        inputs, labels = inputs[dist.get_rank() :: 2], labels[dist.get_rank() :: 2]
    return model, inputs, labels


def update(model, optimizer, inputs, labels, clip=False, accumulate=False):
    optimizer.zero_grad()
    for micro in range(2) if accumulate else (1,):
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(micro == 1)
        loss_of(model(inputs), labels).backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    if hasattr(model, "reshard"):  # else the next pass would take the old weights
        model.reshard()


def values(path):
    units = symrun.open_run(path).units().sort_values(["step", "symmetry", "group", "unit"])
    return units.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan)


def check(path, expected, tolerance=1e-10):
    """Of the run that the first rank wrote."""
    dist.barrier()
    if dist.get_rank() == 0:
        np.testing.assert_allclose(values(path), values(expected), rtol=tolerance, atol=tolerance)
        units = symrun.open_run(path).units()
        assert ((units.measured - units.exact).abs() <= 1e-12 * units.magnitude).all()
        (info, other) = (symrun.open_run(one).info for one in (path, expected))
        assert info.groups == other.groups and info.model == other.model
        assert info.status == "finished" and info.last_step == other.last_step


def alone(name, path, make, steps, **how):
    """The run of one process: the first."""
    if dist.get_rank() == 0:
        model, *batch = made(name)
        optimizer = make(model.parameters())
        with symrun.track(model, optimizer, batch[0], path, every=2):
            for _ in range(steps):
                update(model, optimizer, *batch, **how)


def tables(folder):
    optimisers = {
        "sgd": lambda parameters: torch.optim.SGD(parameters, **SGD),
        "nesterov": lambda parameters: torch.optim.SGD(parameters, **SGD, nesterov=True),
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    }
    ways = [("mlp", kind, {}) for kind in optimisers]
    ways += [("mlp", "adamw", {"clip": True, "accumulate": True}), ("convolutions", "sgd", {})]
    ways += [("gpt", "adamw", {})]
    ways += [("mlp", "sgd", {"mesh": (2, 1)}), ("mlp", "adamw", {"mesh": (1, 2)})]
    for number, (name, kind, how) in enumerate(ways):
        mesh = how.pop("mesh", None)
        make, path = optimisers[kind], folder / f"run{number}"
        alone(name, folder / f"alone{number}", make, 6, **how)
        weights = []
        for tracked in (True, False):
            model, *batch = divided(name) if mesh != (1, 2) else made(name)
            model = sharded(model) if mesh is None else on_mesh(model, mesh)
            optimizer = make(model.parameters())
            if tracked:
                example = made(name)[1]
                tracker = symrun.track(model, optimizer, example, path, every=2)
                assert tracker.path == path
            for _ in range(6):
                update(model, optimizer, *batch, **how)
            if tracked:
                tracker.close()
            weights.append([one.to_local().detach() for one in model.parameters()])
        assert all(map(torch.equal, *weights)), (name, kind)
        check(path, folder / f"alone{number}")


def going_on(folder):
    """What one run of six updates writes, two of three write; with what records lie between."""
    make = lambda parameters: torch.optim.SGD(parameters, **SGD)  # noqa: E731
    alone("mlp", folder / "uninterrupted", make, 6)
    model, *batch = divided("mlp")
    model, example = sharded(model), made("mlp")[1]
    optimizer = make(model.parameters())
    tracker = symrun.track(model, optimizer, example, folder / "resumed", every=2)
    for _ in range(3):
        update(model, optimizer, *batch)
    state = tracker.state_dict()
    weights = {name: one.to_local().clone() for name, one in model.state_dict().items()}
    momentum = {k: v["momentum_buffer"].clone() for k, v in optimizer.state.items()}
    update(model, optimizer, *batch)
    tracker.close()
    for name, one in model.state_dict().items():
        one.to_local().copy_(weights[name])
    for parameter, buffer in momentum.items():
        optimizer.state[parameter]["momentum_buffer"] = buffer
    tracker = symrun.track(model, optimizer, example, folder / "resumed", every=2)
    tracker.load_state_dict(state)
    for _ in range(3):
        update(model, optimizer, *batch)
    tracker.close()
    check(folder / "resumed", folder / "uninterrupted")
    tracker = symrun.track(model, optimizer, example, folder / "resumed", every=2)
    tracker.load_state_dict(state | {"step": dist.get_rank()})
    with pytest.raises(symrun.UsageError, match="at update 0 and another at 1: all load"):
        update(model, optimizer, *batch)
    tracker = symrun.track(model, optimizer, example, folder / "resumed", every=2)
    if dist.get_rank() == 0:
        tracker.load_state_dict(state)
    with pytest.raises(symrun.SymrunError, match="holds a run already|failed on another rank"):
        update(model, optimizer, *batch)
    dist.barrier()


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def decisions(folder):
    """What one rank finds out alone, all of them act on, and none waits for ever."""
    rank = dist.get_rank()
    log = Lines()
    logging.getLogger("symrun").addHandler(log)

    def begun(path, **options):
        model, *batch = divided("mlp")
        model = sharded(model)
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        example = made("mlp")[1]
        return model, optimizer, batch, symrun.track(
            model, optimizer, example, folder / path, every=1, **options
        )  # fmt: skip

    # Something writes to the weights between updates
    model, optimizer, batch, tracker = begun("clamped")
    for _ in range(12):
        update(model, optimizer, *batch)
        if rank == 0:
            tracker._records.flushed()
        with torch.no_grad():
            model[0].weight.mul_(0.9)
    tracker.close()
    assert bool(log.lines) == (rank == 0)
    assert rank or "0.weight changes between two updates" in log.lines[0], log.lines
    model, optimizer, batch, tracker = begun("strict", audit="error")
    with pytest.raises(symrun.SymrunError, match="changed by|failed on another rank"), tracker:
        for _ in range(30):
            update(model, optimizer, *batch)
            if rank == 0 and tracker._open:
                tracker._records.flushed()
            with torch.no_grad():
                model[0].weight.mul_(0.9)
    dist.barrier()

    # A gradient that is missing on one rank
    log.lines.clear()
    model, optimizer, batch, tracker = begun("missing")
    for step in range(6):
        optimizer.zero_grad()
        loss_of(model(batch[0]), batch[1]).backward()
        if step == 3 and rank == 1:
            model[2].weight.grad = None
        optimizer.step()
    state = tracker.state_dict()
    observed, first = ([one is not None for one in state["reasons"]] for _ in range(2))
    dist.broadcast_object_list(first, 0)
    assert observed == first and any(observed) and state["step"] == 6
    tracker.close()
    assert rank or "another rank had no gradient" in log.lines[0], log.lines

    # A disk that is full on the rank that writes
    log.lines.clear()
    model, optimizer, batch, tracker = begun("full")
    for step in range(8):
        update(model, optimizer, *batch)
        if step == 3 and rank == 0:
            tracker._records._writer._failure = OSError(28, "No space left on device")
    assert not tracker._open and tracker.step <= 5
    tracker.close()
    assert rank or "No space left" in log.lines[0], log.lines
    dist.barrier()
    assert rank or symrun.open_run(folder / "full").info.status == "failed"
    # ... which it finds out when they close
    model, optimizer, batch, tracker = begun("late")
    update(model, optimizer, *batch)
    if rank == 0:
        tracker._records._writer._failure = OSError(28, "No space left on device")
    assert bool(tracker.state_dict()) == (rank > 0)
    tracker.close()

    # A rank calls alone what all should call
    model, optimizer, batch, tracker = begun("alone")
    update(model, optimizer, *batch)
    with pytest.raises(symrun.UsageError, match="a rank calls state_dict and another close: all"):
        tracker.state_dict() if rank == 0 else tracker.close()
    tracker.close()
    # ... or comes when the others wait no longer
    log.lines.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks_module, "MEETING", ranks_module.timedelta(seconds=3))
        model, optimizer, batch, tracker = begun("slow")
        update(model, optimizer, *batch)
        time.sleep(4 * rank)
        tracker.close()
    reason = "another rank is gone" if rank else "another rank did not come within 3 s: all ranks"
    assert reason in log.lines[0], log.lines


def other_wrappers(folder):
    """Layers that are checkpointed, parameters that are bf16 in the forward pass, a structure that
    was found before, and what is refused."""
    rank = dist.get_rank()
    model, inputs, labels = divided("mlp")
    model[2] = checkpoint_wrapper(model[2])
    example = made("mlp")[1]
    found = symrun.find_structure(model, example)
    model = sharded(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    with symrun.track(model, optimizer, example, folder / "wrapped", every=2):
        for _ in range(4):
            update(model, optimizer, inputs, labels)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    with symrun.track(model, optimizer, example, folder / "given", structure=found) as tracker:
        update(model, optimizer, inputs, labels)
    assert len(tracker.state_dict()["measured"]) == sum(one.units for one in found.groups)
    dist.barrier()
    for path in ("wrapped", "given") if rank == 0 else ():
        units = symrun.open_run(folder / path).units()
        assert len(symrun.open_run(folder / path).info.groups) >= 2
        assert ((units.measured - units.exact).abs() <= 1e-12 * units.magnitude).all()
    other = symrun.find_structure(made("mlp")[0], example)
    with pytest.raises(symrun.UsageError, match="must be that of this model"):
        symrun.track(model, optimizer, example, folder / "no", structure=other)
    with pytest.raises(symrun.UsageError, match="fails on inputs of shape"):
        symrun.track(model, optimizer, example[:, :3], folder / "no")
    flat = FullyShardedDataParallel(made("mlp")[0], device_id=torch.device("cpu"))
    with pytest.raises(symrun.UsageError, match="use torch.distributed.fsdp.fully_shard"):
        symrun.track(flat, optimizer, example, folder / "no")
    assert not (folder / "no").exists()
    dist.barrier()
    ranks_module.ALL_CALL = ranks_module.timedelta(seconds=2)
    if rank == 0:
        with pytest.raises(symrun.UsageError, match="all have to call"):
            symrun.track(model, optimizer, example, folder / "no")


def together(rank, folder):
    def forbidden(*_, **__):
        raise AssertionError("a whole parameter")

    DTensor.full_tensor = forbidden
    for part in (tables, going_on, decisions, other_wrappers):
        part(Path(folder))


def test_two_ranks_track_a_network_of_shards(tmp_path):
    on_ranks(together, tmp_path / "ranks")
