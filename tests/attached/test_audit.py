"""What happens otherwise than was said ends in one line that names the likely cause."""

import loops
import pytest
import torch
import torch.nn.functional as F
from loops import loss_of, made, plain

import symrun
from symrun.laws import SGD
from symrun.tracking.audit import Audit

MOMENTUM = loops.sgd(momentum=0.9)


def lines_of(caplog, folder, make=MOMENTUM, loop=plain, dtype=torch.float64, **settings):
    """The warnings of a run of 40 updates of the small convolutional network."""
    model, *batch = made("convolutions", dtype)
    optimizer = make(model)
    with symrun.track(model, optimizer, batch[0], folder / "run", every=5, **settings):
        for step in range(40):
            loop(model, optimizer, *batch, step)
    return [record.getMessage() for record in caplog.records]


def clamping(model, optimizer, inputs, labels, step):
    plain(model, optimizer, inputs, labels, step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)


def once(model, optimizer, inputs, labels, step):
    plain(model, optimizer, inputs, labels, step)
    if step == 12:
        with torch.no_grad():
            model[0].weight.mul_(1.001)


def scaled_later(model, optimizer, inputs, labels, step):
    """As GradScaler without `unscale_` would, if its scale were undone within the step."""

    def scale(optimizer, *_):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.mul_(2.0**16)

    if step == 0:
        optimizer.register_step_pre_hook(scale)
    optimizer.zero_grad()
    (loss_of(model(inputs), labels) / 2.0**16).backward()
    optimizer.step()


def two_optimizers(model, optimizer, inputs, labels, step):
    plain(model, optimizer, inputs, labels, step)
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


