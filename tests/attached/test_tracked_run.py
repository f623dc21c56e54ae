"""A run in a loop of one's own: its folder from the first update to whatever ends it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import loops
import pandas as pd
import pytest
import torch
from loops import made, plain
from started import started
from torch import nn

import symrun
from symrun.cli import main

MOMENTUM = loops.sgd(momentum=0.9)


def begun(folder, make=MOMENTUM, name="convolutions", **settings):
    model, *batch = made(name)
    optimizer = make(model)
    tracker = symrun.track(model, optimizer, batch[0], folder / "run", every=4, **settings)
    return model, optimizer, batch, tracker


def go_on(model, optimizer, batch, first, last):
    for step in range(first, last):
        plain(model, optimizer, *batch, step)


def units_of(folder):
    rows = symrun.open_run(folder / "run").units()
    return rows.sort_values(["symmetry", "group", "step", "unit"]).reset_index(drop=True)


def test_a_run_is_read_like_any_other(tmp_path, blank_pictures, capsys):
    model, optimizer, batch, tracker = begun(tmp_path)
    go_on(model, optimizer, batch, 0, 30)
    tracker.log(loss=torch.tensor(1.5), top1=0.25)
    tracker.log("val", epoch=1, loss=2.0)
    tracker.close()
    info = symrun.open_run(tmp_path / "run").info
    assert info.loop == "tracked in a loop of one's own" and info.status == "finished"
    assert info.last_step == 30 and info.config.optim.title == "SGD"
    assert info.model.title == "Sequential" and info.precision.value == "float64"
    progress = symrun.open_run(tmp_path / "run").progress()
    assert progress.loss.tolist() == [1.5, 2.0] and progress.step.tolist() == [30, 30]
    assert sorted(set(units_of(tmp_path).step)) == [*range(0, 30, 4), 30]
    path = str(tmp_path / "run")
    assert main(["check", path, "--max-residual", "0.1"]) == 0
    assert main(["plot", "symmetries", path, "--out", str(tmp_path), "--format", "png"]) == 0
    assert main(["report", path, "--out", str(tmp_path / "report.html")]) == 0
    capsys.readouterr()
    assert main(["resume", path]) == 2
    assert "loop" in capsys.readouterr().err


def test_the_same_folder_goes_on_as_if_nothing_had_stopped_it(tmp_path):
    """In the first run, updates after the state was saved are lost, and in the second repeated."""
    whole = tmp_path / "whole"
    model, optimizer, batch, tracker = begun(whole)
    go_on(model, optimizer, batch, 0, 30)
    tracker.close()

    parts = tmp_path / "parts"
    model, optimizer, batch, tracker = begun(parts)
    go_on(model, optimizer, batch, 0, 17)
    saved = {
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "tracker": tracker.state_dict(),
    }
    torch.save(saved, parts / "saved.pt")
    go_on(model, optimizer, batch, 17, 23)
    tracker.close()
    assert symrun.open_run(parts / "run").info.last_step == 23

    saved = torch.load(parts / "saved.pt")  # weights_only: plain values and tensors
    model, optimizer, batch, tracker = begun(parts)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    tracker.load_state_dict(saved["tracker"])
    go_on(model, optimizer, batch, 17, 30)
    tracker.close()
    pd.testing.assert_frame_equal(units_of(parts), units_of(whole), check_exact=True)
    assert symrun.open_run(parts / "run").info.last_step == 30


def test_the_state_after_the_end_lets_a_run_be_longer(tmp_path):
    model, optimizer, batch, tracker = begun(tmp_path)
    go_on(model, optimizer, batch, 0, 10)
    tracker.close()
    state = tracker.state_dict()
    again = symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4)
    again.load_state_dict(state)
    go_on(model, optimizer, batch, 10, 20)
    again.close()
    assert sorted(set(units_of(tmp_path).step)) == [0, 4, 8, 12, 16, 20]


def test_a_folder_with_a_run_is_never_mixed_with_another(tmp_path):
    model, optimizer, batch, tracker = begun(tmp_path)
    go_on(model, optimizer, batch, 0, 5)
    with pytest.raises(symrun.UsageError, match="written by another process"):
        begun(tmp_path)
    tracker.close()
    before = units_of(tmp_path)
    model, optimizer, batch, tracker = begun(tmp_path)
    with pytest.raises(symrun.UsageError, match="load_state_dict goes on with it, or choose"):
        go_on(model, optimizer, batch, 0, 1)
    pd.testing.assert_frame_equal(units_of(tmp_path), before)
    model, *batch = made("mlp")
    other = symrun.track(model, MOMENTUM(model), batch[0], tmp_path / "run")
    with pytest.raises(symrun.UsageError, match="made with another network"):
        other.load_state_dict(tracker_state(tmp_path / "elsewhere"))
    other.close()


def tracker_state(folder):
    model, optimizer, batch, tracker = begun(folder)
    go_on(model, optimizer, batch, 0, 3)
    tracker.close()
    return tracker.state_dict()


def test_a_run_of_symrun_train_is_refused(tmp_path, any_network):
    model, *batch = made("mlp")
    with pytest.raises(symrun.UsageError, match="a run of symrun train: choose another path"):
        symrun.track(model, MOMENTUM(model), batch[0], any_network("mlp").path)


def test_nothing_is_left_of_a_run_that_made_no_update(tmp_path):
    *_, tracker = begun(tmp_path)
    tracker.close()
    tracker.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_an_error_in_the_loop_leaves_the_tables_whole(tmp_path, error, status):
    model, optimizer, batch, tracker = begun(tmp_path)
    with pytest.raises(error), tracker:
        go_on(model, optimizer, batch, 0, 9)
        raise error
    info = symrun.open_run(tmp_path / "run").info
    assert info.status == status and info.last_step == 9
    assert {0, 4, 8} <= set(units_of(tmp_path).step)
    plain(model, optimizer, *batch, 9)  # the hooks are gone
    assert symrun.open_run(tmp_path / "run").info.last_step == 9


def test_a_full_disk_ends_the_tracking_and_not_the_training(tmp_path, caplog, monkeypatch):
    model, optimizer, batch, tracker = begun(tmp_path)
    go_on(model, optimizer, batch, 0, 5)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("symrun.runs.writer.write_records", refuse)
    monkeypatch.setattr("symrun.runs.writer.FLUSH_SECONDS", 0.0)
    tracker._records._writer._due = 0.0
    for step in range(5, 200):
        plain(model, optimizer, *batch, step)
        time.sleep(0.001)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "tracking ends at step" in line and "No space left" in line
    assert symrun.open_run(tmp_path / "run").info.status == "failed"


SCRIPT = """
import sys, time
sys.path[:0] = {path!r}
import loops, torch, symrun
from loops import made, plain
from symrun.runs import writer
writer.FLUSH_SECONDS = 0.05
torch.set_num_threads(1)
model, *batch = made("convolutions")
optimizer = loops.sgd(momentum=0.9)(model)
tracker = symrun.track(model, optimizer, batch[0], {run!r}, every=2)
for step in range({steps}):
    plain(model, optimizer, *batch, step)
    {each}
{last}
"""


def script(folder, steps, each="pass", last="pass"):
    path = [str(Path(__file__).parent), str(Path(symrun.__file__).parents[1])]
    code = SCRIPT.format(path=path, run=str(folder / "run"), steps=steps, each=each, last=last)
    pipe = subprocess.PIPE
    return started([sys.executable, "-c", code], stderr=pipe, stdout=pipe, text=True)


def test_a_killed_process_leaves_whole_tables(tmp_path):
    with script(tmp_path, 10**6) as process:
        while not list((tmp_path / "run").glob("tables/units/part-*")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    rows = units_of(tmp_path)
    steps = sorted(set(rows.step))
    assert steps == list(range(0, steps[-1] + 1, 2))
    assert not rows.duplicated(["symmetry", "group", "unit", "step"]).any()
    error = (rows.measured - rows.exact).abs() / rows.magnitude.clip(lower=1e-30)
    assert error.max() <= 1e-12 * max(len(steps) / 60, 1)


@pytest.mark.parametrize(
    ("last", "status"),
    [
        pytest.param("pass", "finished", marks=pytest.mark.slow),
        ("raise ValueError('of mine')", "failed"),
    ],
)
def test_who_forgets_to_close_loses_nothing(tmp_path, last, status):
    with script(tmp_path, 7, last=last) as process:
        _, errors = process.communicate()
    assert ("of mine" in errors) == (status == "failed") and "symrun" not in errors.split("Tr")[0]
    info = symrun.open_run(tmp_path / "run").info
    assert info.status == status and info.last_step == 7
    assert {0, 2, 4, 6} <= set(units_of(tmp_path).step)


def test_a_compiled_network_and_data_parallel_are_seen_through(tmp_path):
    for name, wrap in (
        ("compiled", lambda model: torch.compile(model, backend="eager")),
        ("parallel", nn.DataParallel),
    ):
        model, *batch = made("convolutions")
        wrapped = wrap(model)
        optimizer = MOMENTUM(wrapped)
        folder = tmp_path / name
        with symrun.track(wrapped, optimizer, batch[0], folder / "run", every=4):
            go_on(wrapped, optimizer, batch, 0, 12)
        groups = {group.group for group in symrun.open_run(folder / "run").info.groups}
        assert {"0", "1 -> 3", "6"} <= groups
        units = units_of(folder)
        assert ((units.measured - units.exact).abs() <= 1e-12 * units.magnitude).all()


def test_a_network_compiled_in_place_is_tracked(tmp_path):
    model, *batch = made("convolutions")
    model.compile(backend="eager")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4):
        go_on(model, optimizer, batch, 0, 8)
    assert len(symrun.open_run(tmp_path / "run").info.groups) == 5


DISTRIBUTED = """
import os, sys
sys.path[:0] = {path!r}
import loops, torch, symrun
import torch.distributed as dist
from loops import made, loss_of
torch.set_num_threads(1)
rank = int(sys.argv[1])
store = dist.FileStore({store!r}, 2)
dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
model, inputs, labels = made("mlp")
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = loops.sgd(momentum=0.9)(parallel)
with symrun.track(parallel, optimizer, inputs[:4], {run!r}, every=2) as tracker:
    for step in range(9):
        optimizer.zero_grad()
        loss_of(parallel(inputs[rank::2]), labels[rank::2]).backward()
        optimizer.step()
    tracker.log(loss=1.0)
    assert bool(tracker.state_dict()) == (rank == 0)
