"""Whatever moves the weights, `exact` meets the measurement; the loop's weights stay its own."""

import copy

import loops
import pytest
import torch
from loops import FORETOLD, OBSERVED, loss_of, made, plain
from torch import nn
from torch.optim import lr_scheduler

import symrun
from symrun.tracking.followed import decays_alone

ROUNDING = 1e-12
"""60 updates of about 20 roundings each, and sums of up to 1,000 products, each 2^-53 relative to
the magnitude: 2e-13."""


def residual(table, law="exact"):
    """|measured - law| / magnitude, the largest; 0 where both are 0. NaN where the law is silent
    counts as infinite."""
    error = (table["measured"] - table[law]).abs()
    relative = (error / table["magnitude"]).where(error != 0, 0.0)
    return relative.fillna(float("inf")).max()


def trained(model, optimizer, batch, loop, steps, schedule=None):
    model.train()
    scheduler = schedule(optimizer) if schedule else None
    for step in range(steps):
        loop(model, optimizer, *batch, step)
        if scheduler:
            scheduler.step()


def tracked(folder, name, make, loop=plain, steps=60, schedule=None, **settings):
    """The run, and the model, of a loop on one of NETWORKS."""
    model, *batch = made(name)
    optimizer = make(model)
    settings = {"every": 4, "loss": loss_of, "target": batch[1], **settings}
    with symrun.track(model, optimizer, batch[0], folder / "run", **settings):
        trained(model, optimizer, batch, loop, steps, schedule)
    return symrun.open_run(folder / "run"), model


CROSSED = [(name, optimizer) for name in ("mlp", "gpt") for optimizer in (*FORETOLD, *OBSERVED)]


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        *(CROSSED),
        *(("resnet", optimizer) for optimizer in ("momentum", "adamw", "lion")),
        *(
            pytest.param("resnet", optimizer, marks=pytest.mark.slow)
            for optimizer in ("sgd", "dampening", "nesterov", "adam", "rmsprop")
        ),
    ],
)
def test_every_unit_follows_the_identity(tmp_path, caplog, name, optimizer):
    run, _ = tracked(tmp_path, name, {**FORETOLD, **OBSERVED}[optimizer])
    units = run.units()
    assert residual(units) <= ROUNDING
    silent = {"flow", "discrete"} if optimizer in OBSERVED else set()
    assert set(run.info.unpredicted) == ({"flow"} if optimizer == "nesterov" else silent)
    motion = units.groupby(["symmetry", "group", "unit"], observed=True).measured
    assert ((motion.max() - motion.min()) > 1e-6).mean() > 0.7
    assert "otherwise than by updates" not in caplog.text


CASES = {
    "one cycle, which changes momentum": (
        loops.sgd(momentum=0.9),
        plain,
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=60),
    ),
    "cosine": (
        loops.sgd(momentum=0.9),
        plain,
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 60),
    ),
    "warm-up from a rate of 0": (
        loops.sgd(),
        plain,
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 10, 1.0)),
    ),
    "accumulation": (loops.sgd(momentum=0.9), loops.accumulating, None),
    "clipping": (loops.sgd(momentum=0.9), loops.clipping, None),
    "no decay on vectors": (loops.by_kind, plain, None),
    "no decay on vectors, Nesterov": (
        lambda model: loops.by_kind(model, nesterov=True),
        plain,
        None,
    ),
    "AdamW, clipped, accumulated": (loops.other(torch.optim.AdamW), loops.accumulating, None),
    "AdamW under a schedule": (
        loops.other(torch.optim.AdamW),
        plain,
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=60),
    ),
    "a closure": (loops.sgd(momentum=0.9), loops.with_closure, None),
    "L-BFGS": (
        lambda model: torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3),
        loops.with_closure,
        None,
    ),
    "the head alone": (
        lambda model: torch.optim.SGD(model[4:].parameters(), 0.1, 0.9),
        plain,
        None,
    ),
}


