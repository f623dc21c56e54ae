"""Training as a whole: the tracker changes nothing, and what is recorded is what happened."""

import copy
import math
import time

import pandas as pd
import pytest
import torch
from run_json import recorded
from tqdm import tqdm

from symrun import display as display_module
from symrun.analysis import agreement
from symrun.data import load
from symrun.errors import Interrupted, RunError
from symrun.launch import compose
from symrun.optimizers import laws_of
from symrun.runs.checkpoint import latest_weights
from symrun.runs.directory import RunDirectory
from symrun.runs.run_json import info_from
from symrun.runs.writer import TableWriter
from symrun.tracking import Tracker
from symrun.training import progress as progress_module
from symrun.training import trainer
from symrun.training.lifecycle import train
from symrun.training.loop import fit
from symrun.training.plan import Plan
from symrun.training.progress import Progress
from symrun.training.setup import prepare

SMALL = [
    "data=synthetic",
    "data.train_images=40",
    "data.val_images=20",
    "model.width=0.0625",
    "train.batch_size=16",
    "train.steps=7",
    "track.every=3",
    "device=cpu",
]


def small(name, *overrides):
    return compose([f"model={name}", *SMALL, *overrides])


def weights_after(config, folder, tracked):
    training = prepare(Plan.of(config), load(config.data))
    run = RunDirectory.create(folder, "")
    with TableWriter(run) as writer:
        progress = Progress(writer, training.model, config.train.steps)
        tracker = None
        if tracked:
            laws, _ = laws_of(config.optim)
            model, structure = training.model, training.structure
            tracker = Tracker(model, training.optimizer, structure, laws, writer, 1, 50, seed=0)
        fit(training, progress, tracker)
        progress.close()
    return copy.deepcopy(training.model.state_dict())