dist.barrier()
os._exit(0)  # torch's threads now and then abort a process that takes them down
"""


def test_of_a_distributed_run_the_first_process_tracks_the_averaged_gradient(tmp_path):
    path = [str(Path(__file__).parent), str(Path(symrun.__file__).parents[1])]
    code = DISTRIBUTED.format(path=path, store=str(tmp_path / "store"), run=str(tmp_path / "run"))
    command = [sys.executable, "-c", code]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started([*command, rank], stderr=subprocess.PIPE, text=True))
            for rank in "01"
        ]
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    units = units_of(tmp_path)
    assert sorted(set(units.step)) == [0, 2, 4, 6, 8, 9]
    assert ((units.measured - units.exact).abs() <= 1e-12 * units.magnitude).all()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, o, x: symrun.track(m, o, x, every=0), "every must be an integer >= 1, got 0"),
        (lambda m, o, x: symrun.track(m, o, x, audit="loud"), "audit must be warn, error or off"),
        (lambda m, o, x: symrun.track(m, o, None), "example_input holds no tensor"),
        (lambda m, o, x: symrun.track(m, o, x[:, :3]), "fails on inputs of shape"),
        (lambda m, o, x: symrun.track(m, o, x, loss=lambda out: out.nope), "has no attribute"),
        (
            lambda m, o, x: symrun.track(nn.Sequential(nn.Tanh(), nn.Linear(12, 5)).double(), o, x,
                                         loss=lambda out: out.square().sum()),
            "has no symmetry that symrun knows",
        ),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(tmp_path, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    model, *batch = made("mlp")
    with pytest.raises(symrun.UsageError) as raised:
        wrong(model, MOMENTUM(model), batch[0])
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not os.listdir(tmp_path)


def test_an_optimizer_of_another_model_is_refused_at_its_first_update(tmp_path):
    model, *batch = made("mlp")
    stranger, *_ = made("mlp")
    optimizer = MOMENTUM(stranger)
    symrun.track(model, optimizer, batch[0], tmp_path / "run")
    with pytest.raises(symrun.UsageError, match="moves none of the parameters"):
        go_on(stranger, optimizer, batch, 0, 1)
    assert not (tmp_path / "run").exists()
