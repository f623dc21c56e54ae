"""The command on the page makes the configuration that the run had."""

import shlex

import pytest
from run_json import described

from symrun.data import DATA_SETS
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.runs.differences import _ROOTS, changed_settings, command, differing_settings

RUNS = {
    "experiment=fig1 data.root=/somewhere": "symrun train model=vgg16_bn data=tiny_imagenet "
    "task=cross_entropy optim=sgd optim.weight_decay=0.0001",
    "experiment=quickstart_bn seed=7 device=cpu run.name=mine": None,
    "experiment=momentum optim.lr=1e-5": None,
    "experiment=mlp_mnist": None,
    "experiment=resnet18_tiny_imagenet data.mean=[0.5,0.5,0.25]": None,
    "model=torchvision/resnet18 data=synthetic": None,
    "data=synthetic optim.schedule=multistep optim.milestones=[0.5,0.75] optim.gamma=0.1": None,
    "data=synthetic optim=adamw track.dynamics=true": None,
    "data=synthetic task=cross_entropy task.label_smoothing=0.1 train.compile=true": None,
}


@pytest.mark.parametrize("words", RUNS)
def test_the_command_repeats_the_run(words):
    config = compose(words.split())
    precision = "float32" if config.precision.value == "auto" else config.precision.value
    setup = described(words.split(), precision=precision)
    said = command(setup.published())
    if RUNS[words] is not None:
        assert said == f"{RUNS[words]} precision=float32"
    program, train, *settings = shlex.split(said)
    assert (program, train) == ("symrun", "train")
    differences = [one.split()[0] for one in config.differences(compose(settings))]
    assert differences == (["precision"] if config.precision.value == "auto" else [])


@pytest.mark.parametrize(
    ("data", "root", "unknown"),
    [("image_folder", "/my images/[a]=b,c", "DIR"), ("text", "novels/a.txt", "FILE")],
)
def test_the_command_names_data_that_must_be_given(data, root, unknown):
    quoted = root.translate({ord(sign): f"\\{sign}" for sign in " [],="})
    words = [f"data={data}", f"data.root={quoted}", "seed=3"]
    words += ["model=gpt", "task=next_token"] if data == "text" else []
    setup, config = described(words), compose(words)
    for info, expected in ((setup, root), (setup.published(), unknown)):
        again = compose(shlex.split(command(info))[2:])
        assert str(again.data.root) == expected
        left = {one.split()[0] for one in config.differences(again)}
        assert left <= {"precision", "data.root"}


def test_every_data_set_that_must_be_given_is_named():
    for name in DATA_SETS:
        try:
            compose([f"data={name}", "data.root=null"])
        except UsageError as error:
            assert (name in _ROOTS) == ("data.root=" in str(error)), name
        else:
            assert name not in _ROOTS


def test_there_is_none_for_a_loop_of_ones_own(own_loops):
    assert {command(run.info()) for run in own_loops.values()} == {None}


def test_a_run_from_before_the_task_was_a_group():
    setup = described()
    old = {**setup.config.settings, "task": "classification"}
    config = type(setup.config).of(old)
    assert "classification" not in command(type(setup)(**{**vars(setup), "config": config}))


def test_settings_that_differ_and_those_that_are_not_the_defaults():
    adam = {"optim.name": "adam", "optim.beta1": 0.9, "seed": 0, "run.name": "a"}
    sgd = {"optim.name": "sgd", "optim.momentum": 0.9, "seed": 0, "run.name": "b"}
    assert differing_settings([adam, sgd]) == ["optim.name", "optim.beta1", "optim.momentum"]
    older = {"optim.name": "sgd", "seed": 1}  # made before there was such a setting
    assert differing_settings([sgd, older]) == ["seed"]
    assert differing_settings([sgd]) == []
    changed = changed_settings(described(["data=synthetic", "seed=3", "device=cpu"]))
    assert changed == {"seed": (3, 0)}