@pytest.fixture(scope="module")
def recorded_run(tmp_path_factory):
    """A run of VGG11 with BN as `symrun train` leaves it."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    return RunDirectory.open(train(small("vgg11_bn", f"run.dir={folder}")))


NESTEROV = ["optim.momentum=0.9", "optim.nesterov=true"]


@pytest.mark.parametrize(
    ("name", "precision", "momentum"),
    [
        ("vgg11", "float64", []),
        ("vgg11_bn", "float64", NESTEROV),
        ("vgg11", "float32", NESTEROV),
        ("vgg11_bn", "float32", []),
        ("vgg11", "bf16", []),
        ("vgg11_bn", "bf16", NESTEROV),
    ],
)
def test_weights_are_bit_identical_with_and_without_the_tracker(
    name, precision, momentum, tmp_path
):
    config = small(name, f"precision={precision}", "optim.weight_decay=1e-3", *momentum)
    tracked = weights_after(config, tmp_path / "a", tracked=True)
    untracked = weights_after(config, tmp_path / "b", tracked=False)
    assert tracked.keys() == untracked.keys()
    for key, value in tracked.items():
        assert torch.equal(value, untracked[key]), key


@pytest.mark.parametrize(
    ("name", "precision", "unit", "weight_decay"),
    [
        ("vgg11", "float64", 2.0**-53, 1e-3),
        ("vgg11_bn", "float64", 2.0**-53, 0),
        ("vgg11", "float32", 2.0**-24, 0),
        ("vgg11_bn", "float32", 2.0**-24, 1e-3),
    ],
)
def test_the_laws_meet_the_measurement(name, precision, unit, weight_decay, tmp_path):
    """`exact` for every unit; `discrete` too, save where BatchNorm's eps breaks the scale symmetry.

    Each of 60 updates rounds a weight by `unit` of it and so its square by twice that, the table
    once more; sums of up to 4096 entries are made in float64. That is 7e-6 and 5e-13.
    """
    rounding = 2 * (60 + 1) * unit + 4096 * 2.0**-53
    settings = [f"precision={precision}", f"optim.weight_decay={weight_decay}"]
    path = train(small(name, *settings, "train.steps=60", f"run.dir={tmp_path}/run"))
    rows = list(agreement(RunDirectory.open(path)))
    assert {row.symmetry for row in rows} >= {"rescale", "translation"}
    for row in rows:
        if row.law == "exact" or (row.law == "discrete" and row.symmetry != "scale"):
            assert row.residual <= rounding, row


def test_the_same_seed_gives_the_same_run_and_another_seed_another(recorded_run, tmp_path):
    same, other = (
        train(small("vgg11_bn", f"seed={seed}", f"run.dir={tmp_path / str(seed)}"))
        for seed in (recorded_run.info().config.settings["seed"], 1)
    )
    runs = (recorded_run.path, same, other)
    tables = [pd.read_parquet(run / "tables" / "units") for run in runs]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0]["measured"].equals(tables[2]["measured"])


def test_what_a_run_records(recorded_run):
    path, info = recorded_run.path, recorded_run.info()
    assert info.status == "finished" and info.last_step == 7
    assert info.device == "cpu" and info.precision.value == "float32"
    assert info.dataset.synthetic is True and info.unpredicted == {}
    units = pd.read_parquet(path / "tables" / "units")
    assert sorted(set(units["step"])) == [0, 3, 6, 7]
    at_the_end = units["step"] == 7
    for column in ("grad_norm_sq", "defect"):
        assert (units[column].isna() == at_the_end).all()
    assert units["measured"].notna().all() and units["exact"].notna().all()
    assert len(units) == 4 * sum(group.units for group in info.groups)
    parameters = pd.read_parquet(path / "tables" / "parameters")
    assert sorted(set(parameters["step"])) == [0, 3, 6, 7]
    assert set(parameters["layer"]) == {layer.layer for layer in info.layers}
    progress = pd.read_parquet(path / "tables" / "progress").sort_values(["step", "split"])
    # batches of 16, 16 and 8 an epoch: a row every 3 updates, and at the ends of epochs
    train_rows = progress[progress["split"] == "train"]
    assert train_rows["step"].tolist() == [3, 6, 7]
    assert progress[progress["split"] == "val"]["step"].tolist() == [3, 6, 7]
    assert train_rows["epoch"].tolist() == [1, 2, 3]
    assert (train_rows["lr"] == 0.1).all() and progress["loss"].gt(0).all()
    assert progress["top5"].between(progress["top1"], 1).all()


def test_the_final_weights_are_saved(recorded_run):
    step, weights = latest_weights(recorded_run)
    units = pd.read_parquet(recorded_run.table("units"))
    units = units.query("step == 7 and group == 'features.0'")
    own = [weights[f"features.0.{name}"].double() for name in ("weight", "bias")]
    norms_sq = own[0].square().sum((1, 2, 3)) + own[1].square()
    assert step == 7
    assert units.sort_values("unit")["measured"].tolist() == pytest.approx(norms_sq.tolist())


def test_scores_are_the_means_of_the_batches(tmp_path):
    """Loss and accuracy of the first rows, recomputed from a second, untracked training."""
    config = small("vgg11", "model.dropout=0", f"run.dir={tmp_path}/run", "track.every=1")
    path = train(config)
    rows = pd.read_parquet(path / "tables" / "progress").query("split == 'train'")
    training = prepare(Plan.of(config), load(config.data))
    for step, (images, labels) in enumerate(training.batches.epoch(1)):
        logits = training.model(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()
        row = rows[rows["step"] == step + 1].iloc[0]
        assert row["loss"] == loss.item()
        assert row["top1"] == (logits.argmax(1) == labels).double().mean().item()
        places = (logits > logits.gather(1, labels[:, None])).sum(1)
        assert row["top5"] == (places < 5).double().mean().item()


@pytest.mark.parametrize(
    ("overrides", "silent"),
    [
        (["optim.momentum=0.9"], []),
        (["optim.momentum=0.9", "optim.nesterov=true"], ["flow"]),
        (["optim=adam"], ["flow", "discrete"]),
        (["optim=adamw"], ["flow", "discrete"]),
        (["optim=rmsprop", "optim.momentum=0.5"], ["flow", "discrete"]),
    ],
)
def test_a_law_that_does_not_hold_is_null_and_says_why(overrides, silent, tmp_path, caplog):
    path = train(small("vgg11", *overrides, f"run.dir={tmp_path}/m"))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(silent) and all(", ".join(silent) in text for text in messages)
    run = RunDirectory.open(path)
    assert set(run.info().unpredicted) == set(silent)
    units = pd.read_parquet(path / "tables" / "units")
    assert units[silent].isna().all(axis=None)
    spoken = [law for law in ("flow", "discrete", "exact") if law not in silent]
    assert units[["measured", *spoken]].notna().all(axis=None)
    for row in agreement(run):
        assert (row.residual is None) == (row.law in silent)


def test_the_schedule_is_what_the_optimiser_used(tmp_path):
    schedule = ["optim.schedule=cosine", "track.every=1"]
    path = train(small("vgg11", *schedule, f"run.dir={tmp_path}/run"))
    rows = pd.read_parquet(path / "tables" / "progress").query("split == 'train'")
    expected = [0.05 * (1 + math.cos(math.pi * step / 7)) for step in range(7)]
    assert rows["lr"].tolist() == pytest.approx(expected, rel=1e-12)
    assert all(r.residual < 1e-5 for r in agreement(RunDirectory.open(path)) if r.law == "exact")


def test_ctrl_c_keeps_what_was_written(tmp_path, monkeypatch):
    update = Progress.updated

    def interrupt_at_five(self, images):
        update(self, images)
        if self.updates == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "updated", interrupt_at_five)
    with pytest.raises(Interrupted, match="until step 5 is readable"):
        train(small("vgg11", f"run.dir={tmp_path}/run"))
    run = RunDirectory.open(tmp_path / "run")
    assert run.info().status == "interrupted" and run.info().last_step == 5
    assert sorted(set(pd.read_parquet(run.table("units"))["step"])) == [0, 3]


def test_ctrl_c_while_the_bar_is_drawn_does_not_hang(tmp_path, monkeypatch):
    """tqdm keeps its lock then: a writing thread that wanted to draw would wait for ever."""
    monkeypatch.setattr(display_module, "LINE_SECONDS", 0.0)
    display, presses = tqdm.display, [KeyboardInterrupt]

    def interrupted(self, *arguments, **keywords):
        if self.n >= 3 and presses:
            raise presses.pop()
        return display(self, *arguments, **keywords)

    monkeypatch.setattr(tqdm, "display", interrupted)
    monkeypatch.setattr(progress_module, "means", slowly(progress_module.means))
    with pytest.raises(Interrupted):
        train(small("vgg11", f"run.dir={tmp_path}/run", "train.steps=1000"))


def slowly(function):
    """As on a GPU that is behind: the writing thread is still busy when Ctrl-C comes."""

    def later(*arguments):
        time.sleep(0.5)
        return function(*arguments)

    return later


def test_a_failed_run_says_so_in_run_json(tmp_path, monkeypatch):
    def fail(*_):
        raise RunError("the disk is gone")

    monkeypatch.setattr(trainer, "fit", fail)
    with pytest.raises(RunError, match="the disk is gone"):
        train(small("vgg11", f"run.dir={tmp_path}/run"))
    assert RunDirectory.open(tmp_path / "run").info().status == "failed"


def test_run_json_tells_the_loss_and_what_a_guess_would_have(recorded_run):
    loss = recorded_run.info().loss
    assert (loss.title, loss.chance_label) == ("softmax cross-entropy", "ln 10")
    assert loss.chance == math.log(10)
    older = recorded(recorded_run)
    del older["loss"]
    assert info_from(older).loss == loss