def scaled(model, optimizer, inputs, labels, step):
    """A scaler an optimiser, whose scale grows every third update."""
    scaler = optimizer.__dict__.setdefault(
        "scaler", torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    )
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(inputs)
    scaler.scale(loss_of(outputs, labels)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


def averaging(model, optimizer, inputs, labels, step):
    averaged = optimizer.__dict__.setdefault("averaged", torch.optim.swa_utils.AveragedModel(model))
    plain(model, optimizer, inputs, labels, step)
    averaged.update_parameters(model)


CASES |= {
    "scaled, in autocast, clipped": (loops.sgd(momentum=0.9), scaled, None),
    "fused, scaled": (loops.sgd(momentum=0.9, fused=True), scaled, None),
    "averaged": (loops.sgd(momentum=0.9), averaging, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loop_keeps_its_weights_bit_for_bit_and_the_identity_holds(tmp_path, case):
    make, loop, schedule = CASES[case]
    run, model = tracked(tmp_path, "convolutions", make, loop, 60, schedule)
    assert residual(run.units()) <= ROUNDING

    untracked, *batch = made("convolutions")
    trained(untracked, make(untracked), batch, loop, 60, schedule)
    for one, other in zip(
        model.state_dict().values(), untracked.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def test_random_numbers_and_gradients_stay_those_of_the_loop(tmp_path):
    def drawing(model, optimizer, inputs, labels, step):
        plain(model, optimizer, inputs + 0.1 * torch.randn_like(inputs), labels, step)

    states = []
    for track in (True, False):
        model, *batch = made("convolutions")
        model.insert(3, nn.Dropout(0.3))
        optimizer = loops.sgd(momentum=0.9)(model)
        tracker = symrun.track(model, optimizer, batch[0], tmp_path / "run") if track else None
        trained(model, optimizer, batch, drawing, 10)
        if tracker:
            tracker.close()
        gradients = [one.grad.clone() for one in model.parameters()]
        buffers = [state["momentum_buffer"] for state in optimizer.state.values()]
        states.append([torch.get_rng_state(), *gradients, *buffers, *model.state_dict().values()])
    assert all(map(torch.equal, *states))


def test_the_terms_of_an_observed_update_are_those_of_its_weights(tmp_path):
    """B(theta, u) and eta^2 B(u, u), recomputed from weights that were kept, unit by unit, for the
    scale of a convolution and the column sums of the last layer."""
    kept = []

    def keeping(model, optimizer, inputs, labels, step):
        kept.append(copy.deepcopy(model.state_dict()))
        plain(model, optimizer, inputs, labels, step)

    lr, decay = 1e-3, 0.1
    make = loops.other(torch.optim.AdamW)
    run, model = tracked(tmp_path, "convolutions", make, keeping, steps=9, every=1)
    kept.append(model.state_dict())
    units = run.units().set_index(["symmetry", "group", "step", "unit"]).sort_index()
    for step in range(9):
        for unit in range(6):
            found = units.loc[("scale", "0", step, unit)]
            before, after = (
                torch.cat([kept[n]["0.weight"][unit].flatten(), kept[n]["0.bias"][unit, None]])
                for n in (step, step + 1)
            )
            update = ((1 - lr * decay) * before - after) / lr
            assert found.projection == pytest.approx(float(before @ update), rel=1e-9, abs=1e-12)
            assert found.discretisation == pytest.approx(float(lr**2 * update @ update), rel=1e-9)
            assert found.measured == pytest.approx(float(before @ before), rel=1e-14)
        found = units.loc[("translation", "6", step, 7)]
        before, after = (kept[n]["6.weight"][:, 7] for n in (step, step + 1))
        update = ((1 - lr * decay) * before - after) / lr
        assert found.projection == pytest.approx(float(update.sum()), rel=1e-6, abs=1e-9)
        assert found.discretisation == 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "dampening"])
def test_predictions_meet_what_is_measured(tmp_path, optimizer):
    """`discrete` to rounding. `flow` is off by less than a tenth of the decay in an update, a =
    eta lambda / (1 - beta) = 5e-3 with momentum: its error is of second order in a."""
    run, _ = tracked(tmp_path, "mlp", FORETOLD[optimizer])
    assert residual(run.units(), "discrete") <= ROUNDING
    assert residual(run.units(), "flow") <= 5e-4


def test_flow_follows_momentum_that_changes(tmp_path):
    """A momentum between 0.85 and 0.95 costs the oscillator no accuracy: without the term for the
    half update that it acts late, the column sums miss by 1e-3."""
    schedule = CASES["one cycle, which changes momentum"][2]
    run, _ = tracked(tmp_path, "mlp", loops.sgd(momentum=0.9), plain, 60, schedule)
    assert residual(run.units("translation"), "flow") <= 1e-4


def test_tracking_may_begin_in_the_middle_of_a_run(tmp_path):
    """Momentum from before is measured at the start."""
    for name in ("momentum", "dampening", "nesterov"):
        model, *batch = made("mlp")
        optimizer = FORETOLD[name](model)
        trained(model, optimizer, batch, plain, 20)
        with symrun.track(model, optimizer, batch[0], tmp_path / name, every=4):
            trained(model, optimizer, batch, plain, 40)
        units = symrun.open_run(tmp_path / name).units()
        assert residual(units) <= ROUNDING and residual(units, "discrete") <= ROUNDING
        if name != "nesterov":
            assert residual(units, "flow") <= 5e-4  # without the half update of Q', 2.5e-3


def test_frozen_parts_belong_to_no_group(tmp_path):
    model, *batch = made("convolutions")
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.05)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=4):
        trained(model, optimizer, batch, plain, 20)
    run = symrun.open_run(tmp_path / "run")
    assert "0" not in [group.group for group in run.info.groups]
    assert residual(run.units()) <= ROUNDING


