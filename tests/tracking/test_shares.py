"""Sums over shares: all ranks together measure what one process does, and exchange only sums.

Two processes train the same networks under DistributedDataParallel and fully_shard, and their
tables are held against those of one process that trains on the whole batch. All in float64.
"""

from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from matrices import Mixing, structure_of
from ranks import on_ranks
from test_unit_layouts import GROUPS, Network
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from torch.distributed.tensor.placement_types import Shard, _StridedShard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from symrun.errors import UsageError
from symrun.models.gpt import GPT
from symrun.symmetry import Group, find_structure
from symrun.tracking import Tracker
from symrun.tracking.followed import FollowedOptimizer
from symrun.tracking.momentum import momentum_of
from symrun.tracking.reductions import Reductions
from symrun.tracking.shares import Shares, held
from symrun.tracking.torch_sums import TorchSums

STEPS = 6


def share(model, ranks, place):
    """What one of several ranks sums of a model that all of them hold."""
    shares = Shares(model)
    shares._ranks, shares._place = list(range(ranks)), place
    return shares


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("ranks", [2, 3, 20])  # 20: most have nothing of most parameters
def test_sums_of_shares_add_up_in_every_layout(layout, ranks):
    model = Network().double().to(memory_format=layout)
    groups = [Group(one[0], name, (), one[1]) for name, one in GROUPS.items()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()

    @torch.no_grad()
    def sums(shares):
        reductions = Reductions(model, groups, shares=shares)
        measured = TorchSums(reductions, momentum_of(optimizer), block=40)
        entries = sum(weight.numel() for weight in reductions.local(lambda one: one))
        return torch.cat([measured.weights(), measured.gradients()]), entries

    whole, entries = sums(None)
    parts = [sums(share(model, ranks, place)) for place in range(ranks)]
    assert sum(one for _, one in parts) == entries
    torch.testing.assert_close(sum(one for one, _ in parts), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [1, 4, 5, 8, 12])
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_a_rank_holds_is_what_torch_gives_it(size, pieces):
    kind = Shard(0) if pieces == 1 else _StridedShard(0, split_factor=pieces)
    given, _ = kind._split_tensor(torch.arange(size), 3, with_padding=False)
    for rank, entries in enumerate(given):
        assert held(torch.arange(size), 3, rank, pieces).tolist() == entries.tolist()


# Two ranks, each a process


def uneven():
    """Of 3, 7 and 1 rows, some of which no rank can share."""
    return nn.Sequential(
        *(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3), nn.ReLU(), nn.LayerNorm(3)),
        *(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1, bias=False), nn.Linear(1, 4)),
    )


def with_batch_norm():
    return nn.Sequential(
        *(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 9, 3, groups=3),
        ),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(36, 4)),
    )


NETWORKS = {
    "uneven": (uneven, lambda: torch.randn(8, 12), True),
    "gpt": (
        partial(GPT, vocabulary=4, tokens=6, layers=1, heads=2, width=8),
        lambda: torch.randint(4, (8, 6)),
        True,
    ),
    "batch norm": (with_batch_norm, lambda: torch.randn(8, 3, 4, 4), False),
    "matrices": (Mixing, lambda: torch.randn(8, 7, 5), True),
}
"""How each is made, its batch, and whether the ranks may divide it: statistics do not add up."""

OPTIMISERS = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0, nesterov=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
}


def data_parallel(model):
    return DistributedDataParallel(model)


def sharded(model, mesh=None):
    for module in getattr(model, "blocks", model).children():
        if next(module.parameters(), None) is not None:
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def replicated(model):
    return sharded(model, init_device_mesh("cpu", (2, 1), mesh_dim_names=("copies", "shards")))


def partly(model):
    """One layer is whole on every rank, beside others that are spread; the loop averages it."""
    fully_shard(model[2])
    for parameter in model[5].parameters():
        parameter.register_post_accumulate_grad_hook(averaged)
    return fully_shard(model, ignored_params=set(model[5].parameters()))


def averaged(parameter):
    dist.all_reduce(parameter.grad.div_(2))


class Rows:
    """Keeps what a tracker writes."""

    def __init__(self):
        self.tables = {"units": [], "parameters": []}

    def put(self, table, record, size_bytes=0):
        self.tables[table].append(record().to_pandas())

    def values(self, table):
        return np.concatenate([
            one.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan)
            for one in self.tables[table]
        ])  # fmt: skip


