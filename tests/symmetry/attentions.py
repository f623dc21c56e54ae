"""Small networks in which matrices are conserved, or seem to be."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, HEADS, TOKENS = 8, 2, 5


def tokens(batch=4, length=TOKENS, width=WIDTH):
    draws = torch.Generator().manual_seed(3)
    return torch.randn(batch, length, width, generator=draws, dtype=torch.float64)


def criterion(outputs):
    return outputs.log_softmax(-1).square().sum()


class Attention(nn.Module):
    """All that differs between kinds of attention is a method.

    kv_heads: of keys and values, fewer than heads in grouped-query attention.
    """

    kv_heads = HEADS
    dropout = 0.0
    bias = True

    def __init__(self):
        super().__init__()
        size = WIDTH // HEADS
        self.q = nn.Linear(WIDTH, WIDTH, bias=self.bias)
        self.k = nn.Linear(WIDTH, self.kv_heads * size, bias=self.bias)
        self.v = nn.Linear(WIDTH, self.kv_heads * size, bias=self.bias)
        self.out = nn.Linear(WIDTH, WIDTH, bias=self.bias)

    def split(self, x, heads):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def join(self, x):
        return x.transpose(1, 2).flatten(2)

    def changed(self, q, k):
        return q, k

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=self.dropout, enable_gqa=self.kv_heads < HEADS
        )

    def forward(self, x):
        q, k = self.split(self.q(x), HEADS), self.split(self.k(x), self.kv_heads)
        v = self.split(self.v(x), self.kv_heads)
        return self.out(self.join(self.attend(*self.changed(q, k), v)))


class ByHand(Attention):
    bias = False

    def attend(self, q, k, v):
        scores = q @ k.mT * q.shape[-1] ** -0.5
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return (weights / weights.sum(-1, keepdim=True)) @ v


class Strided(Attention):
    """Heads are the fast axis of the channels."""

    def split(self, x, heads):
        return x.unflatten(-1, (-1, heads)).permute(0, 3, 1, 2)

    def join(self, x):
        return x.permute(0, 2, 3, 1).flatten(2)


class Dropped(Attention):
    dropout = 0.1


class MultiQuery(Attention):
    kv_heads = 1


class Repeated(Attention):
    """Grouped queries by repeated keys and values."""

    kv_heads = 1

    def attend(self, q, k, v):
        return super().attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))


class Normalised(Attention):
    """Queries and keys of norm 1, as in ViT-22B."""

    def changed(self, q, k):
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1)


class Rotary(Attention):
    """All channels of a head are turned, in pairs of halves."""

    turned = WIDTH // HEADS

    def changed(self, q, k):
        return self._turn(q), self._turn(k)

    def _turn(self, x):
        half = self.turned // 2
        speed = 10.0 ** -torch.arange(half, dtype=x.dtype, device=x.device)
        angle = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)[:, None] * speed
        a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class PartlyRotary(Rotary):
    turned = WIDTH // HEADS // 2


class Fused(nn.Module):
    """One linear layer for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Torch(nn.Module):
    """torch's own; its keys and values come from `sizes` of the channels."""

    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        self._sizes = [options.get(name, WIDTH) for name in ("kdim", "vdim")]

    def forward(self, x):
        others = [x.flip(1)[..., :size] for size in self._sizes]
        return self.attention(x, *others, need_weights=False)[0]


class Cross(Attention):
    """Keys and values of other tokens than the queries."""

    def forward(self, x):
        q = self.split(self.q(x[:, :2]), HEADS)
        k, v = (self.split(layer(x[:, 2:]), HEADS) for layer in (self.k, self.v))
        return self.out(self.join(self.attend(q, k, v)))


class LowRank(nn.Module):
    """A frozen layer, and what LoRA adds to it."""

    def __init__(self, rank=3):
        super().__init__()
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, WIDTH))
        self.b = nn.Parameter(torch.zeros(WIDTH, rank))

    def forward(self, x):
        return self.frozen(x) + x @ self.a.T @ self.b.T


class Residual(nn.Module):
    """A stream that is written to and read from by linear layers alone."""

    def __init__(self):
        super().__init__()
        self.read, self.add, self.write = nn.Linear(WIDTH, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.read(x)
        return self.write(x + self.add(x))


def chain(*between, widths=(WIDTH, 4, 3)):
    """Two linear layers, and what stands between them."""
    inside, middle, outside = widths
    return nn.Sequential(nn.Linear(inside, middle), *between, nn.Linear(middle, outside))
