"""Which sums a run measures with, and what it takes to doubt the kernel."""

import pytest
import torch

from symrun.config import Sums
from symrun.errors import UsageError
from symrun.models.vgg import vgg
from symrun.symmetry import find_structure
from symrun.tracking.blocks import BlockSums
from symrun.tracking.slots import Slots
from symrun.tracking.sums import choose, doubt_of


@pytest.fixture
def slots():
    model = vgg("vgg11", 10, 64, 0.0625, 0.5)
    return Slots(model, find_structure(model, torch.zeros(2, 3, 64, 64)).groups)


def test_the_cpu_measures_with_torch_and_refuses_the_kernel(slots):
    for kind in (Sums.auto, Sums.torch):
        assert isinstance(choose(kind, slots, None), BlockSums)
    with pytest.raises(UsageError, match="track.sums=triton needs a CUDA GPU"):
        choose(Sums.triton, slots, None)


class Off(BlockSums):
    def gradients(self):
        sums = super().gradients()
        sums[0, 5] += 1e-6 * sums.abs().max()
        return sums


def test_a_kernel_is_doubted_for_what_it_gives(slots):
    reference = BlockSums(slots, None)
    assert doubt_of(BlockSums(slots, None, block=100), reference, slots) is None
    assert doubt_of(Off(slots, None), reference, slots) == "disagrees with it"
    parameters = [p for source in slots.sources for p in source.parameters.values()]
    assert all(parameter.grad is None for parameter in parameters)
