"""`symrun.track` on a GPU: the weights stay the loop's own, no step waits, the identity holds."""

import pytest
import torch
from loops import FORETOLD, OBSERVED, loss_of, made, plain
from test_identity import ROUNDING, residual

import symrun

pytestmark = pytest.mark.gpu
OPTIMISERS = {**FORETOLD, **OBSERVED}


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.cuda.set_sync_debug_mode("default")


def trained(name, optimizer, folder=None, steps=60, sync="default", every=4):
    """The weights after `steps` updates, the second half of them under torch's mode `sync`."""
    model, inputs, labels = made(name)
    model, inputs, labels = model.cuda(), inputs.cuda(), labels.cuda()
    optimizer = OPTIMISERS[optimizer](model)
    run = folder and symrun.track(
        model, optimizer, inputs, folder, loss=loss_of, target=labels, every=every
    )
    for step in range(steps):
        if step == steps // 2:
            torch.cuda.set_sync_debug_mode(sync)
        plain(model, optimizer, inputs, labels, step)
    torch.cuda.set_sync_debug_mode("default")
    if run:
        run.close()
    return {key: value.cpu() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("name", ["mlp", "resnet", "gpt"])
def test_the_identity_holds_and_the_weights_stay_the_loops_own(tmp_path, name, optimizer):
    tracked = trained(name, optimizer, tmp_path / "run")
    alone = trained(name, optimizer)
    assert all(torch.equal(value, alone[key]) for key, value in tracked.items())
    assert residual(symrun.open_run(tmp_path / "run").units()) <= ROUNDING


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adamw"])
def test_no_step_waits_for_the_device(tmp_path, optimizer):
    trained("resnet", optimizer, tmp_path / "run", sync="error")
    run = symrun.open_run(tmp_path / "run")
    assert run.info.status == "finished" and run.info.last_step == 60
