"""The entries of matrices and their diagonals are all quadratic forms that a network conserves."""

import attentions
import null_space
import pytest
import torch
import torch.nn.functional as F
from attentions import LowRank, Residual
from torch import nn

from symrun.models.gpt import Block
from symrun.symmetry import Structure, find_structure
from symrun.symmetry.matrices import find_matrices, with_off_diagonal


class Encoder(nn.Module):
    """A block of a vision transformer as torchvision has it: 4 channels, 2 heads of 2."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        normal = self.one(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.two(x))))


def mlp():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))


def squared(outputs):
    return outputs.square().sum()


def structure_of(model, inputs):
    structure = find_structure(model.double(), inputs, squared)
    groups = find_matrices(model, structure.groups, inputs, squared)
    return with_off_diagonal(Structure(structure.layers, tuple(groups)), sampled=False)


def linear(*widths):
    layers = [nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers)


HEADS = 2 * 10
"""Entries and diagonals of one matrix of 4 rows in each of two heads."""
NETWORKS = {
    "deep linear": (lambda: linear(3, 5, 5, 2, 3), (4, 3), 15 + 15 + 3),
    "mlp": (mlp, (4, 3), 5 + 4),
    # Between what a LayerNorm scales and the layers that read it: 4 each
    "encoder": (Encoder, (4, 5, 4), 4 * 3 + 4 + 4),
    "gpt": (lambda: Block(2, 4, 0.0, True), (4, 5, 4), 4 * 3 + 4 + 4),
    "attention": (attentions.Attention, (4, 5, 8), HEADS + HEADS),
    "one key for all heads": (attentions.MultiQuery, (4, 5, 8), 10 + 10),
    # Where a pair of channels is turned, only the sum of its two squares is left
    "rotary": (attentions.Rotary, (4, 5, 8), 2 * 2 + HEADS),
    "partly rotary": (attentions.PartlyRotary, (4, 5, 8), 2 * (1 + 3) + HEADS),
    # A norm each of queries and keys
    "normalised": (attentions.Normalised, (4, 5, 8), 2 * 2 + HEADS),
    "adapter": (LowRank, (4, 8), 6),
    "stream": (Residual, (4, 8), 10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_form_is_missing_and_none_is_false(name):
    make, shape, dimensions = NETWORKS[name]
    torch.manual_seed(0)
    model, inputs = make(), torch.randn(*shape, dtype=torch.float64)
    found = null_space.prove_forms(model, inputs, structure_of(model, inputs).groups)
    assert not found.false
    assert found.exist == found.found == found.units == dimensions
