"""What only a GPU can show: no waiting in the step, and a tracker that changes nothing there."""

import pandas as pd
import pytest
import torch

from symrun.analysis import agreement
from symrun.data import load
from symrun.launch import compose
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.loop import prepare, train, update
from symrun.training.optimizers import laws_of

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
SMALL = ["data=synthetic", "model=vgg11_bn", "model.width=0.125", "device=cuda", "train.steps=40"]
SMALL += ["train.batch_size=64"]  # 31 batches an epoch: its draws are moved at its start


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_sync_debug_mode("default")


def stepped(config, folder, tracked, sync="default"):
    training = prepare(config, load(config.data), CUDA)
    laws, _ = laws_of(config.optim)
    model, structure = training.model, training.structure
    with TableWriter(RunDirectory.create(folder, "")) as writer:
        tracker = Tracker(model, training.optimizer, structure, laws, writer, 5, 20, seed=0)
        batches = training.batches.epoch(1)
        for step in range(12):
            images, labels = next(batches)
            if step == 2:  # what is made once is made
                torch.cuda.set_sync_debug_mode(sync)
            update(training, images, labels, tracker if tracked else None, step)
        torch.cuda.set_sync_debug_mode("default")
    return {name: value.cpu() for name, value in training.model.state_dict().items()}


OPTIMISERS = [
    ["optim.weight_decay=1e-3"],
    ["optim.momentum=0.9", "optim.dampening=0.5"],
    ["optim.momentum=0.9", "optim.weight_decay=1e-3", "optim.schedule=cosine"],
    ["optim.momentum=0.9", "optim.nesterov=true"],
]


@pytest.mark.parametrize("optim", OPTIMISERS)
def test_no_step_waits_for_the_device(tmp_path, optim):
    stepped(compose([*SMALL, *optim]), tmp_path / "run", tracked=True, sync="error")


@pytest.mark.parametrize("optim", OPTIMISERS)
def test_weights_are_bit_identical_with_and_without_the_tracker(tmp_path, optim):
    config = compose([*SMALL, *optim])
    tracked = stepped(config, tmp_path / "a", tracked=True)
    untracked = stepped(config, tmp_path / "b", tracked=False)
    assert all(torch.equal(value, untracked[name]) for name, value in tracked.items())


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bf16"])
def test_every_precision_trains_and_the_exact_law_audits_it(tmp_path, precision):
    path = train(compose([*SMALL, f"precision={precision}", f"run.dir={tmp_path}/run"]), print)
    run = RunDirectory.open(path)
    assert run.info()["device"] == torch.cuda.get_device_name()
    # Each of 40 updates rounds a weight by 2^-24 of it and so its square by 2^-23, the table once
    # more; sums of up to 4096 entries are made in float64. How gradients were made plays no part.
    unit = 2.0**-53 if precision == "float64" else 2.0**-24
    bar = 2 * (40 + 1) * unit + 4096 * 2.0**-53
    assert all(row.residual <= bar for row in agreement(run) if row.law == "exact")
    assert len(pd.read_parquet(run.table("progress"))) > 0
