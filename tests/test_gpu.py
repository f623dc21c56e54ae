"""What only a GPU can show: no waiting in the step, and a tracker that changes nothing there."""

import pandas as pd
import pytest
import torch
from killing import tables

from symrun.analysis import agreement
from symrun.config import Config
from symrun.data import load
from symrun.errors import Stopped
from symrun.launch import compose
from symrun.optimizers import laws_of
from symrun.runs.directory import RunDirectory
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training.cuda_graph import own_stream
from symrun.training.lifecycle import resume, train
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.progress import Progress
from symrun.training.setup import prepare
from symrun.training.signals import StopRequest

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
SMALL = ["data=synthetic", "model=vgg11_bn", "model.width=0.125", "device=cuda", "train.steps=40"]
SMALL += ["deterministic=true", "train.batch_size=64"]  # 32 batches an epoch, the last of 16


@pytest.fixture(autouse=True)
def _deterministic():
    yield
    torch.use_deterministic_algorithms(False)
    torch.cuda.set_sync_debug_mode("default")


def stepped(config, folder, tracked, sync="default"):
    """The weights after 24 updates, the last 12 of them under torch's mode `sync`."""
    training = prepare(Plan.of(config), load(config.data))
    laws, _ = laws_of(config.optim)
    model, structure = training.model, training.structure
    with TableWriter(RunDirectory.create(folder, "")) as writer, own_stream(CUDA):
        tracker = Tracker(model, training.optimizer, structure, laws, writer, 2, 20, seed=0)
        update = Update(training, tracker if tracked else None, Scores(CUDA))
        try:
            for step, (images, labels) in zip(range(24), training.batches.epoch(1), strict=False):
                if step == 12:  # what is made once is made: graphs with and without a record, too
                    torch.cuda.set_sync_debug_mode(sync)
                update(images, labels, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return {name: value.cpu() for name, value in training.model.state_dict().items()}


OPTIMISERS = [
    ["optim.weight_decay=1e-3"],
    ["optim.momentum=0.9", "optim.dampening=0.5"],
    ["optim.momentum=0.9", "optim.weight_decay=1e-3", "optim.schedule=cosine"],
    ["optim.momentum=0.9", "optim.nesterov=true"],
]


def named(settings):
    """For the names of tests, by which scripts/gpu_box.py knows what a failure speaks against."""
    return settings if isinstance(settings, str) else ",".join(settings)


def test_batches_are_the_same_wherever_the_data_set_lies():
    batches = {}
    for on_device in ("true", "false"):
        config = compose([*SMALL, f"train.data_on_device={on_device}"])
        batches[on_device] = list(prepare(Plan.of(config), load(config.data)).batches.epoch(1))
    for one, other in zip(batches["true"], batches["false"], strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


HOW = [[], ["train.cuda_graph=true"], ["train.data_on_device=false"], ["track.sums=torch"]]
COMPILED = [["train.compile=true"], ["train.compile=true", "train.cuda_graph=true"]]
"""With a single optimiser, that of the paper's runs: compiling takes far longer than all else."""
WAYS = [(how, OPTIMISERS[0]) for how in COMPILED]  # first, so that others run beside them
WAYS += [(how, optim) for how in HOW for optim in OPTIMISERS]


@pytest.mark.parametrize(("how", "optim"), WAYS, ids=named)
def test_no_step_waits_for_the_device(tmp_path, optim, how):
    stepped(compose([*SMALL, *optim, *how]), tmp_path / "run", tracked=True, sync="error")


@pytest.mark.parametrize(("how", "optim"), WAYS, ids=named)
def test_weights_are_bit_identical_with_and_without_the_tracker(tmp_path, optim, how):
    config = compose([*SMALL, *optim, *how])
    tracked = stepped(config, tmp_path / "a", tracked=True)
    untracked = stepped(config, tmp_path / "b", tracked=False)
    assert all(torch.equal(value, untracked[name]) for name, value in tracked.items())


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bf16"])
def test_every_precision_trains_and_the_exact_law_audits_it(tmp_path, precision):
    path = train(compose([*SMALL, f"precision={precision}", f"run.dir={tmp_path}/run"]))
    run = RunDirectory.open(path)
    assert run.info().device == torch.cuda.get_device_name()
    assert run.info().cudnn_benchmark is False  # it would take other algorithms each time
    # Each of 40 updates rounds a weight by 2^-24 of it and so its square by 2^-23, the table once
    # more; sums of up to 4096 entries are made in float64. How gradients were made plays no part.
    unit = 2.0**-53 if precision == "float64" else 2.0**-24
    bar = 2 * (40 + 1) * unit + 4096 * 2.0**-53
    assert all(row.residual <= bar for row in agreement(run) if row.law == "exact")
    assert len(pd.read_parquet(run.table("progress"))) > 0


@pytest.mark.parametrize(
    ("precision", "optim"),
    [(name, optim) for name in ("float32", "tf32", "bf16") for optim in OPTIMISERS]
    + [(name, [*OPTIMISERS[0], "train.compile=true"]) for name in ("tf32", "bf16")],
    ids=named,
)
def test_graphs_train_and_record_as_single_launches_do(tmp_path, precision, optim):
    """Bit for bit: the same kernels in the same order. Of three epochs, so that the smaller last
    batch comes between the graphs of the others."""
    tables = {}
    for graph in ("true", "false"):
        settings = [f"precision={precision}", f"train.cuda_graph={graph}", "train.steps=100"]
        path = train(compose([*SMALL, *optim, *settings, f"run.dir={tmp_path}/{graph}"]))
        run = RunDirectory.open(path)
        tables[graph] = pd.read_parquet(run.table("units"))
    pd.testing.assert_frame_equal(tables["true"], tables["false"], check_exact=True)


@pytest.mark.parametrize("how", [[], ["train.cuda_graph=true"], *COMPILED], ids=named)
def test_a_run_that_need_not_be_deterministic_takes_the_fastest_algorithms(tmp_path, how):
    """Of three epochs, so that cuDNN meets the smaller last batch, and validation's, as well."""
    settings = ["deterministic=false", "precision=bf16", "train.steps=100", *how]
    path = train(compose([*SMALL, *settings, f"run.dir={tmp_path}/run"]))
    run = RunDirectory.open(path)
    assert run.info().cudnn_benchmark is True and run.info().status == "finished"
    assert all(row.residual <= 2 * 101 * 2.0**-24 for row in agreement(run) if row.law == "exact")


def test_the_tracker_takes_little_memory_and_no_more_over_time(tmp_path):
    """Full VGG16-BN: below 64 MiB, and after 2000 steps what it was after 20."""
    config = compose(["data=synthetic", "data.image_size=64", "data.classes=200", "device=cuda"])
    training = prepare(Plan.of(config), load(config.data))
    laws, _ = laws_of(config.optim)
    for parameter in training.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with TableWriter(RunDirectory.create(tmp_path / "run", "")) as writer:
        before = torch.cuda.memory_allocated()
        optimizer, structure = training.optimizer, training.structure
        tracker = Tracker(training.model, optimizer, structure, laws, writer, 20, 100, seed=0)
        torch.cuda.reset_peak_memory_stats()
        for step in range(2000):
            tracker.before_update(step, 0.1)
            if step == 20:
                early = torch.cuda.memory_allocated()
        assert torch.cuda.max_memory_allocated() - before < 64 * 2**20
        assert torch.cuda.memory_allocated() <= early


@pytest.mark.parametrize(("how", "optim"), WAYS, ids=named)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, monkeypatch, optim, how):
    settings = [*SMALL, *optim, *how]
    whole = train(compose([*settings, f"run.dir={tmp_path}/whole"]))
    stop, updated = StopRequest(), Progress.updated

    def signalled(self, images):
        updated(self, images)
        stop.requested = "SIGTERM" if self.updates == 17 else stop.requested

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "updated", signalled)
        with pytest.raises(Stopped):
            train(compose([*settings, f"run.dir={tmp_path}/run"]), stop)
    run = RunDirectory.open(tmp_path / "run")
    resume(run, Config.from_mapping(run.info().config.settings), False)
    for name, frame in tables(whole).items():
        pd.testing.assert_frame_equal(frame, tables(run.path)[name], check_exact=True)
