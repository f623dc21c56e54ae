"""The curves that loggers get are those of `symrun check`, and no logger disturbs a run."""

import struct
import sys
import time
import types

import numpy as np
import pandas as pd
import pytest
import torch
from killing import same, tables
from run_json import described
from torch import nn

import symrun
from symrun.analysis import judge
from symrun.cli import main
from symrun.errors import Stopped, UsageError
from symrun.launch import compose
from symrun.loggers import ScalarLogger
from symrun.loggers.scalars import Scalars
from symrun.runs.checkpoint import checkpoints
from symrun.runs.directory import RunDirectory
from symrun.training.lifecycle import resume, train
from symrun.training.progress import Progress
from symrun.training.signals import StopRequest

SMALL = [
    *("model=vgg11_bn", "model.width=0.0625", "data=synthetic", "data.train_images=40"),
    *("data.val_images=20", "train.batch_size=16", "train.steps=14", "track.every=3"),
    *("train.checkpoint_every=4", "optim.weight_decay=1e-3", "device=cpu"),
]


class Kept:
    """A sink that keeps everything; `fails` names the place where it raises instead."""

    fails = None

    def __init__(self, run, step):
        Kept.rows, Kept.first, Kept.closed = [], step, 0
        self._fail("start")

    def log(self, step, scalars):
        self._fail("log")
        self.rows.append((step, scalars))

    def close(self):
        Kept.closed += 1
        self._fail("close")

    def _fail(self, place):
        if self.fails == place:
            raise OSError(28, "out of luck")


@pytest.fixture
def kept(monkeypatch):
    """TensorBoard is there, and is `Kept`."""
    module = types.SimpleNamespace(Sink=Kept)
    monkeypatch.setitem(sys.modules, "symrun.loggers.tensorboard", module)
    monkeypatch.setattr("symrun.loggers.scalar_logger.find_spec", lambda name: name)
    monkeypatch.setattr(Kept, "fails", None)
    return Kept


def trained(folder, *overrides):
    return RunDirectory.open(train(compose([*SMALL, *overrides, f"run.dir={folder}"])))


def require_what_check_says(rows, run):
    """The largest residual and the last 1 - R^2 of the curves, for each symmetry's law.

    Sums over records are made in another order than by check: some 1e-16 a record.
    """
    checked = {(row.symmetry, row.law): row for row in judge(run)[1]}
    names = {name.split("/", 2)[2] for _, scalars in rows for name in scalars}
    assert names
    for name in names:
        row = checked[tuple(name.split("/"))]
        residuals = [scalars[f"symrun/residual/{name}"] for _, scalars in rows]
        assert max(residuals) == row.residual
        last = rows[-1][1].get(f"symrun/unexplained/{name}")
        assert last == (row.unexplained and pytest.approx(row.unexplained, rel=1e-13))


@pytest.mark.parametrize("settings", [[], ["model=vgg11"], ["optim.momentum=0.9"]])
def test_its_curves_end_where_check_does(kept, tmp_path, settings):
    run = trained(tmp_path / "run", "logger=tensorboard", *settings)
    assert [step for step, _ in kept.rows] == [0, 3, 6, 9, 12, 14]
    assert (kept.first, kept.closed) == (0, 1)
    assert any("unexplained" in name for name in kept.rows[-1][1])
    require_what_check_says(kept.rows, run)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_in_a_loop_of_ones_own_as_well(kept, kind, tmp_path):
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    optimizer = kind(network.parameters(), lr=0.01, weight_decay=0.1)
    inputs, labels = torch.randn(16, 8), torch.randint(4, (16,))
    path = tmp_path / "run"
    with (
        ScalarLogger("tensorboard", path) as logger,
        symrun.track(network, optimizer, inputs, path, every=3, watchers=[logger]),
    ):
        for _ in range(13):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), labels).backward()
            optimizer.step()
    assert [step for step, _ in kept.rows] == [0, 3, 6, 9, 12, 13]
    law = "flow" if kind is torch.optim.SGD else "exact"
    assert f"symrun/unexplained/rescale/{law}" in kept.rows[-1][1]
    require_what_check_says(kept.rows, RunDirectory.open(path))


def test_a_law_that_flow_does_not_replace_is_named(kept, tmp_path):
    """The paper's oscillator says nothing of Nesterov: `exact` is held against the run instead."""
    run = trained(tmp_path / "run", "logger=tensorboard", "optim.momentum=0.9",
                  "optim.nesterov=true")  # fmt: skip
    assert "symrun/residual/scale/exact" in kept.rows[0][1]
    require_what_check_says(kept.rows, run)


def test_a_resumed_run_goes_on_with_the_sums_of_all_its_records(kept, tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", "logger=tensorboard")
    undisturbed = kept.rows
    stop, updated = StopRequest(), Progress.updated

    def signalled(self, images):
        updated(self, images)
        if self.updates == 8:
            stop.requested = "SIGTERM"

    config = compose([*SMALL, "logger=tensorboard", f"run.dir={tmp_path}/stopped"])
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Progress, "updated", signalled)
        train(config, stop)
    run = RunDirectory.open(tmp_path / "stopped")
    resume(run, run.config(), False)
    assert kept.first == 9 and kept.rows == undisturbed[-3:]
    require_what_check_says(undisturbed, whole)


