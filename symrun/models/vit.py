"""A vision transformer: a GPT of patches that see each other."""

import math

import torch
from torch import Tensor, nn

from symrun.models.gpt import STD, Block, draw_weights


class ViT(nn.Module):
    """Blocks of attention and an MLP, each behind a LayerNorm, on a residual stream of patches.

    images [batch, channels, height, width] -> logits [batch, classes]

    patch: pixels along the side of a patch. width: of the residual stream. The mean over the
    patches is classified, so that each of them is read alike and no token stands for the image.
    Source: Dosovitskiy et al. 2021; Beyer et al. 2022 for the mean in place of a class token.
    Weights are drawn as GPT draws them; those that read patches are N(0, 1 / their fan-in).
    Example: ViT((3, 64, 64), classes=200, patch=8, layers=6, heads=3, width=192)
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        channels, *sides = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch, bias=bias)
        self.positions = nn.Parameter(torch.empty(math.prod(s // patch for s in sides), width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *[Block(heads, width, dropout, bias, causal=False) for _ in range(layers)]
        )
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, classes, bias)
        nn.init.normal_(self.patches.weight, std=(channels * patch**2) ** -0.5)
        if self.patches.bias is not None:
            nn.init.zeros_(self.patches.bias)
        nn.init.normal_(self.positions, std=STD)
        draw_weights(self, layers)

    def forward(self, images: Tensor) -> Tensor:
        read = self.patches(images).flatten(2).transpose(1, 2)
        stream = self.norm(self.blocks(self.dropout(read + self.positions)))
        logits: Tensor = self.head(stream.mean(dim=1))
        return logits
