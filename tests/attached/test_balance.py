"""The source of what scales the outputs, measured in loops of every kind."""

import copy

import loops
import pytest
import torch
from loops import accumulating, loss_of, made, plain, with_closure
from torch import nn

import symrun
from symrun.errors import UsageError

ROUNDING = 1e-12
"""40 updates of about 20 roundings each, and sums of up to 1,000 products, each 2^-53 relative to
the magnitude."""


def discarding(model, optimizer, inputs, labels, step):
    """A backward pass whose gradients nobody uses, and passes that have none."""
    loss_of(model(inputs + 1), labels).backward()
    plain(model, optimizer, inputs, labels, step)
    loss_of(model(inputs), labels)
    with torch.no_grad():
        model(inputs)


def twice(model, optimizer, inputs, labels, step):
    """Two forward passes in one loss."""
    optimizer.zero_grad()
    (loss_of(model(inputs), labels) + loss_of(model(inputs * 2), labels)).backward()
    optimizer.step()


def zeroing(model, optimizer, inputs, labels, step):
    """Gradients that are set to 0 rather than None, once after an overflow that is not stepped."""
    optimizer.zero_grad(set_to_none=False)
    (loss_of(model(inputs), labels) * 1e300 * 1e300).backward()
    optimizer.zero_grad(set_to_none=False)
    loss_of(model(inputs), labels).backward()
    optimizer.step()


def looking(model, optimizer, inputs, labels, step):
    """Gradients that are looked at, before and after those of the update are there."""
    optimizer.zero_grad()
    loss = loss_of(model(inputs), labels)
    torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    loss.backward()
    inputs = inputs.clone().requires_grad_()
    loss_of(model(inputs), labels).backward(inputs=[inputs])
    optimizer.step()


LOOPS = {
    "plain": plain,
    "accumulating": accumulating,
    "with closure": with_closure,
    "discarding": discarding,
    "twice": twice,
    "zeroing": zeroing,
    "looking": looking,
}
OPTIMIZERS = {"sgd": loops.sgd(), "momentum": loops.sgd(momentum=0.9)}


def tracked(folder, name="mlp", make=OPTIMIZERS["sgd"], loop=plain, wrap=None, **settings):
    """The rows of homogeneity of a run of 40 updates, and the model."""
    model, *batch = made(name)
    outer = wrap(model) if wrap else model
    optimizer = make(model)
    settings = {"every": 1, "loss": loss_of, "target": batch[1], **settings}
    with symrun.track(outer, optimizer, batch[0], folder / "run", homogeneity=True, **settings):
        for step in range(40):
            loop(outer, optimizer, *batch, step)
    return symrun.open_run(folder / "run").units(symmetry="homogeneity"), model


def without_eps(model):
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30
    return model


def residual(table, law):
    return ((table["measured"] - table[law]).abs() / table["magnitude"]).max()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loop", LOOPS)
def test_whatever_the_loop_the_source_is_that_of_the_update(loop, optimizer, tmp_path, caplog):
    table, model = tracked(tmp_path, make=OPTIMIZERS[optimizer], loop=LOOPS[loop])
    assert max(residual(table, "exact"), residual(table, "discrete")) <= ROUNDING
    assert table["source"].abs().max() > 1e-3
    assert not caplog.records
    untracked, *batch = made("mlp")
    other = OPTIMIZERS[optimizer](untracked)
    for step in range(40):
        LOOPS[loop](untracked, other, *batch, step)
    for one, two in zip(model.parameters(), untracked.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["convolutions", "resnet", "gpt"])
def test_networks_with_normalisation_and_tied_weights(name, tmp_path):
    table, _ = tracked(tmp_path, name, OPTIMIZERS["momentum"], wrap=without_eps)
    assert max(residual(table, "exact"), residual(table, "discrete")) <= ROUNDING


@pytest.mark.parametrize("optimizer", loops.OBSERVED)
def test_other_optimisers_follow_the_identity(optimizer, tmp_path):
    table, _ = tracked(tmp_path, make=loops.OBSERVED[optimizer])
    assert residual(table, "exact") <= ROUNDING
    gradients = table[table.step < 40]
    assert (gradients.defect.abs() <= ROUNDING * gradients.magnitude).all()


