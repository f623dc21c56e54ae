"""In the blocks that networks are built of, the search finds every diagonal symmetry there is.

What exists is told by gradients alone (null_space.py).
"""

from dataclasses import dataclass

import blocks
import pytest
import torch
from blocks import FEATURES, IMAGES, TOKENS, WORDS, between, conv, then_head
from null_space import prove
from torch import nn
from torch.nn.utils import parametrizations

from symrun.symmetry.search import find_structure


@dataclass(frozen=True)
class Block:
    """missed: how many dimensions of scales and of shifts the search does not find, and why."""

    make: object
    example: torch.Tensor
    missed: tuple[int, int] = (0, 0)
    why: str = ""


ADDED = "a constant may move between two biases, or tables, whose values are added"
TABLE = "all rows of a table may move together"


def between_convolutions(*middle):
    return then_head(conv(2, 4, 3), *middle)


BLOCKS = {
    "mlp": Block(blocks.mlp, FEATURES),
    "plain convolutions": Block(blocks.plain_convolutions, IMAGES),
    "residual": Block(blocks.residual, IMAGES, (0, 6), ADDED),
    "residual without norm": Block(blocks.residual_without_norm, IMAGES),
    "transformer, sdpa": Block(lambda: blocks.transformer(blocks.Attention()), TOKENS),
    "transformer, sdpa, no bias": Block(
        lambda: blocks.transformer(blocks.Attention(bias=False)), TOKENS
    ),
    "transformer, softmax": Block(lambda: blocks.transformer(blocks.SoftmaxAttention()), TOKENS),
    "transformer, softmax, bias": Block(
        lambda: blocks.transformer(blocks.SoftmaxAttention(bias=True)), TOKENS
    ),
    "transformer, multihead": Block(
        lambda: blocks.transformer(blocks.Multihead(4, 2, batch_first=True)), TOKENS
    ),
    "transformer, multihead, no bias": Block(
        lambda: blocks.transformer(blocks.Multihead(4, 2, bias=False, batch_first=True)), TOKENS
    ),
    "transformer, relu, rms norm": Block(
        lambda: blocks.transformer(blocks.Attention(), nn.ReLU, nn.RMSNorm), TOKENS
    ),
    "transformer, rms norm by hand": Block(
        lambda: blocks.transformer(blocks.Attention(), nn.ReLU, blocks.RootMeanSquare), TOKENS
    ),
    "vit": Block(blocks.vit, IMAGES, (1, 6), f"{ADDED}; the last patches are not read"),
    "swin": Block(blocks.swin, IMAGES, (0, 5), f"{TABLE}; what is joined is not seen as one"),
    "attention without softmax": Block(blocks.linear_attention, TOKENS),
    "convnext": Block(blocks.convnext, IMAGES),
    "regnet_y": Block(blocks.regnet_y, IMAGES),
    "mobilenet_v3": Block(blocks.mobilenet, IMAGES),
    "shufflenet": Block(blocks.shufflenet, IMAGES),
    "densenet": Block(blocks.densenet, IMAGES),
    "googlenet": Block(blocks.googlenet, IMAGES),
    "gpt": Block(lambda: blocks.gpt(tied=False), WORDS, (0, 3), ADDED),
    "gpt, tied": Block(lambda: blocks.gpt(tied=True), WORDS, (0, 4), f"{ADDED}; {TABLE}"),
    "gpt, tied, no positions": Block(
        lambda: blocks.gpt(tied=True, positions=False), WORDS, (0, 1), TABLE
    ),
    "swiglu": Block(blocks.swiglu, FEATURES),
    "group norm": Block(
        lambda: between_convolutions(nn.GroupNorm(2, 4), nn.ReLU()), IMAGES
    ),
    "group norm, not affine": Block(
        lambda: between_convolutions(nn.GroupNorm(2, 4, affine=False), nn.ReLU()), IMAGES
    ),
    "instance norm": Block(
        lambda: between_convolutions(nn.InstanceNorm2d(4, affine=True), nn.ReLU()), IMAGES
    ),
    "instance norm, not affine": Block(
        lambda: between_convolutions(nn.InstanceNorm2d(4), nn.ReLU()), IMAGES
    ),
    "layer norm": Block(lambda: between(nn.LayerNorm(5), nn.ReLU(), given=5), FEATURES),
    "rms norm": Block(lambda: between(nn.RMSNorm(5), nn.ReLU(), given=5), FEATURES),
    "rms norm by hand": Block(
        lambda: between(blocks.RootMeanSquare(5), nn.ReLU(), given=5), FEATURES
    ),
    "transposed": Block(
        lambda: then_head(
            conv(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2), nn.ReLU(), channels=6
        ),
        IMAGES,
    ),
    "transposed, grouped": Block(
        lambda: then_head(
            conv(2, 4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.ReLU(), channels=6
        ),
        IMAGES,
    ),
    "grouped, group norm": Block(
        lambda: then_head(conv(2, 4), conv(4, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.ReLU()),
        IMAGES,
    ),
    "grouped": Block(
        lambda: then_head(conv(2, 4), nn.ReLU(), conv(4, 6, 3, groups=2), nn.ReLU(), channels=6),
        IMAGES,
    ),
    "depthwise": Block(
        lambda: then_head(conv(2, 4), nn.ReLU(), conv(4, 8, 3, groups=4), nn.ReLU(), channels=8),
        IMAGES,
    ),
    "prelu": Block(lambda: between_convolutions(nn.PReLU(4)), IMAGES),
    "prelu of one number": Block(lambda: between(nn.PReLU(), given=5), FEATURES),
    "maxout": Block(blocks.maxout, FEATURES),
    "squared relu": Block(blocks.squared_relu, FEATURES),
    "weight norm": Block(
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3)
        ),
        FEATURES,
    ),
    "spectral norm": Block(
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3)
        ),
        FEATURES,
    ),
    "weight standardisation": Block(
        blocks.standardised, IMAGES, (0, 4), "a shift varies along one axis, not along a filter"
    ),
    "cosine classifier": Block(blocks.cosine_classifier, FEATURES),
    "bag of words": Block(blocks.bag_of_words, WORDS),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_every_symmetry_is_found_and_nothing_else(name):
    block = BLOCKS[name]
    model = block.make()
    proof = prove(model, block.example, find_structure(model, block.example).groups)
    for kind, missed in zip((proof.scales, proof.shifts), block.missed, strict=True):
        assert not kind.false
        assert kind.units == kind.found, "units that depend on each other"
        assert kind.exist - kind.found == missed, proof
    assert bool(block.why) is any(block.missed)
