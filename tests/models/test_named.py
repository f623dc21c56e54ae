"""torchvision's classifiers and the user's own networks: built by name, refused in one line."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from run_json import rewrite

from symrun.cli import main
from symrun.data import load
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.models import build_model
from symrun.runs.directory import RunDirectory
from symrun.runs.info import Status
from symrun.runs.reading import read_table
from symrun.tasks import make_criterion
from symrun.training.plan import Plan
from symrun.training.setup import prepare
from symrun.training.trial import shape_of_labels

SMALL = ["data=synthetic", "data.train_images=40", "data.val_images=20", "device=cpu"]
SMALL += ["train.batch_size=8", "train.steps=4", "track.every=2"]
NETS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, inputs, width, classes):
        super().__init__()
        first, second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())
        self.main, self.other = nn.Linear(width, classes), nn.Linear(width, 2 * classes)

    def forward(self, images):
        hidden = self.hidden(images)
        return {"main": self.main(hidden), "other": self.other(hidden)}

def two(num_classes, in_channels, width=8):
    return Two(in_channels * 1024, width, num_classes)

def without_classes(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, width))

def fails():
    raise RuntimeError("first line\\nsecond line")

def leaves():
    raise SystemExit(2)

def number():
    return 3

def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Tanh(), nn.Linear(4, 10))

constant = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A package of the user's in the working directory; its name."""
    name = f"nets_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.py").write_text(NETS)
    (tmp_path / name / "broken.py").write_text("import nowhere_at_all")
    (tmp_path / name / "wrong.py").write_text("1 / 0")
    (tmp_path / name / "script.py").write_text("import sys; sys.exit(2)")
    monkeypatch.chdir(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def prepared(*settings):
    config = compose([*SMALL, *settings])
    return prepare(Plan.of(config), load(config.data))


def refusal(*settings):
    with pytest.raises(UsageError) as caught:
        prepared(*settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_classifier_of_torchvision():
    training = prepared(
        "model=torchvision/mobilenet_v3_small", "model.args={dropout:0.1}", "data.classes=7"
    )
    assert training.model.classifier[-1].out_features == 7
    assert training.model.classifier[-2].p == 0.1
    assert training.plan.config.run.name == "torchvision-mobilenet_v3_small"


@pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")
def test_googlenet_trains_with_one_of_its_outputs():
    """The layers of the other outputs have no gradient, so that nothing of them is measured."""
    training = prepared("model=torchvision/googlenet", "data.image_size=64")
    layers = {layer for group in training.structure.groups for layer in group.layers}
    assert "conv1.bn" in layers and not [name for name in layers if name.startswith("aux")]
    images, labels = next(training.batches.epoch(1))
    training.model.train()
    outputs, loss = training.outputs_and_loss(images, labels)
    assert outputs.shape == (8, 10) and loss.isfinite()
    assert training.model.eval()(images).shape == (8, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=torchvision/resnt18"], "no classifier resnt18; did you mean model=torchvision/re"),
        (["model=torchvision/"], "torchvision has no classifier "),
        (["model=torchvision/alexnet"], "alexnet fails on inputs of shape [4, 3, 32, 32]: Given"),
        (["model=torchvision/vit_b_16"], "fails on inputs of shape [4, 3, 32, 32]: Wrong image"),
        (
            ["model=torchvision/resnet18", "model.args={deep:1}"],
            "unexpected keyword argument 'deep': mend it or model.args",
        ),
        (["model=torchvision/resnet18", "model.args={weights:DEFAULT}"], "'weights': mend it or"),
        (
            ["model=mlp", "task=next_token"],
            "model=mlp gives outputs of shape [4, 10] where task=next_token on this data needs [4,",
        ),
        (["model=mlp", "task.output=1"], "must be null, since model=mlp returns a single tensor"),
        (
            ["model=mlp", "task.class_weights=[1,2]"],
            "task.class_weights must be one number for each of 10 classes, got 2",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before(settings, message):
    assert message in refusal(*settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["NETS.mine:tow"], "has no function tow; did you mean model=NETS.mine:two?"),
        (["NETS.mine:constant"], "NETS.mine has no function constant"),
        (["NETS.mien:two"], "no module NETS.mien, neither in HERE nor installed: start symrun in"),
        (["nowhere_at_all:two"], "no module nowhere_at_all, neither in HERE nor installed"),
        (["NETS.broken:two"], "NETS.broken failed with ModuleNotFoundError: No module named 'now"),
        (["NETS.wrong:two"], "importing NETS.wrong failed with ZeroDivisionError: division by"),
        (["NETS.script:two"], "importing NETS.script failed with SystemExit: 2"),
        (["NETS.mine:fails"], "NETS.mine:fails failed with RuntimeError: first line: mend it or"),
        (["NETS.mine:leaves"], "NETS.mine:leaves failed with SystemExit: 2: mend it or"),
        (["NETS.mine:number"], "NETS.mine:number must return a torch.nn.Module, got int"),
        (["NETS.mine:without_classes"], "missing 1 required positional argument: 'width': mend"),
        (
            ["NETS.mine:without_classes", "model.args={width:4}"],
            "gives outputs of shape [4, 4] where task=cross_entropy on this data needs [4, 10]",
        ),
        (["NETS.mine:two"], "returns a dict: task.output must be one of main, other, got None"),
        (["NETS.mine:two", "task.output=other"], "gives outputs of shape [4, 20] where"),
    ],
)
def test_a_network_of_the_users_that_cannot_be_used(nets, tmp_path, settings, message):
    path, *others = (word.replace("NETS", nets) for word in settings)
    expected = message.replace("NETS", nets).replace("HERE", str(tmp_path))
    assert expected in refusal(f"model={path}", *others)


def test_a_run_of_a_network_of_the_users_is_resumed_and_checked(nets, capfd, monkeypatch):
    """From the checkpoint in its middle it goes on bit for bit; nowhere else is there the code."""
    words = [f"model={nets}.mine:two", "model.args={width:12}", "task.output=main", *SMALL]
    words += ["train.checkpoint_every=2", "optim.weight_decay=1e-3", "run.dir=run"]
    assert main(["train", *words]) == 0
    run = RunDirectory.open("run")
    info, units = run.info(), read_table(run, "units")
    assert info.config.by_name["model.name"] == f"{nets}.mine:two"
    assert info.config.by_name["model.args.width"] == 12
    assert (info.model.title, info.model.width) == (f"{nets}.mine:two", None)
    names = [group.group for group in info.groups]
    assert names == ["hidden.1 -> hidden.3", "hidden.3 -> main", "main", "main.bias"]

    run.checkpoint(4).unlink()
    rewrite(run, status="interrupted")
    assert main(["resume", "run"]) == 0
    assert run.info().status is Status.finished and read_table(run, "units").equals(units)
    assert main(["check", "run"]) == 0
    assert main(["check", "--constraints", "run"]) == 0
    assert f"{nets}.mine:two, 16 images" in capfd.readouterr().out

    run.checkpoint(4).unlink()
    rewrite(run, status="interrupted")
    for module in [module for module in sys.modules if module.startswith(nets)]:
        del sys.modules[module]
    (place := run.path / "elsewhere").mkdir()
    monkeypatch.chdir(place)
    assert main(["resume", ".."]) == 2
    assert f"there is no module {nets}, neither in" in capfd.readouterr().err


def test_a_network_without_a_symmetry_has_nothing_to_measure(nets, capfd):
    """tanh keeps no scale, and squared error sees a shift of the outputs."""
    assert main(["train", f"model={nets}.mine:smooth", "task=mse", "run.dir=run", *SMALL]) == 2
    assert (
        "has no symmetry that symrun knows: there is nothing to measure" in capfd.readouterr().err
    )
    assert not Path("run").exists()


def test_a_trial_leaves_network_and_generators_as_they_were():
    """Dropout draws, and BatchNorm counts, on the copy alone."""
    config = compose([*SMALL, "model=vgg11_bn", "model.width=0.0625"])
    torch.manual_seed(0)
    model = build_model(config.model, (3, 32, 32), 10)
    weights, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    criterion = make_criterion(config.task, 10, torch.device("cpu"), torch.float32)
    assert shape_of_labels(model, torch.ones(2, 3, 32, 32), criterion, config, 10) == (2,)
    assert torch.equal(torch.get_rng_state(), generator)
    after = model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert all(parameter.grad is None for parameter in model.parameters())
