"""Small versions of the blocks that networks are built of."""

import torch
import torch.nn.functional as F
from net import Net
from torch import nn

IMAGES, FEATURES, TOKENS = torch.zeros(4, 2, 4, 4), torch.zeros(6, 4), torch.zeros(3, 4, 4)
WORDS = torch.tensor([[0, 1, 2, 3, 4, 5]] * 3)


def parameter(*shape):
    return nn.Parameter(torch.ones(shape))


def conv(given, taken, kernel=1, **settings):
    return nn.Conv2d(given, taken, kernel, padding=kernel // 2, **settings)


def conv_bn(given, taken, kernel=1, activation=nn.ReLU, **settings):
    layer = conv(given, taken, kernel, bias=False, **settings)
    return nn.Sequential(layer, nn.BatchNorm2d(taken), activation())


def then_head(*body, channels=4):
    """Images through `body`, averaged over positions, to three classes."""
    mean = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, *mean, nn.Linear(channels, 3))


def mlp():
    hidden = (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(5, 3))


def between(*middle, given=4, taken=None):
    return nn.Sequential(nn.Linear(4, given), *middle, nn.Linear(taken or given, 3))


def plain_convolutions():
    return nn.Sequential(
        conv(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 3),
    )  # fmt: skip


def residual():
    def forward(net, x):
        x = net.stem(x)
        x = F.relu(x + net.two(net.one(x)))
        return net.head(F.relu(net.across(x) + net.four(net.three(x))))

    return Net(
        forward,
        stem=conv_bn(2, 4, 3), one=conv_bn(4, 4, 3), two=conv_bn(4, 4, 3, nn.Identity),
        three=conv_bn(4, 6, 3), four=conv_bn(6, 6, 1, nn.Identity),
        across=conv_bn(4, 6, 1, nn.Identity), head=then_head(channels=6),
    )  # fmt: skip


def residual_without_norm():
    """Behind a shared stream, the units are whole channels of the stream."""
    return Net(
        lambda net, x: net.head(F.relu((x := net.stem(x)) + net.two(F.relu(net.one(x))))),
        stem=conv(2, 4, 3), one=conv(4, 5), two=conv(5, 4), head=then_head(),
    )  # fmt: skip


class Attention(nn.Module):
    """Written by hand around scaled_dot_product_attention."""

    def __init__(self, width=4, heads=2, bias=True, causal=False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)

    def forward(self, x):
        batch, length, width = x.shape
        split = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*split.unbind(0), is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))


class SoftmaxAttention(nn.Module):
    """Written by hand with a softmax; queries, keys and values by layers of their own."""

    def __init__(self, width=4, heads=2, bias=False):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mixed = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


def linear_attention():
    def forward(net, x):
        q, k, v = (part(x).unflatten(-1, (2, -1)).transpose(1, 2) for part in (net.q, net.k, net.v))
        mixed = (q @ k.mT / x.shape[1]) @ v
        return net.head(
            F.normalize(net.out(mixed.transpose(1, 2).flatten(2)), dim=-1, eps=1e-30)[:, 0]
        )

    return Net(
        forward, q=nn.Linear(4, 4, False), k=nn.Linear(4, 4, False), v=nn.Linear(4, 4),
        out=nn.Linear(4, 4, bias=False), head=nn.Linear(4, 3),
    )  # fmt: skip


class Multihead(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def transformer(attention, activation=nn.GELU, norm=nn.LayerNorm):
    """A pre-norm block, and a head of its own."""

    def forward(net, x):
        x = x + net.mix(net.one(x))
        return net.head(net.last(x + net.mlp(net.two(x)))[:, 0])

    return Net(
        forward, one=norm(4), mix=attention, two=norm(4),
        mlp=nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 4)),
        last=norm(4), head=nn.Linear(4, 3),
    )  # fmt: skip


def vit():
    def forward(net, x):
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.cls.expand(len(x), -1, -1), x], 1) + net.positions
        return net.block(x)

    return Net(
        forward, patches=nn.Conv2d(2, 4, 2, 2),
        cls=parameter(1, 1, 4), positions=parameter(1, 5, 4), block=transformer(Attention()),
    )  # fmt: skip


