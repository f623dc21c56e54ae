"""A decoder-only transformer: each token is predicted from those before it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STD = 0.02


class GPT(nn.Module):
    """Blocks of causal attention and an MLP, each behind a LayerNorm, on a residual stream.

    tokens int64 [batch, tokens] -> logits [batch, tokens, vocabulary]

    tokens: how many an input has. width: of the residual stream. tied: whether the last layer's
    weight is the embedding's.
    Source: Radford et al. 2019: weights N(0, 0.02), divided by sqrt(2 layers) for those that write
    to the residual stream; biases 0.
    Example: GPT(vocabulary=65, tokens=64, layers=2, heads=4, width=128)
    """

    def __init__(
        self,
        vocabulary: int,
        tokens: int,
        layers: int,
        heads: int,
        width: int,
        dropout: float = 0.0,
        bias: bool = True,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.empty(tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*[Block(heads, width, dropout, bias) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.positions, std=STD)
        draw_weights(self, layers)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.dropout(self.embedding(tokens) + self.positions)
        logits: Tensor = self.head(self.norm(self.blocks(stream)))
        return logits


def draw_weights(model: nn.Module, layers: int) -> None:
    """Draw the weights of embeddings and linear layers as GPT does, in a network of `layers`
    blocks."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = name.endswith((".project", ".down"))
            nn.init.normal_(module.weight, std=STD / math.sqrt(2 * layers) if writes else STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class Block(nn.Module):
    """What one layer adds to the residual stream [batch, tokens, width].

    causal: whether a token sees those before it alone.
    """

    def __init__(
        self, heads: int, width: int, dropout: float, bias: bool, causal: bool = True
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=bias)
        self.attention = Attention(heads, width, dropout, bias, causal)
        self.mlp_norm = nn.LayerNorm(width, bias=bias)
        self.up = nn.Linear(width, 4 * width, bias)
        self.activation = nn.GELU()
        self.down = nn.Linear(4 * width, width, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.dropout(self.attention(self.norm(stream)))
        added: Tensor = self.down(self.activation(self.up(self.mlp_norm(stream))))
        stream = stream + self.dropout(added)
        return stream


class Attention(nn.Module):
    """Attention, [batch, tokens, width] to the same, by heads of width / heads."""

    def __init__(self, heads: int, width: int, dropout: float, bias: bool, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.dropout = dropout
        self.query, self.key, self.value, self.project = (
            nn.Linear(width, width, bias) for _ in range(4)
        )

    def forward(self, stream: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(
            self._by_head(self.query(stream)),
            self._by_head(self.key(stream)),
            self._by_head(self.value(stream)),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
        )
        result: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return result

    def _by_head(self, values: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, heads, tokens, width / heads]"""
        return torch.unflatten(values, -1, (self.heads, -1)).transpose(1, 2)
