"""Precision modes do what their names say, or are refused."""

import copy

import pytest
import torch
from torch import nn

from symrun.config import Device, Precision
from symrun.errors import UsageError
from symrun.launch import compose
from symrun.training.device import (
    autocast,
    keep_float32,
    select_device,
    set_precision,
)
from symrun.training.plan import Plan

CPU = torch.device("cpu")


def test_cuda_without_a_gpu_is_an_error_and_auto_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device=cuda needs a CUDA GPU"):
        select_device(Device.cuda)
    assert select_device(Device.auto) == select_device(Device.cpu) == CPU


def test_tf32_without_a_gpu_is_an_error():
    with pytest.raises(UsageError, match="precision=tf32 needs a CUDA GPU"):
        Plan.of(compose(["data=synthetic", "device=cpu", "precision=tf32"]))


def by_torch_alone():
    """What torch has where nobody set anything."""


def by_the_older_switches():
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = False


def by_the_newer_switches():
    backends = torch.backends
    for switch in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        switch.fp32_precision = "tf32"
    backends.mkldnn.matmul.fp32_precision = backends.mkldnn.conv.fp32_precision = "bf16"


def by_some_of_both():
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.allow_tf32 = True


SET_BEFORE = [by_torch_alone, by_the_older_switches, by_the_newer_switches, by_some_of_both]


@pytest.mark.parametrize("set_before", SET_BEFORE)
@pytest.mark.parametrize("precision", Precision)
def test_tf32_is_off_unless_asked_for_and_every_switch_says_so(precision, set_before):
    """The switches are torch's own on any machine; only what uses them needs a GPU."""
    set_before()
    set_precision(precision)
    backends, tf32 = torch.backends, precision is Precision.tf32
    for switch in (backends.cudnn.conv, backends.cudnn.rnn):
        assert switch.fp32_precision == ("tf32" if tf32 else "ieee")
    for switch in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv):
        assert switch.fp32_precision == "ieee"
    assert backends.cudnn.allow_tf32 is tf32
    assert backends.cuda.matmul.allow_tf32 is False
    assert torch.get_float32_matmul_precision() == "highest"
    with backends.cudnn.flags(enabled=True):  # as torch's own tests and many libraries do
        pass
    assert backends.cudnn.allow_tf32 is tf32


def test_weights_are_float64_in_float64_alone():
    kinds = {}
    for name in ("float64", "float32", "bf16"):
        plan = Plan.of(compose(["data=synthetic", "device=cpu", f"precision={name}"]))
        kinds[name] = plan.dtype
    assert kinds.pop("float64") is torch.float64
    assert set(kinds.values()) == {torch.float32}


def test_the_last_linear_layer_stays_out_of_autocast():
    first, last = nn.Linear(8, 8), nn.Linear(8, 3)
    features = torch.randn(4, 8)
    keep_float32(last)
    with autocast(Precision.bf16, CPU):
        hidden = first(features)
        logits = last(hidden)
    assert hidden.dtype is torch.bfloat16 and logits.dtype is torch.float32
    assert torch.equal(logits, nn.functional.linear(hidden.float(), last.weight, last.bias))


def test_a_copy_of_a_layer_kept_in_float32_uses_its_own_weights():
    layer = nn.Linear(8, 3)
    keep_float32(layer)
    zeroed = copy.deepcopy(layer)
    with torch.no_grad():
        zeroed.weight.zero_()
    features = torch.ones(1, 8)
    assert torch.equal(zeroed(features)[0], zeroed.bias)
    assert not torch.equal(layer(features)[0], layer.bias)


@pytest.mark.gpu
def test_tf32_changes_convolutions_and_leaves_linear_layers_alone():
    device = torch.device("cuda")
    images = torch.randn(8, 64, 16, 16, device=device)
    convolution = nn.Conv2d(64, 64, 3).to(device)
    linear = nn.Linear(16, 64).to(device)
    results = {}
    for precision in (Precision.float32, Precision.tf32):
        set_precision(precision)
        results[precision] = convolution(images), linear(images)
    (conv_32, linear_32), (conv_tf32, linear_tf32) = results.values()
    assert not torch.equal(conv_32, conv_tf32)
    assert torch.equal(linear_32, linear_tf32)