class Windows(nn.Module):
    """Swin's attention in shifted windows [2, 2], with a table of relative biases."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.table = parameter(9, 2)
        y, x = torch.arange(2).repeat_interleave(2), torch.arange(2).repeat(2)
        self.register_buffer("index", (y[:, None] - y + 1) * 3 + x[:, None] - x + 1)

    def forward(self, x):  # [batch, 4, 4, channels]
        x = x.roll((-1, -1), (1, 2))
        x = x.view(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4)
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 2, 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.flatten()].view(4, 4, 2).permute(2, 0, 1)
        mixed = (q * 2**-0.5 @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        x = self.out(mixed.transpose(1, 2).reshape(-1, 4, 4))
        x = x.view(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 4, 4)
        return x.roll((1, 1), (1, 2))


def swin():
    def forward(net, x):
        x = net.patches(x).permute(0, 2, 3, 1)
        x = x + net.mix(net.one(x))
        x = x + net.mlp(net.two(x))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2]], -1)  # part of patch merging
        return net.head(net.reduce(net.merge(x)).mean((1, 2)))

    return Net(
        forward, patches=conv(2, 4), one=nn.LayerNorm(4), mix=Windows(), two=nn.LayerNorm(4),
        mlp=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)),
        merge=nn.LayerNorm(8), reduce=nn.Linear(8, 4, bias=False), head=nn.Linear(4, 3),
    )  # fmt: skip


def convnext():
    def forward(net, x):
        y = net.norm(net.depthwise(x := net.stem(x)).permute(0, 2, 3, 1))
        return net.head(x + (net.scale * net.mlp(y)).permute(0, 3, 1, 2))

    return Net(
        forward, stem=conv(2, 4), depthwise=conv(4, 4, 3, groups=4), norm=nn.LayerNorm(4),
        mlp=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)), scale=parameter(4),
        head=then_head(),
    )  # fmt: skip


def squeeze_excite(channels, gate=nn.Sigmoid):
    return Net(
        lambda net, x: x * net.gate(x.mean((2, 3), keepdim=True)),
        gate=nn.Sequential(conv(channels, 2), nn.ReLU(), conv(2, channels), gate()),
    )


def regnet_y():
    body = (conv_bn(4, 4), conv_bn(4, 4, 3, groups=2), squeeze_excite(4))
    return Net(
        lambda net, x: net.head(F.relu(net.body(x := net.stem(x)) + x)),
        stem=conv_bn(2, 4), body=nn.Sequential(*body, conv_bn(4, 4, 1, nn.Identity)),
        head=then_head(),
    )  # fmt: skip


def mobilenet():
    body = (conv_bn(4, 6, 1, nn.Hardswish), conv_bn(6, 6, 3, nn.Hardswish, groups=6))
    return Net(
        lambda net, x: net.head(net.body(x := net.stem(x)) + x),
        stem=conv_bn(2, 4),
        body=nn.Sequential(*body, squeeze_excite(6, nn.Hardsigmoid), conv_bn(6, 4, 1, nn.Identity)),
        head=then_head(),
    )  # fmt: skip


def shufflenet():
    def forward(net, x):
        left, right = net.stem(x).chunk(2, 1)
        x = torch.cat([left, net.right(right)], 1)
        x = x.view(-1, 2, 3, 4, 4).transpose(1, 2).reshape(-1, 6, 4, 4)
        return net.head(x)

    right = (conv_bn(3, 3), conv_bn(3, 3, 3, nn.Identity, groups=3), conv_bn(3, 3))
    return Net(forward, stem=conv_bn(2, 6), right=nn.Sequential(*right), head=then_head(channels=6))


def densenet():
    def layer(given):
        return nn.Sequential(
            nn.BatchNorm2d(given), nn.ReLU(), conv(given, 4, bias=False),
            nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2, 3, bias=False),
        )  # fmt: skip

    def forward(net, x):
        x = net.stem(x)
        for one in net.layers:
            x = torch.cat([x, one(x)], 1)
        return net.head(F.relu(net.norm(x)))

    layers = nn.ModuleList([layer(3), layer(5)])
    head = then_head(channels=7)
    return Net(forward, stem=conv(2, 3), layers=layers, norm=nn.BatchNorm2d(7), head=head)


def googlenet():
    return Net(
        lambda net, x: net.head(torch.cat([net.a(x), net.b(x), net.c(x)], 1)),
        a=nn.Sequential(conv(2, 2), nn.ReLU()),
        b=nn.Sequential(conv(2, 3), nn.ReLU(), conv(3, 2, 3), nn.ReLU()),
        c=nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(2, 2), nn.ReLU()),
        head=then_head(nn.MaxPool2d(2), conv(6, 4), nn.ReLU()),
    )  # fmt: skip


def gpt(tied, positions=True):
    """Words [batch, time] to log probabilities of words, over axis 1."""

    def forward(net, words):
        x = net.embedding(words)
        if positions:
            x = x + net.positions[: words.shape[1]]
        x = x + net.mix(net.one(x))
        x = net.last(x + net.mlp(net.two(x)))
        return (F.linear(x, net.embedding.weight) if tied else net.head(x)).transpose(1, 2)

    own = {} if tied else {"head": nn.Linear(4, 6, bias=False)}
    if positions:
        own["positions"] = parameter(7, 4)
    return Net(
        forward, embedding=nn.Embedding(6, 4), one=nn.LayerNorm(4, bias=False),
        mix=Attention(bias=False, causal=True), two=nn.LayerNorm(4, bias=False),
        mlp=nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4)),
        last=nn.LayerNorm(4, bias=False), **own,
    )  # fmt: skip


class RootMeanSquare(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = parameter(width)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-30))


def swiglu():
    return Net(
        lambda net, x: net.down(F.silu(net.gate(x)) * net.up(x)),
        gate=nn.Linear(4, 5), up=nn.Linear(4, 5), down=nn.Linear(5, 3),
    )  # fmt: skip


def standardised():
    """Weight standardisation: a convolution whose filters are centred and scaled."""

    def forward(net, x):
        weight = net.conv.weight
        weight = weight - weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-30)
        return net.head(F.conv2d(x, weight, net.conv.bias).relu())

    return Net(forward, conv=nn.Conv2d(2, 4, 3), head=then_head())


def cosine_classifier():
    return Net(
        lambda net, x: net.temperature * F.normalize(net.body(x), eps=1e-30)
        @ F.normalize(net.classes, eps=1e-30).T,
        body=nn.Linear(4, 5), classes=parameter(3, 5), temperature=parameter(),
    )  # fmt: skip


def squared_relu():
    return Net(
        lambda net, x: net.out(net.hidden(x).relu().square()),
        hidden=nn.Linear(4, 5), out=nn.Linear(5, 3),
    )  # fmt: skip


def maxout():
    return Net(
        lambda net, x: net.out(net.hidden(x).view(-1, 4, 3).amax(2)),
        hidden=nn.Linear(4, 12), out=nn.Linear(4, 3),
    )  # fmt: skip


def bag_of_words():
    return Net(
        lambda net, x: net.out(net.hidden(net.embedding(x).mean(1)).relu()),
        embedding=nn.Embedding(6, 4), hidden=nn.Linear(4, 4), out=nn.Linear(4, 3),
    )  # fmt: skip