@pytest.mark.parametrize("place", ["start", "log", "close"])
def test_a_logger_that_fails_is_switched_off_with_one_warning(
    kept, place, tmp_path, monkeypatch, caplog
):
    """Weights and tables are those of a run without a logger, bit for bit."""
    plain = trained(tmp_path / "plain")
    monkeypatch.setattr(kept, "fails", place)
    run = trained(tmp_path / "run", "logger=tensorboard")
    warned = [line for line in caplog.messages if "logger" in line]
    reason = "No space left on device: make room there, or choose another disk"
    assert warned == [f"logger=tensorboard is switched off: {reason}"]
    assert run.info().status == "finished"
    for name, frame in tables(run.path).items():
        pd.testing.assert_frame_equal(frame, tables(plain.path)[name], check_exact=True)
    (one, *_), (other, *_) = checkpoints(run), checkpoints(plain)
    assert same(one[1]["model"], other[1]["model"])


def test_a_package_that_is_missing_is_one_line_with_the_remedy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("symrun.loggers.scalar_logger.find_spec", lambda name: None)
    assert main(["train", *SMALL, "logger=wandb", f"run.dir={tmp_path}/run"]) == 2
    wanted = "logger=wandb needs a package that is not installed: pip install 'symrun[wandb]'"
    assert capsys.readouterr().err.strip() == f"symrun: {wanted}"
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_logger_is_refused(tmp_path):
    with pytest.raises(UsageError, match="one of tensorboard, wandb, mlflow, got 'none'"):
        ScalarLogger("none", tmp_path)


def test_a_run_that_no_law_predicts_is_said_to_show_nothing(kept, tmp_path, caplog):
    groups = [{"symmetry": "scale", "group": "g", "units": 1, "layers": ["g"]}]
    silent = dict.fromkeys(("flow", "discrete", "exact"), "because")
    run = RunDirectory.create(tmp_path / "run", "")
    run.write_info(described(groups=groups, unpredicted=silent))
    with ScalarLogger("tensorboard", run.path) as logger:
        logger.on_record(0, {"measured": np.ones(1), "magnitude": np.ones(1)})
    assert caplog.messages == ["logger=tensorboard shows nothing: no law predicts this run"]


def test_the_numbers_of_a_recorded_baseline_and_of_a_group_that_flow_does_not_predict():
    """Two groups: the first has two units, of which the second never moves from its baseline."""
    layers = {"symmetry": "scale", "layers": ["g"]}
    groups = [{"group": "a", "units": 2, **layers}]
    groups += [{"group": "b", "units": 1, "unpredicted": "because", **layers}]
    info = described(groups=groups, columns=["baseline", "steady"])
    scalars = Scalars(info)
    assert scalars.curves == [("scale", "flow"), ("scale", "exact")]
    seen = []
    for step, quantity in enumerate([4.0, 5.0, 7.0]):
        measured = np.array([quantity, 4.0, quantity], np.float32)
        record = {"measured": measured, "magnitude": np.full(3, 8.0), "baseline": np.full(3, 4.0)}
        record |= {"flow": measured - [step, 0.5, np.nan], "exact": measured + [9, 9, 0.25 * step]}
        seen.append(scalars.after(step, record))
    assert seen[0] == {"symrun/residual/scale/flow": 0.0625, "symrun/residual/scale/exact": 0.0}
    assert seen[1]["symrun/unexplained/scale/flow"] == 1.0
    assert seen[2] == {
        "symrun/residual/scale/flow": 0.25,
        "symrun/residual/scale/exact": 0.0625,
        "symrun/unexplained/scale/flow": (1 + 4) / (1 + 9),
        "symrun/unexplained/scale/exact": (0.25**2 + 0.5**2) / (1 + 9),
    }


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard)).Reload()
    curves = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    return {name: [(one.step, one.value) for one in curve] for name, curve in curves.items()}


def read_mlflow(run):
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'symrun'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == str(run.path)
    histories = {name: client.get_metric_history(found.info.run_id, name)
                 for name in found.data.metrics}  # fmt: skip
    return {name: [(one.step, one.value) for one in curve] for name, curve in histories.items()}


def read_wandb(run):
    """Of an offline run there is only the log that would be sent: a LevelDB log of messages.
    Another process writes it, which may be later than it says that the run is finished."""
    for _ in range(100):
        curves = read_wandb_now(run)
        if any(step == 14 for curve in curves.values() for step, _ in curve):
            break
        time.sleep(0.1)
    return curves


def read_wandb_now(run):
    from wandb.proto import wandb_internal_pb2

    (path,) = run.path.glob("wandb/offline-run-*/*.wandb")
    content, place, message, curves = path.read_bytes(), 7, b"", {}
    while place < len(content):
        if 32768 - place % 32768 < 7:  # no header fits into the rest of a block
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (2, 3):  # its beginning or middle
            continue
        record, message = wandb_internal_pb2.Record.FromString(message), b""
        row = {item.key or "/".join(item.nested_key): float(item.value_json)
               for item in record.history.item}  # fmt: skip
        for name in row.keys() - {"symrun/step"}:
            if name.startswith("symrun/"):
                curves.setdefault(name, []).append((row["symrun/step"], row[name]))
    return curves


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", READERS)
def test_each_logger_holds_the_same_curves(name, tmp_path, monkeypatch, caplog):
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    before = torch.random.get_rng_state()
    run = trained(tmp_path / "run", f"logger={name}")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not [line for line in caplog.messages if "logger" in line]
    curves = READERS[name](run)
    rows = [dict(curve) for curve in curves.values()]
    assert all(set(row) <= {0, 3, 6, 9, 12, 14} and 14 in row for row in rows)
    checked = {(row.symmetry, row.law): row for row in judge(run)[1]}
    residual = checked["scale", "flow"].residual
    largest = max(value for _, value in curves["symrun/residual/scale/flow"])
    assert largest == pytest.approx(residual, rel=2**-23)  # TensorBoard keeps float32