@pytest.mark.parametrize("given", ["compiled", "within"])
def test_a_compiled_network(given, tmp_path):
    """Whether what was compiled is given, or what is within it."""
    model, *batch = made("mlp")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = loops.sgd(momentum=0.9)(model)
    with symrun.track(
        compiled if given == "compiled" else model,
        *(optimizer, batch[0], tmp_path / "run"),
        every=1,
        homogeneity=True,
    ):
        for step in range(20):
            plain(compiled, optimizer, *batch, step)
    table = symrun.open_run(tmp_path / "run").units(symmetry="homogeneity")
    assert residual(table, "discrete") <= ROUNDING


def test_clipping_is_named_and_the_identity_holds(tmp_path, caplog):
    def harder(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        (10 * loss_of(model(inputs), labels)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()

    table, _ = tracked(tmp_path, loop=harder)
    assert residual(table, "exact") <= ROUNDING < residual(table, "discrete")
    assert "as by clipping or a GradScaler" in caplog.text
    assert len(caplog.records) == 1


def test_a_saved_model_has_no_hook_of_the_tracking(tmp_path):
    """Nor has a copy, whose passes do not count."""
    model, *batch = made("mlp")
    optimizer = loops.sgd()(model)
    with symrun.track(model, optimizer, batch[0], tmp_path / "run", every=1, homogeneity=True):
        for step in range(3):
            torch.save(model, tmp_path / "model.pt")
            saved = torch.load(tmp_path / "model.pt", weights_only=False)
            for other in (copy.deepcopy(model), saved):
                assert torch.equal(other(batch[0]), model(batch[0]))
                loss_of(other(batch[0]), batch[1]).backward()
            plain(model, optimizer, *batch, step)
    assert b"symrun" not in (tmp_path / "model.pt").read_bytes()
    table = symrun.open_run(tmp_path / "run").units(symmetry="homogeneity")
    assert residual(table, "discrete") <= ROUNDING


def test_outputs_that_are_changed_in_place_are_named_once(tmp_path, caplog):
    def halving(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        loss_of(model(inputs).div_(2), labels).backward()
        optimizer.step()

    table, _ = tracked(tmp_path, loop=halving, audit="off")
    assert residual(table, "exact") <= ROUNDING
    assert (table["source"][table.step < 40] == 0).all()
    (told,) = [one.getMessage() for one in caplog.records]
    assert "change a copy, outputs.clone()" in told


def test_outputs_that_are_not_seen_are_asked_for(tmp_path):
    def beside(model, optimizer, inputs, labels, step):
        optimizer.zero_grad()
        for layer in model:
            inputs = layer(inputs)
        loss_of(inputs, labels).backward()
        optimizer.step()

    with pytest.raises(UsageError, match="call that one, or leave homogeneity out"):
        tracked(tmp_path, loop=beside)


def test_a_network_whose_outputs_do_not_scale_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(8, 4)
    example = {"loss": lambda outputs: outputs.square().sum(), "path": tmp_path / "run"}
    with pytest.raises(UsageError, match="homogeneity must be False here: no exponents"):
        symrun.track(model, optimizer, inputs, homogeneity=True, **example)


class Two(nn.Module):
    """Two outputs, of which the first is scored."""

    def __init__(self):
        super().__init__()
        self.within, self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, inputs):
        hidden = self.within(inputs).relu()
        return self.one(hidden), self.other(hidden)


@pytest.mark.parametrize("given", [False, True])
def test_a_loss_of_more_than_the_outputs_is_refused(given, tmp_path):
    torch.manual_seed(0)
    model, inputs = Two(), torch.randn(8, 4)

    def loss(outputs):
        return outputs[0].square().sum() + outputs[1].exp().sum()

    structure = symrun.find_structure(model, inputs, loss) if given else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"loss": loss, "structure": structure, "homogeneity": True}
    with pytest.raises(UsageError, match="homogeneity must be false here: the gradient breaks"):
        symrun.track(model, optimizer, inputs, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
