"""Which sums a run measures with, and what the kernel is held against."""

import pytest
import torch

from symrun.config import Sums
from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.symmetry import find_structure
from symrun.tracking.reductions import Reductions
from symrun.tracking.select import agree, select_sums
from symrun.tracking.torch_sums import TorchSums


@pytest.fixture
def reductions():
    model = vgg("vgg11", 10, 64, 0.0625, 0.5)
    return Reductions(model, find_structure(model, torch.zeros(2, 3, 64, 64)).groups)


def test_the_cpu_measures_with_torch_and_refuses_the_kernel(reductions):
    for kind in (Sums.auto, Sums.torch):
        assert isinstance(select_sums(kind, reductions, None), TorchSums)
    with pytest.raises(UsageError, match="track.sums=triton needs a CUDA GPU"):
        select_sums(Sums.triton, reductions, None)


class Off(TorchSums):
    def gradients(self, *args):
        sums = super().gradients(*args)
        sums[0, 5] += 1e-6 * sums.abs().max()
        return sums


def test_a_kernel_must_agree_with_torch(reductions):
    reference = TorchSums(reductions, None)
    assert agree(TorchSums(reductions, None, block=100), reference, reductions)
    assert not agree(Off(reductions, None), reference, reductions)
    assert all(parameter.grad is None for parameter in reductions.parameters)
