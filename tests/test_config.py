"""Wrong settings are refused before anything starts: setting, constraint, value, in one line."""

import dataclasses
import json
import re

import pytest
from torch import nn

from symrun.config import Config, Precision
from symrun.data.registry import SyntheticConfig
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.overrides import configs
from symrun.runs.settings import RecordedConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=-0.1", "optim.lr must be > 0, got -0.1"),
        ("optim.lr=inf", "optim.lr must be finite, got inf"),
        ("optim.lr=1e150", "optim.lr must be <= 1e+30, got 1e+150"),
        ("optim.weight_decay=inf", "optim.weight_decay must be finite, got inf"),
        ("optim.lr=nan", "optim.lr must be > 0, got nan"),
        ("optim.lr=fast", "optim.lr must be a number, got 'fast'"),
        ("optim.weight_decay=-1e-4", "optim.weight_decay must be >= 0, got -0.0001"),
        ("optim.weight_decay=10", "optim.weight_decay must be < 1 / optim.lr (10), got 10"),
        ("optim.momentum=1", "optim.momentum must be in [0, 1), got 1.0"),
        ("optim.dampening=0.5", "optim.dampening must be 0 where optim.momentum is 0"),
        ("optim.nesterov=true", "optim.nesterov must be false unless optim.momentum > 0"),
        ("optim.schedule=linear", "optim.schedule must be one of constant, multistep, cosine,"),
        ("optim.gamma=0.1", "optim.gamma must be null without optim.schedule=multistep, got 0.1"),
        ("optim.warmup=0.1", "optim.warmup must be null without optim.schedule=warmup_cosine"),
        ("optim.schedule=warmup_cosine", "optim.warmup must be given with"),
        ("optim.schedule=multistep", "optim.milestones must be given with"),
        ("optim.name=adagrad", "optim.name must be one of sgd, adam, adamw, rmsprop, got adagrad"),
        ("train.steps=0", "train.steps must be in [1, 10000000], got 0"),
        ("train.epochs=1.5", "train.epochs must be an integer, got 1.5"),
        ("train.batch_size=1", "train.batch_size must be >= 2, got 1"),
        ("track.every=0", "track.every must be >= 1, got 0"),
        ("track.parameters=-1", "track.parameters must be >= 0, got -1"),
        ("model.width=1e-9", "model.width must be in [1/64, 8], got 1e-09"),
        ("run.dir=???", "run.dir must have a value, got ???"),
        ("run.name=???", "run.name must have a value, got ???"),
        ("model.width=0", "model.width must be in [1/64, 8], got 0"),
        ("model.dropout=1", "model.dropout must be in [0, 1), got 1"),
        ("model.eps=0", "model.eps must be > 0, got 0.0"),
        ("model.eps=nan", "model.eps must be > 0, got nan"),
        ("model.eps=inf", "model.eps must be finite, got inf"),
        ("model.eps=small", "model.eps must be a number, got 'small'"),
        ("model.name=vgg12", "model.name must be one of vgg11, vgg11_bn"),
        ("data.classes=1", "data.classes must be in [2, 1000], got 1"),
        (
            "data.image_size=40",
            "data.image_size must be a multiple of 32 for model=vgg16_bn, got 40",
        ),
        ("data.train_images=3", "data.train_images must be >= data.classes (10), got 3"),
        (
            "data.name=cifar",
            "data.name must be one of tiny_imagenet, synthetic, cifar10,",
        ),
        (
            "precision=float16",
            "precision must be one of auto, float64, float32, tf32, bf16, got float16",
        ),
        ("device=tpu", "device must be one of auto, cpu, cuda, got tpu"),
        ("seed=-1", "seed must be in [0, 2^63), got -1"),
        ("seed=true", "seed must be an integer, got True"),
        ("train=null", "train must be a group of settings, got None"),
        (
            "data.name=[1]",
            "image_folder, text, got [1]",
        ),
        ("data.image_size=65536", "data.image_size must be in [8, 1024], got 65536"),
        ("data.train_images=100000000", "data.train_images must be in [1, 1000000]"),
        ("run.name=../../x", "run.name must be a name without slashes, got '../../x'"),
        ("run.dir='~nosuchuser/x'", "run.dir=~nosuchuser/x names a home folder"),
        ("data.root=/tmp", "there is no setting data.root with data=synthetic"),
        ("data.channels=2", "data.channels must be 1 (grey) or 3 (colour), got 2"),
        ("data.augment=mirror", "data.augment must be one of none, flip, crop, flip_crop, got mir"),
        ("data.crop_padding=0", "data.crop_padding must be in [1, 256], got 0"),
        ("data.mean=[0.5]", "data.mean must be a list of 3, one for each channel, got [0.5]"),
        ("data.mean=0.5", "data.mean must be a list such as [0.5,0.75], got 0.5"),
        ("data.mean=[0,0,nan]", "data.mean must be finite, got nan"),
        ("data.std=[0.2,0,0.2]", "data.std must be > 0, got 0.0"),
    ],
)
def test_refused_in_one_line(override, message):
    with pytest.raises(UsageError) as caught:
        compose(["data=synthetic", override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.milestones=[0.5,0.4]", "optim.gamma=0.1"], "rising shares of the run"),
        (["optim.milestones=[1]", "optim.gamma=0.1"], "rising shares of the run"),
        (["optim.milestones=[]", "optim.gamma=0.1"], "rising shares of the run"),
        (["optim.milestones=0.5", "optim.gamma=0.1"], "a list such as [0.5,0.75], got 0.5"),
        (["optim.milestones=[a]", "optim.gamma=0.1"], "optim.milestones[0] must be a number"),
        (["optim.milestones=[0.5]"], "optim.gamma must be given"),
        (["optim.gamma=0.1", "optim.schedule=cosine", "optim.milestones=[0.5]"], "got [0.5]"),
        (["optim.milestones=[0.5]", "optim.gamma=0"], "optim.gamma must be in (0, 1], got 0.0"),
    ],
)
def test_milestones_refused_in_one_line(overrides, message):
    with pytest.raises(UsageError) as caught:
        compose(["data=synthetic", "optim.schedule=multistep", *overrides])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimiser", "override", "message"),
    [
        ("adam", "optim.beta2=1", "optim.beta2 must be in [0, 1), got 1.0"),
        ("adamw", "optim.eps=0", "optim.eps must be > 0, got 0.0"),
        ("rmsprop", "optim.alpha=-1", "optim.alpha must be in [0, 1), got -1.0"),
    ],
)
def test_wrong_settings_of_other_optimisers(optimiser, override, message):
    with pytest.raises(UsageError) as caught:
        compose([f"optim={optimiser}", override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
@pytest.mark.parametrize("norm", ["", "_bn"])
def test_every_model_has_a_preset(depth, norm):
    assert compose([f"model=vgg{depth}{norm}"]).model.name == f"vgg{depth}{norm}"


@pytest.mark.parametrize(
    ("experiment", "model", "weight_decay"),
    [("fig1", "vgg16_bn", 1e-4), ("fig5_bn", "vgg16_bn", 0.0), ("fig5_plain", "vgg16", 0.0)],
)
def test_the_papers_settings(experiment, model, weight_decay):
    config = compose([f"experiment={experiment}"])
    assert (config.model.name, config.model.width, config.model.dropout) == (model, 1.0, 0.5)
    assert (config.optim.lr, config.optim.weight_decay) == (0.1, weight_decay)
    assert (config.optim.momentum, config.optim.nesterov) == (0.0, False)
    assert (config.train.epochs, config.train.steps, config.train.batch_size) == (100, None, 256)
    assert config.data.name == "tiny_imagenet" and config.run.name == experiment


def test_every_preset_composes():
    for path in configs().glob("experiment/*.yaml"):
        assert compose([f"experiment={path.stem}"]).run.name == path.stem


def test_overrides_win_over_the_preset_and_become_typed():
    config = compose(
        ["experiment=quickstart_bn", "optim.lr=1", "precision=bf16", "train.steps=null"]
    )
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.precision is Precision.bf16 and config.train.steps is None
    assert isinstance(config.data, SyntheticConfig)


def test_a_configuration_is_frozen_and_survives_run_json():
    milestones = ["optim.schedule=multistep", "optim.milestones=[0.5,0.75]", "optim.gamma=0.1"]
    config = compose(["experiment=quickstart_plain", "run.dir='~/here'", *milestones])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    assert Config.from_mapping(json.loads(json.dumps(config.to_dict()))) == config
    assert "~" not in str(config.run.dir)


def test_unknown_and_missing_settings_are_named():
    settings = compose([]).to_dict()
    with pytest.raises(UsageError, match="there is no setting track.evry"):
        Config.from_mapping({**settings, "track": {"evry": 1, "parameters": 1}})
    with pytest.raises(UsageError, match="the setting track.parameters is missing"):
        Config.from_mapping({**settings, "track": {"every": 1}})


@pytest.mark.parametrize(
    "words", [["experiment=quickstart_bn"], ["data=synthetic", "train.steps=800"]]
)
def test_epochs_are_refused_where_steps_take_their_place(words):
    with pytest.raises(UsageError, match=r"train\.epochs=2 has no effect where train\.steps=800: "):
        compose([*words, "train.epochs=2"])


def test_epochs_replace_the_steps_of_a_preset_that_are_null():
    train = compose(["experiment=quickstart_bn", "train.epochs=2", "train.steps=null"]).train
    assert (train.epochs, train.steps) == (2, None)


def test_eps_is_refused_where_it_has_no_effect():
    message = "model.eps must be 1e-05 without BN (model=vgg11), since it has no effect there"
    with pytest.raises(UsageError, match=re.escape(f"{message}, got 0.001")):
        compose(["model=vgg11", "model.eps=1e-3"])
    assert compose(["model=vgg11_bn", "model.eps=1e-3"]).model.eps == 1e-3


def test_a_run_from_before_eps_was_a_setting_had_torchs():
    now = compose(["model=vgg11"])
    before = now.to_dict()
    del before["model"]["eps"]
    assert now.model.eps == nn.BatchNorm2d(1).eps
    assert Config.from_mapping(before) == now and not Config.from_mapping(before).differences(now)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=image_folder"], "data.root must be a folder with train/ and val/"),
        (["data=image_folder", "data.root=x", "data.size=4"], "data.size must be in [8, 1024]"),
        (["data=image_folder", "data.root=x", "data.channels=4"], "data.channels must be 1 (grey)"),
        (
            ["data=image_folder", "data.root=x", "data.channels=1", "data.std=[1,1,1]"],
            "a list of 1",
        ),
        (["data=text"], "data.root must be a text file (data.root=FILE), got null"),
        (["data=text", "data.root=x", "data.length=0"], "data.length must be in [1, 65536], got 0"),
        (["data=text", "data.root=x", "data.val_share=1"], "data.val_share must be in (0, 1), got"),
        (["data=text", "data.root=x", "data.augment=flip"], "no setting data.augment with data=te"),
        (
            ["data=mnist", "data.crop_padding=2"],
            "must be 4 with data.augment=none, which crops noth",
        ),
        (["data=mnist", "data.mean=[0.1,0.1,0.1]"], "data.mean must be a list of 1"),
    ],
)
def test_data_settings_refused_in_one_line(overrides, message):
    with pytest.raises(UsageError) as caught:
        compose(overrides)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_from_before_augmentation_was_a_setting_had_todays_default():
    for data, augment in {"tiny_imagenet": "flip_crop", "synthetic": "crop"}.items():
        now = compose([f"data={data}"])
        before = now.to_dict()
        for setting in ("mean", "std", "augment", "crop_padding", "channels"):
            before["data"].pop(setting, None)
        assert now.data.augment.value == augment
        assert not Config.from_mapping(before).differences(now)
        assert RecordedConfig.of(before).by_name == RecordedConfig.of(now.to_dict()).by_name
