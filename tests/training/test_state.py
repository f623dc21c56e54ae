"""What is put back lies where it lay: a CUDA graph goes on reading and writing there."""

from collections import deque
from collections.abc import Mapping

import pytest
import torch
from killing import same
from torch import Tensor

from symrun.data import load
from symrun.launch import compose
from symrun.tracking import Tracker
from symrun.training.loop import Update
from symrun.training.plan import Plan
from symrun.training.progress import Progress
from symrun.training.setup import make_tracker, prepare
from symrun.training.state import State

CPU = torch.device("cpu")
SMALL = ["data=synthetic", "data.train_images=64", "data.val_images=10", "model=vgg11_bn"]
SMALL += ["model.width=0.0625", "train.batch_size=16", "train.steps=8", "device=cpu"]
OPTIMISERS = [
    ["optim.weight_decay=1e-3", "optim.schedule=cosine"],
    ["optim.momentum=0.9", "optim.nesterov=true", "optim.schedule=cosine"],
    ["optim.momentum=0.9", "optim.dampening=0.5", "track.sums=torch", "precision=float64"],
    ["optim=adam", "optim.lr=1e-3"],
    ["optim=rmsprop", "optim.lr=1e-3", "optim.momentum=0.5"],
]


class Forgetful:
    """Takes records and keeps none."""

    def put(self, table, record, size_bytes=0):
        record()


class Trained:
    """A run's objects, made as `symrun train` makes them, with the rates on the device."""

    def __init__(self, *overrides):
        config = compose([*SMALL, *overrides])
        self.training = prepare(Plan.of(config), load(config.data))
        sgd = isinstance(self.training.optimizer, torch.optim.SGD)
        if sgd and self.training.optimizer.param_groups[0]["params"][0].dtype is torch.float32:
            for group in self.training.optimizer.param_groups:  # as on a GPU
                group["lr"] = torch.tensor(group["lr"])
        self.tracker = make_tracker(self.training, Forgetful(), Tracker)
        self.progress = Progress(Forgetful(), self.training.model, self.training.steps)
        self.state = State(self.training, self.tracker, self.progress)
        self.update = Update(self.training, self.tracker, self.progress.scores)

    def step(self, first, end):
        self.training.model.train()
        batches = list(self.training.batches.epoch(1)) * 2
        for step in range(first, end):
            self.update(*batches[step], step)
            self.progress.updated(16)

    def tensors(self):
        parts = {
            "model": self.training.model,
            "optimizer": self.training.optimizer,
            "tracker": self.tracker,
            "scores": self.progress.scores,
        }
        return {
            name + path: tensor
            for name, part in parts.items()
            for path, tensor in tensors_in(part, set())
        }


def tensors_in(thing, seen, path=""):
    """Every tensor that can be reached from `thing`, with the way there."""
    if isinstance(thing, Tensor):
        yield path, thing
        if thing.grad is not None:
            yield f"{path}.grad", thing.grad
        return
    if id(thing) in seen or isinstance(thing, type | Progress | Forgetful):
        return
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        inner = [
            (f"[{number if isinstance(key, Tensor) else key}]", value)
            for number, (key, value) in enumerate(thing.items())
        ]
    elif isinstance(thing, list | tuple | set | deque):
        inner = [(f"[{number}]", value) for number, value in enumerate(thing)]
    else:
        inner = [(f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items()]
    for name, value in inner:
        yield from tensors_in(value, seen, path + name)


@pytest.mark.parametrize("optim", OPTIMISERS)
def test_every_tensor_gets_its_values_back_where_it_lies(optim):
    trained = Trained(*optim)
    trained.step(0, 3)
    taken = trained.state.snapshot()()
    values = {name: tensor.clone() for name, tensor in trained.tensors().items()}
    trained.step(3, 5)
    before = trained.tensors()
    changed = [name for name, value in values.items() if not torch.equal(before[name], value)]
    for part in ("model", "optimizer", "tracker", "scores"):
        assert any(name.startswith(part) for name in changed), part
    places = {name: tensor.data_ptr() for name, tensor in before.items()}
    assert any(name.endswith(".grad") for name in places)
    trained.state.restore(taken, "it")
    assert {name: tensor.data_ptr() for name, tensor in trained.tensors().items()} == places
    assert same(trained.state.snapshot()()["optimizer"], taken["optimizer"])
    assert same(trained.state.snapshot()()["model"], taken["model"])
    assert torch.equal(trained.tracker.state, taken["laws"])


@pytest.mark.parametrize("optim", OPTIMISERS[:2])
def test_a_learning_rate_stays_what_it_is_whatever_was_saved(optim):
    """A tensor as on a GPU, a number as on a CPU: a run may go on elsewhere."""
    trained = Trained(*optim)
    trained.step(0, 2)
    for here, there in ((torch.tensor(0.1), 0.05), (0.1, torch.tensor(0.05))):
        (group,) = trained.training.optimizer.param_groups
        group["lr"] = there
        taken = trained.state.snapshot()()
        group["lr"] = here
        trained.state.restore(taken, "it")
        (group,) = trained.training.optimizer.param_groups
        assert type(group["lr"]) is type(here)
        assert float(group["lr"]) == pytest.approx(0.05, rel=1e-7)
        if isinstance(here, torch.Tensor):
            assert group["lr"] is here