class Exchanged(TorchDispatchMode):
    """Notes every operation that reaches other ranks, with the numbers that it sends."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "c10d" in function.namespace:
            tensors = args[0] if isinstance(args[0], list) else [args[0]]
            self.calls.append((function.__name__.split(".")[0], sum(map(torch.numel, tensors))))
        return function(*args, **(kwargs or {}))


def trained(name, optimiser, wrap=None, ranks=None, tracked=True):
    """The rows of a run, what was exchanged by the tracker, and the weights that it ends with."""
    torch.manual_seed(0)
    make, draw, divided = NETWORKS[name]
    model, inputs = make().double(), draw()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    labels = torch.randint(4, inputs.shape[: 2 - inputs.is_floating_point()])
    structure = (structure_of if name == "matrices" else find_structure)(model, inputs)
    if wrap is not None and divided:
        inputs, labels = (one[dist.get_rank() :: 2] for one in (inputs, labels))
    parallel = model if wrap is None else wrap(model)
    optimizer = OPTIMISERS[optimiser](model.parameters())
    rows, exchanged = Rows(), Exchanged()
    tracker = None
    for step in range(STEPS):
        optimizer.zero_grad()
        outputs = parallel(inputs)
        F.cross_entropy(outputs.flatten(0, -2), labels.flatten()).backward()
        if tracked:
            with exchanged:
                if tracker is None:
                    followed = FollowedOptimizer(model, optimizer, structure.groups)
                    tracker = Tracker(
                        *(model, optimizer, structure, followed, rows, 2, 5, 0), ranks=ranks
                    )
                assert followed.follow(step) is None
                tracker.before_update(step)
        optimizer.step()
        if tracked:
            with exchanged:
                tracker.after_update()
    if tracked:
        tracker.finish(STEPS)
        (measure,) = tracker._measures._measures
        slots, pairs = measure._kinds[0]._reductions.count, sum(k.units for k in measure._kinds[1:])
        exchanged.sizes = {n * slots for n in range(1, 5)} | {n * pairs for n in (2, 3, 5)}
        exchanged.state = tracker.state
    return rows, exchanged, dict(model.named_parameters())


def same(found, expected, tolerance=1e-10):
    for table in ("units", "parameters"):
        np.testing.assert_allclose(
            found.values(table), expected.values(table), rtol=tolerance, atol=tolerance
        )
    for one in found.tables["units"]:
        assert ((one["measured"] - one["exact"]).abs() <= 1e-12 * one["magnitude"]).all()


def local_weights(state):
    return [getattr(one, "_local_tensor", one) for one in state.values()]


WAYS = [
    *(("uneven", kind, sharded) for kind in OPTIMISERS),
    *(("gpt", kind, sharded) for kind in ("momentum", "adamw")),
    ("batch norm", "momentum", sharded),
    ("uneven", "momentum", replicated),
    ("uneven", "nesterov", partly),
    ("uneven", "momentum", data_parallel),
    ("gpt", "adamw", data_parallel),
    ("batch norm", "nesterov", data_parallel),
    *(("matrices", kind, data_parallel) for kind in OPTIMISERS),
]


def compare(rank, folder):
    for name, optimiser, wrap in WAYS:
        expected, alone, _ = trained(name, optimiser)
        ranks = dist.group.WORLD if wrap is data_parallel else None
        rows, exchanged, state = trained(name, optimiser, wrap, ranks)
        assert bool(rows.tables["units"]) == (rank == 0)  # only the first writes
        if rank == 0:
            same(rows, expected)
        torch.testing.assert_close(exchanged.state, alone.state, rtol=1e-10, atol=1e-10)
        other = exchanged.state.clone()
        dist.broadcast(other, 0)
        assert torch.equal(other, exchanged.state)  # the same bits on every rank
        assert {name for name, _ in exchanged.calls} == {"allreduce_"}
        sample = len(rows.tables["parameters"][0]) if rank == 0 else 0
        once = len(list(state))  # how many entries of each parameter the ranks hold
        assert {size for _, size in exchanged.calls} <= exchanged.sizes | {sample, once} or rank
        assert not alone.calls
        *_, untracked = trained(name, optimiser, wrap, tracked=False)
        for ours, theirs in zip(local_weights(state), local_weights(untracked), strict=True):
            assert torch.equal(ours, theirs), (name, optimiser, wrap)

    refused(rank)


def refused(rank):
    """Ranks that hold a part of a model only, and one that is not among them; entries of matrices
    where units are spread."""
    model = Mixing().double()
    structure = structure_of(model, NETWORKS["matrices"][1]().double())
    fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="needs whole weights on each rank"):
        Tracker(model, optimizer, structure, {}, Rows(), 2, 5, 0)
    model = sharded(uneven())
    message = "not one of the `ranks`" if rank else "hold 48 of the 84 entries of 0.weight"
    with pytest.raises(UsageError, match=message):
        Shares(model, dist.new_group([0])).require_all(model)


def test_the_tables_of_two_ranks_are_those_of_one(tmp_path):
    on_ranks(compare, tmp_path / "ranks")
