"""What makes a step fast can be switched, and is refused where it has no effect."""

import copy
import warnings
from functools import partial

import pytest
import torch
from torch.nn import BatchNorm2d

from symrun.config import Precision
from symrun.data import load
from symrun.errors import RunError, UsageError
from symrun.launch import compose
from symrun.training.loop import Update
from symrun.training.metrics import Scores
from symrun.training.plan import Plan
from symrun.training.setup import prepare

CPU = torch.device("cpu")
SMALL = ["data=synthetic", "data.train_images=70", "data.val_images=10", "model=vgg11_bn"]
SMALL += ["model.width=0.0625", "train.batch_size=16", "device=cpu"]


def made(*overrides):
    config = compose([*SMALL, *overrides])
    return prepare(Plan.of(config), load(config.data))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["train.cuda_graph=true"], "train.cuda_graph=true needs a CUDA GPU"),
        (["track.sums=nonsense"], "track.sums must be one of auto, torch, triton"),
        (["precision=nonsense"], "precision must be one of auto, float64"),
    ],
)
def test_what_cannot_be_had_is_refused(overrides, reason):
    with pytest.raises(UsageError, match=reason):
        made(*overrides)


@pytest.mark.parametrize(("overrides", "eps"), [([], 1e-5), (["model.eps=1e-3"], 1e-3)])
def test_every_batch_norm_has_the_eps_of_the_settings(overrides, eps):
    norms = [layer for layer in made(*overrides).model.modules() if isinstance(layer, BatchNorm2d)]
    assert len(norms) == 8 and {layer.eps for layer in norms} == {eps}


def test_the_kernel_is_refused_without_a_gpu(tmp_path):
    from symrun.training.lifecycle import train

    settings = ["track.sums=triton", f"run.dir={tmp_path}/run"]
    with pytest.raises(UsageError, match="track.sums=triton needs a CUDA GPU"):
        train(compose([*SMALL, *settings]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("device", "expected"), [("cpu", Precision.float32), ("cuda", Precision.tf32)]
)
def test_auto_is_the_fast_precision_of_the_device(device, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    overrides = [*SMALL, f"device={device}"]
    assert compose(overrides).precision is Precision.auto
    assert Plan.of(compose(overrides)).config.precision is expected
    named = compose([*overrides, "precision=bf16"])
    assert Plan.of(named).config == named


def test_the_layout_changes_where_numbers_lie_and_not_what_they_are():
    """One update, within rounding: 1e-5 of the largest weight is 100 roundings of float32."""
    weights = {}
    for layout in ("true", "false"):
        training = made(f"train.channels_last={layout}", "model.dropout=0")
        images, labels = next(training.batches.epoch(1))
        convolution = training.model.features[4].weight
        for tensor in (images, convolution):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == (layout == "true")
        Update(training, None, Scores(CPU))(images, labels, 0)
        weights[layout] = copy.deepcopy(training.model.state_dict())
    for name, values in weights["true"].items():
        largest = values.abs().max()
        assert (values - weights["false"][name]).abs().max() <= 1e-5 * largest + 1e-7, name


@pytest.mark.parametrize(("width", "last"), [(0.125, False), (0.25, True)])
def test_a_layout_in_which_torch_crashes_is_not_taken(width, last):
    """A stride of 1x1 convolutions with few channels, as in narrow ResNets."""
    training = made("model=resnet18_64", f"model.width={width}", "train.channels_last=true")
    images, _ = next(training.batches.epoch(1))
    for tensor in (images, training.model.layer2[0].conv2.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == last


class _Recorded:
    """In the place of torch.compile: calls the model and notes the batch."""

    def __init__(self, model, dynamic):
        assert dynamic is False
        self.model, self.batches = model, []
        _Recorded.last = self

    def __call__(self, images):
        self.batches.append(len(images))
        return self.model(images)


def test_full_batches_are_compiled_and_the_last_of_an_epoch_is_not(monkeypatch):
    monkeypatch.setattr(torch, "compile", _Recorded)
    training = made("train.compile=true")  # 70 images in batches of 16, the last of 6
    update = Update(training, None, Scores(CPU))
    for step, (images, labels) in enumerate(training.batches.epoch(1)):
        update(images, labels, step)
    assert _Recorded.last.batches == [16, 16, 16, 16]
    assert step == 4


def test_a_compiled_layer_out_of_autocast_has_its_gradient_in_float32(monkeypatch):
    """Over the classes the gradient of cross-entropy sums to zero, to some 100 roundings of its
    largest entry; bfloat16 would leave 1e-3."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    training = made("train.compile=true", "precision=bf16")
    Update(training, None, Scores(CPU))(*next(training.batches.epoch(1)), 0)
    gradient = training.model.classifier[-1].weight.grad
    assert gradient.sum(0).abs().max() <= 1e-5 * gradient.abs().max()


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def failing(model, dynamic):
        def forward(images):
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nat all")

        return forward

    monkeypatch.setattr(torch, "compile", failing)
    training = made("train.compile=true")
    images, labels = next(training.batches.epoch(1))
    with pytest.raises(RunError, match="train.compile=true fails here, leave it out: no C"):
        Update(training, None, Scores(CPU))(images, labels, 0)


@pytest.mark.parametrize(
    ("warned", "shown"),
    [
        ("TensorFloat32 tensor cores for float32 matrix multiplication available but not", False),
        ("something else", True),
    ],
)
def test_advice_to_round_products_to_tf32_is_not_passed_on(monkeypatch, warned, shown):
    def advised(model, dynamic):
        def forward(images):
            warnings.warn(warned, stacklevel=1)
            return model(images)

        return forward

    monkeypatch.setattr(torch, "compile", advised)
    training = made("train.compile=true")
    images, labels = next(training.batches.epoch(1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Update(training, None, Scores(CPU))(images, labels, 0)
    assert [str(warning.message) for warning in caught] == [warned] * shown


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_cudnn_times_its_algorithms_unless_bits_are_to_stay(deterministic):
    made(f"deterministic={deterministic}")
    assert torch.backends.cudnn.benchmark is (deterministic == "false")
    assert torch.are_deterministic_algorithms_enabled() is (deterministic == "true")