def test_groups_whose_parameters_differ_say_why_nothing_predicts_them(tmp_path):
    run, _ = tracked(tmp_path, "convolutions", loops.by_kind)
    silent = {group.group: group.unpredicted for group in run.info.groups if group.unpredicted}
    assert silent["0"] == "0.weight and 0.bias have lr 0.05 and 0.02"
    assert "6.bias" not in silent and "6" not in silent
    units = run.units()
    assert units[units.group == "0"].flow.isna().all()
    assert residual(run.units(group="6"), "discrete") <= ROUNDING


def test_what_is_not_in_the_optimizer_is_not_tracked_and_half_of_a_group_is(tmp_path):
    run, _ = tracked(tmp_path, "convolutions", CASES["the head alone"][0])
    groups = {group.group: group.unpredicted for group in run.info.groups}
    assert groups == {"3 -> 6": "3.weight is not in the optimizer", "6": None, "6.bias": None}


def test_several_networks_and_several_inputs(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(3, 8)
            self.head = nn.Linear(8, 5)

        def forward(self, left, right):
            return self.head(torch.relu(self.one(left) + self.two(right)))

    torch.manual_seed(0)
    models = [Both().double(), Both().double()]
    left, right = torch.randn(8, 4).double(), torch.randn(8, 3).double()
    labels = torch.randint(5, (8,))
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in models]
    examples = [(left, right), {"left": left, "right": right}]
    trackers = [
        symrun.track(model, optimizer, example, tmp_path / str(n), every=2)
        for n, (model, optimizer, example) in enumerate(
            zip(models, optimizers, examples, strict=True)
        )
    ]
    for _ in range(10):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model(left, right), labels).backward()
            optimizer.step()
    for n, tracker in enumerate(trackers):
        tracker.close()
        units = symrun.open_run(tmp_path / str(n)).units()
        assert residual(units) <= ROUNDING
        assert {"rescale", "translation"} == set(units.symmetry.astype(str))


def test_the_table_has_the_optional_columns_that_run_json_names(tmp_path):
    run, _ = tracked(tmp_path, "mlp", OBSERVED["adam"], steps=8)
    assert set(run.info.columns) == {"projection", "discretisation", "baseline", "steady"}
    assert set(run.info.columns) <= set(run.units().columns)


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_muon_moves_matrices_alone(tmp_path, name):
    """Of a unit with a bias, some of the parameters are in no optimiser; of a column of the last
    layer, all are."""
    run, _ = tracked(tmp_path, name, loops.muon)
    units = run.units()
    assert residual(units) <= ROUNDING and set(run.info.unpredicted) == {"flow", "discrete"}
    assert units.projection.abs().max() > 0


class Own(torch.optim.Optimizer):
    """Decoupled weight decay, and a state that it keeps in places of its own."""

    def __init__(self, params, scale):
        super().__init__(params, {"lr": 0.01, "weight_decay": 0.5})
        self.scale, self.seen, self.calls = scale, {}, []

    @torch.no_grad()
    def step(self):
        self.calls.append(len(self.seen))
        for group in self.param_groups:
            for parameter in group["params"]:
                self.seen[parameter] = self.seen.get(parameter, 0) + 1
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(self.scale * parameter.grad, alpha=-group["lr"])


class Inherited(torch.optim.SGD):
    """Made before any other SGD, it is given a step of its own by torch."""


def test_an_optimiser_of_ones_own_is_tried_out_and_stays_as_it_is():
    parameter = torch.nn.Parameter(torch.ones(2))
    own = Own([parameter], scale=2.0)
    assert decays_alone(own)
    assert own.seen == {} and own.calls == [] and own.state == {} and (parameter == 1).all()
    kinds = {
        kind: decays_alone(kind([parameter], lr=0.1, weight_decay=0.1))
        for kind in (
            torch.optim.Adam,
            torch.optim.AdamW,
            torch.optim.RMSprop,
            torch.optim.NAdam,
            loops.Lion,
        )
    }
    assert [kind.__name__ for kind, alone in kinds.items() if alone] == ["AdamW", "Lion"]


def test_a_subclass_that_steps_as_sgd_does_is_sgd(tmp_path):
    run, _ = tracked(tmp_path, "mlp", lambda model: Inherited(model.parameters(), 0.05), steps=8)
    assert run.info.unpredicted == {}
    run, _ = tracked(tmp_path / "own", "mlp", lambda model: Own(model.parameters(), 1.0), steps=8)
    assert set(run.info.unpredicted) == {"flow", "discrete"}