WRONG = {
    "weights clamped after the update": (
        {"loop": clamping},
        "weight changes between two updates",
    ),
    "weights changed once": ({"loop": once}, "it happened once"),
    "another optimizer beside it": (
        {"loop": two_optimizers},
        "changes between two updates",
    ),
    "gradients scaled until within the update": (
        {"loop": scaled_later},
        "6.554e+04 times the gradient that there was before it",
    ),
    "momentum that was not said": ({"sgd": SGD(1e-2)}, "a momentum of 0.9, not 0"),
    "another momentum": ({"sgd": SGD(1e-2, 0.8)}, "a momentum of 0.9, not 0.8"),
    "another weight decay": ({"sgd": SGD(2e-2, 0.9)}, "a weight decay of 0.01, not 0.02"),
    "another optimiser": (
        {"make": loops.other(torch.optim.Adam), "sgd": SGD(0.0, 0.9)},
        "is not that of SGD with",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_silently_wrong_elsewhere_is_named_in_one_line(tmp_path, caplog, case, dtype):
    settings, cause = WRONG[case]
    found = [line for line in lines_of(caplog, tmp_path, dtype=dtype, **settings)
             if "otherwise than by updates" in line]  # fmt: skip
    assert len(found) == 1 and cause in found[0] and "\n" not in found[0]
    assert str(tmp_path / "run") in found[0]


RIGHT = {
    "as said": {"sgd": SGD(1e-2, 0.9)},
    "its own settings": {},
    "Adam": {"make": loops.other(torch.optim.Adam)},
    "accumulation": {"loop": loops.accumulating},
    "a closure": {"loop": loops.with_closure},
    "high rates": {"make": loops.sgd(lr=0.5, momentum=0.9)},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", RIGHT)
def test_what_is_right_is_not_complained_of(tmp_path, caplog, case, dtype):
    assert lines_of(caplog, tmp_path, dtype=dtype, **RIGHT[case]) == []


def with_another_loss(model, optimizer, inputs, labels, step):
    optimizer.zero_grad()
    F.mse_loss(model(inputs), F.one_hot(labels, 5).to(inputs)).backward()
    optimizer.step()


def with_a_penalty(model, optimizer, inputs, labels, step):
    optimizer.zero_grad()
    penalty = sum(parameter.square().sum() for parameter in model.parameters())
    (loss_of(model(inputs), labels) + 0.05 * penalty).backward()
    optimizer.step()


@pytest.mark.parametrize("loop", [with_another_loss, with_a_penalty])
def test_a_loss_that_was_not_said_shows_in_the_gradient(tmp_path, caplog, loop):
    (line,) = lines_of(caplog, tmp_path, loop=loop)
    assert "breaks the constraint of" in line and "the loss is another one than was named" in line


def test_the_loss_that_is_said_is_the_one_that_symmetries_are_proven_with(tmp_path, caplog):
    model, *batch = made("convolutions")
    optimizer = MOMENTUM(model)
    target = F.one_hot(batch[1], 5).double()
    with symrun.track(
        model, optimizer, batch[0], tmp_path / "run", loss=F.mse_loss, target=target, every=5
    ):
        for step in range(10):
            with_another_loss(model, optimizer, *batch, step)
    groups = symrun.open_run(tmp_path / "run").info.groups
    assert "translation" not in {group.symmetry.value for group in groups} and not caplog.records


def test_it_ends_the_training_where_that_is_asked_for(tmp_path, caplog):
    with pytest.raises(symrun.SymrunError, match="weight changes between two updates"):
        lines_of(caplog, tmp_path, loop=clamping, audit="error")
    assert symrun.open_run(tmp_path / "run").info.status == "failed"


def test_it_is_silent_where_that_is_asked_for(tmp_path, caplog):
    assert lines_of(caplog, tmp_path, loop=clamping, audit="off") == []


def test_parameters_outside_of_the_optimizer_are_no_error_of_the_law(tmp_path, caplog):
    def head(model):
        return torch.optim.SGD([*model[3].parameters(), *model[6].parameters()], 0.05)

    assert lines_of(caplog, tmp_path, make=head) == []


def test_a_gradient_that_is_missing_ends_the_predictions_of_its_groups_alone(tmp_path, caplog):
    def without(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        loss_of(model(inputs), labels).backward()
        if step >= 10:
            model[3].weight.grad = None
        optimizer.step()

    (line,) = lines_of(caplog, tmp_path, loop=without)
    assert "not predicted from step 10 on" in line and "3.weight had no gradient" in line
    run = symrun.open_run(tmp_path / "run")
    units = run.units()
    concerned = units.group.isin([g.group for g in run.info.groups if g.unpredicted])
    assert units[concerned & (units.step >= 10)].flow.isna().all()
    assert units[~concerned | (units.step < 10)].flow.notna().all()
    error = (units.measured - units.exact).abs() / units.magnitude.clip(lower=1e-30)
    assert error.max() <= 1e-12


@pytest.mark.parametrize("fused", [False, True])
def test_grad_scaler_with_and_without_a_fused_update(tmp_path, caplog, fused):
    """The first scale overflows, so that updates are skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=4)

    def scaled(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        scaler.scale(loss_of(model(inputs), labels)).backward()
        scaler.step(optimizer)
        scaler.update()

    lines = lines_of(
        caplog, tmp_path, loops.sgd(momentum=0.9, fused=fused), scaled, dtype=torch.float32
    )
    assert lines == []
    units = symrun.open_run(tmp_path / "run").units()
    error = (units.measured - units.exact).abs() / units.magnitude.clip(lower=1e-30)
    assert error.max() <= 1e-5
    moved = units[units.symmetry == "rescale"].groupby(["group", "unit"], observed=True).measured
    assert (moved.max() - moved.min()).min() > 0
    settled = units[(units.step > 20) & (units.grad_norm_sq.notna())]
    assert settled.grad_norm_sq.max() < 100  # of the gradient itself, whatever its scale was


def test_autocast_is_no_violation(tmp_path, caplog):
    def cast(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(inputs)
        loss_of(outputs.float(), labels).backward()
        optimizer.step()

    assert lines_of(caplog, tmp_path, loop=cast, dtype=torch.float32) == []


def test_weights_in_bfloat16_are_observed(tmp_path):
    model, *batch = made("mlp", torch.bfloat16)
    optimizer = MOMENTUM(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=5):
        for step in range(10):
            plain(model, optimizer, *batch, step)
    info = symrun.open_run(tmp_path / "run").info
    assert "bfloat16" in info.unpredicted["flow"] and info.precision.value == "bf16"
    assert info.status == "finished" and len(symrun.open_run(tmp_path / "run").parameters())


def test_the_audit_is_indifferent_to_how_far_apart_records_are():
    """Its bound grows with the updates, and one rounding too much in each of them breaks it."""
    import numpy as np

    from symrun.symmetry import Group, Symmetry, rows

    group = Group(Symmetry.scale, "w", ("w",), (rows("w.weight", (2, 3)),))
    for every in (1, 100):
        for size, noticed in ((15, False), (25, True)):
            audit = Audit([group], torch.float32)
            for record in range(3):
                drift = record * every * size * 2.0**-24
                measured = np.array([1.0, 1.0 + drift])
                values = {"measured": measured, "exact": np.ones(2), "magnitude": np.ones(2)}
                audit.on_record(record * every, values)
            assert (audit.missed is not None) == noticed
            assert not noticed or audit.missed.unit == 1


def test_ema_and_averaged_copies_are_left_alone(tmp_path, caplog):
    averages = []

    def averaging(model, optimizer, inputs, labels, step):
        if step == 0:
            averages.append(torch.optim.swa_utils.AveragedModel(model))
        plain(model, optimizer, inputs, labels, step)
        averages[0].update_parameters(model)

    assert lines_of(caplog, tmp_path, loop=averaging) == []
