"""Loops in which something unusual happens: the training goes on, the tables stay true."""

import os
import time

import loops
import pytest
import torch
import torch.nn.functional as F
from loops import loss_of, made, plain
from torch import nn

import symrun

MOMENTUM = loops.sgd(momentum=0.9)


class Clamping(torch.optim.AdamW):
    """Torch runs the hooks of its own step and of the one that it calls."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.clamp_(-0.2, 0.2)


class Refusing(torch.optim.SGD):
    """Its step fails now and then, before it has done anything."""

    refuses = False

    def step(self, closure=None):
        if self.refuses:
            raise MemoryError
        super().step(closure)


def run_of(folder, make=MOMENTUM, loop=plain, steps=24, name="convolutions", schedule=None, **more):
    model, *batch = made(name, more.pop("dtype", torch.float64))
    optimizer = make(model)
    with symrun.track(model, optimizer, batch[0], folder / "run", every=4, **more):
        scheduler = schedule(optimizer) if schedule else None
        for step in range(steps):
            loop(model, optimizer, *batch, step)
            if scheduler:
                scheduler.step()
    return symrun.open_run(folder / "run")


def assert_true(run, steps=None):
    """Each record is there once, and meets the identity."""
    units = run.units()
    assert not units.duplicated(["symmetry", "group", "unit", "step"]).any()
    assert steps is None or sorted(set(units.step)) == steps
    error = (units.measured - units.exact).abs()
    assert (error <= 1e-12 * units.magnitude + 1e-300).all()


@pytest.mark.parametrize("first", [True, False])
def test_a_learning_rate_of_0_stops_the_time_of_the_laws_and_nothing_else(tmp_path, caplog, first):
    factors = (lambda step: min(step / 5, 1)) if first else (lambda step: max(1 - step / 12, 0))
    run = run_of(
        tmp_path, schedule=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    )
    assert_true(run)
    assert run.units()[["flow", "discrete"]].notna().all(axis=None) and not caplog.records


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (MOMENTUM, {"momentum": 0.0}),
        (MOMENTUM, {"nesterov": True}),
        (loops.sgd(), {"momentum": 0.9}),
    ],
)
def test_laws_that_do_not_hold_any_more_end(tmp_path, caplog, make, change):
    def changing(model, optimizer, inputs, labels, step):
        if step == 10:
            optimizer.param_groups[0].update(change)
        plain(model, optimizer, inputs, labels, step)

    run = run_of(tmp_path, make, changing)
    assert_true(run)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "not predicted from step 10 on" in line
    units = run.units()
    assert units[units.step < 10].flow.notna().all() and units[units.step > 10].flow.isna().all()


def test_sparse_gradients(tmp_path, caplog):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 6, sparse=True)
            self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, 5)

        def forward(self, words):
            return self.head(torch.relu(self.hidden(self.embedding(words).mean(1))))

    torch.manual_seed(0)
    model, words = Words().double(), torch.randint(7, (12, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with symrun.track(model, optimizer, words, tmp_path / "run", every=2):
        for step in range(10):
            plain(model, optimizer, words, torch.randint(5, (12,)), step)
    assert_true(symrun.open_run(tmp_path / "run"), [0, 2, 4, 6, 8, 10])
    assert not caplog.records


def test_a_step_that_calls_another_is_one_update(tmp_path, caplog):
    torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # whose step has hooks from now on
    run = run_of(tmp_path, lambda model: Clamping(model.parameters(), lr=1e-2))
    assert_true(run, [*range(0, 24, 4), 24])
    assert not caplog.records


def test_a_step_that_fails_is_none(tmp_path, caplog):
    def failing(model, optimizer, inputs, labels, step):
        optimizer.refuses = step % 5 == 4
        try:
            plain(model, optimizer, inputs, labels, step)
        except MemoryError:
            pass

    make = lambda model: Refusing(model.parameters(), 0.05, momentum=0.9)  # noqa: E731
    run = run_of(tmp_path, make, failing, sgd=symrun.laws.SGD(0.0, 0.9))
    assert_true(run)
    assert run.info.last_step == 24 - 4 and not caplog.records


@pytest.mark.parametrize("make", [MOMENTUM, loops.other(torch.optim.AdamW)])
@pytest.mark.parametrize("place", ["before_update", "after_update"])
def test_an_interruption_in_the_middle_of_an_update(tmp_path, monkeypatch, make, place):
    from symrun.attached.notices import Notices

    def interrupt(self):
        if place == "after_update" or getattr(self, "calls", 0) >= 8:
            raise KeyboardInterrupt
        self.calls = getattr(self, "calls", 0) + 1

    monkeypatch.setattr(Notices, place, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, make)
    run = symrun.open_run(tmp_path / "run")
    assert_true(run)
    assert run.info.status == "interrupted"


def test_a_gradient_of_rounding_alone_is_no_violation(tmp_path, caplog):
    def certain(model, optimizer, inputs, labels, step):
        plain(model, optimizer, 5 * inputs, labels, step)

    make = loops.other(torch.optim.Adam, lr=3e-2, weight_decay=0.0)
    run_of(tmp_path, make, certain, 800, "mlp", dtype=torch.float32)
    assert not caplog.records


def test_in_a_fork_nothing_is_tracked_and_nothing_hangs(tmp_path):
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4) as tracker:
        plain(model, optimizer, *batch, 0)
        child = os.fork()
        if child == 0:
            for step in range(5):
                plain(model, optimizer, *batch, step)
            tracker._at_exit()
            os._exit(0)
        for _ in range(200):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, 9)
        assert done and status == 0
        plain(model, optimizer, *batch, 1)
    assert_true(symrun.open_run(tmp_path / "run"), [0, 2])


def test_a_watcher_that_fails_is_switched_off_and_named(tmp_path, caplog):
    class Broken:
        def on_record(self, step, values):
            raise ValueError("of mine")

    run = run_of(tmp_path, watchers=[Broken()])
    assert_true(run)
    assert [record.getMessage() for record in caplog.records] == [
        "Broken is switched off at step 0: of mine"
    ]


def test_a_failure_of_the_tables_hides_no_error_of_the_loop(tmp_path, caplog, monkeypatch):
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="mine"):
        with symrun.track(model, optimizer, batch[0], tmp_path / "run"):
            plain(model, optimizer, *batch, 0)
            monkeypatch.setattr("symrun.runs.writer.write_records", refuse)
            raise ValueError("mine")


def test_a_disk_that_refuses_the_start_leaves_the_training_alone(tmp_path, caplog, monkeypatch):
    from symrun.runs.directory import RunDirectory

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDirectory, "write_info", refuse)
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run"):
        for step in range(4):
            plain(model, optimizer, *batch, step)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "tracking ends at step 0" in line and "No space left" in line


def test_other_weights_than_those_of_the_state_are_noticed(tmp_path, caplog):
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4) as tracker:
        for step in range(6):
            plain(model, optimizer, *batch, step)
        state = tracker.state_dict()
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4) as tracker:
        tracker.load_state_dict(state)
        plain(model, optimizer, *batch, 6)
    assert any("load the model's state as well" in one.getMessage() for one in caplog.records)


def test_rows_of_progress_from_before_the_first_update_and_what_is_none(tmp_path):
    model, *batch = made("mlp")
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run") as tracker:
        tracker.log("val", epoch=0, loss=1.6)
        for wrong in ({"split": "test"}, {"epoch": "a"}, {"loss": torch.ones(3)}, {"top1": "x"}):
            with pytest.raises(symrun.UsageError, match="must be"):
                tracker.log(**wrong)
        plain(model, optimizer, *batch, 0)
    assert symrun.open_run(tmp_path / "run").progress().loss.tolist() == [1.6]


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = loops.mlp()

    def forward(self, inputs):
        return {"logits": self.body(inputs), "size": inputs.norm()}


def test_a_loss_takes_what_the_network_returns_and_is_named_if_it_fails(tmp_path):
    torch.manual_seed(0)
    model, inputs, labels = Named().double(), torch.randn(16, 12).double(), torch.randint(5, (16,))
    optimizer = MOMENTUM(model)
    losses = {
        "target": (lambda outputs, target: loss_of(outputs["logits"], target), labels),
        "alone": (lambda outputs: loss_of(outputs["logits"], labels), None),
        "none": (None, None),
    }
    for name, (loss, target) in losses.items():
        tracker = symrun.track(
            model, optimizer, inputs, tmp_path / name, loss=loss, target=target, every=2
        )
        optimizer.zero_grad()
        loss_of(model(inputs)["logits"], labels).backward()
        optimizer.step()
        tracker.close()
        groups = symrun.open_run(tmp_path / name).info.groups
        assert {group.symmetry.value for group in groups} == {"rescale", "translation"}
    with pytest.raises(symrun.UsageError, match="the loss fails on the dict that it returns"):
        symrun.track(model, optimizer, inputs, tmp_path / "no", loss=lambda out: out["x"].sum())


def test_a_network_in_eval_mode_is_named(tmp_path, caplog):
    model, *batch = made("convolutions")
    model.eval()
    symrun.track(model, MOMENTUM(model), batch[0], tmp_path / "run").close()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("Sequential is in eval mode")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": F.relu}, "model must be a torch.nn.Module, got"),
        ({"model": nn.Sequential(nn.ReLU())}, "has no parameters: there is nothing to track"),
        ({"optimizer": "sgd"}, "optimizer must be a torch.optim.Optimizer, got str"),
        ({"path": 3}, "path must be the name of a folder, got 3"),
        ({"path": ""}, "path must be the name of a folder"),
        ({"parameters": 2.5}, "parameters must be an integer >= 0, got 2.5"),
        ({"every": "3"}, "every must be an integer >= 1, got '3'"),
    ],
)
def test_arguments_of_another_kind(tmp_path, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    model, *batch = made("mlp")
    given = {"model": model, "optimizer": MOMENTUM(model), "example_input": batch[0], **wrong}
    with pytest.raises(symrun.UsageError) as raised:
        symrun.track(**given)
    assert message in str(raised.value) and not os.listdir(tmp_path)
    with torch.inference_mode(), pytest.raises(symrun.UsageError, match="inference_mode"):
        symrun.track(model, MOMENTUM(model), batch[0])


def test_projections_are_null_where_a_unit_has_several_learning_rates(tmp_path):
    def by_layer(model):
        rates = [0.0, 1e-3, 2e-3, 3e-3]
        layers = [layer for layer in model if list(layer.parameters())]
        groups = [
            {"params": list(layer.parameters()), "lr": rate}
            for layer, rate in zip(layers, rates, strict=True)
        ]
        return torch.optim.AdamW(groups)

    units = run_of(tmp_path, by_layer).units()
    before = units[units.step < 24]
    assert not before.projection.isin([float("inf"), float("-inf")]).any()
    assert before[before.symmetry == "rescale"].projection.isna().all()
    assert before[before.group == "6"].projection.notna().all()
