"""Where a network is easy to misread, nothing false is found, and as much as each case says."""

import pytest
import torch
import torch.nn.functional as F
from blocks import IMAGES, TOKENS, WORDS, between, conv, parameter
from null_space import numbers, prove
from torch import nn
from torch.nn.utils import parametrize
from tricky import READ_AND_WRITTEN, Case, images, net, prepared, replaced, two, used

from symrun.symmetry.search import find_structure

PARAMETERS = {
    "a scalar": Case(two(lambda n, h: n.scale * h.relu(), scale=lambda: parameter()), (6, 6)),
    "a scalar beside a norm": Case(
        two(lambda n, h: n.scale * F.normalize(h, eps=1e-30), scale=lambda: parameter()), (2, 6)
    ),
    "a scalar is added": Case(
        two(lambda n, h: (h + n.shift).relu(), shift=lambda: parameter()), (1, 6), (0, 1)
    ),
    "temperature": Case(
        net(lambda n, x: n.out(x) / n.t, out=(4, 3), t=lambda: parameter()), (1, 5)
    ),
    "temperature, exponential": Case(
        net(lambda n, x: n.out(x) * n.t.exp(), out=(4, 3), t=lambda: parameter()), (0, 5), (0, 0)
    ),
    "positions": Case(
        net(
            lambda n, x: n.out((x + n.p).relu().flatten(1)),
            p=lambda: parameter(1, 4, 4),
            out=(16, 3),
        ),
        (0, 17),
        example=TOKENS,
    ),
    "a mask on weights": Case(
        net(
            lambda n, x: n.out(F.linear(x, n.w * torch.ones(5, 4, device=x.device).triu()).relu()),
            w=lambda: parameter(5, 4),
            out=(5, 3),
        ),
        (4, 5),
    ),
    "weights over their norm": Case(
        net(
            lambda n, x: n.out(F.linear(x, n.w / n.w.norm()).relu()),
            w=lambda: parameter(5, 4),
            out=(5, 3),
        ),
        (1, 6),
    ),
    "weights over the norms of rows": Case(
        net(
            lambda n, x: n.out(F.linear(x, n.w / n.w.norm(dim=1, keepdim=True)).relu()),
            w=lambda: parameter(5, 4),
            out=(5, 3),
        ),
        (5, 6),
    ),
    "flat weights over their norm": Case(
        net(
            lambda n, x: n.out(
                F.linear(x, (n.w.flatten() / n.w.flatten().norm()).view(5, 4)).relu()
            ),
            w=lambda: parameter(5, 4),
            out=(5, 3),
        ),
        (1, 6),
    ),
    "softmax of weights": Case(
        net(
            lambda n, x: n.out(F.linear(x, n.w.softmax(1)).relu()),
            w=lambda: parameter(5, 4),
            out=(5, 3),
        ),
        (0, 11),
    ),
    "a parametrised bias": Case(
        two(
            prepare=lambda m: parametrize.register_parametrization(m.hidden, "bias", nn.Softplus())
        ),
        (0, 6),
    ),
    "weights of softplus": Case(
        two(
            prepare=lambda m: parametrize.register_parametrization(
                m.hidden, "weight", nn.Softplus()
            )
        ),
        (0, 6),
    ),
    "a data-dependent gate": Case(
        net(
            lambda n, x: n.out(n.hidden(x) * n.gate(x).sigmoid()),
            hidden=(4, 5),
            gate=(4, 5),
            out=(5, 3),
        ),
        (5, 6),
    ),
    "a gate of the units themselves": Case(two(lambda n, h: h * h.sigmoid()), (0, 6)),
    "squeeze": Case(
        net(
            lambda n, x: n.out((h := n.hidden(x).relu()) * n.gate(h).sigmoid()),
            hidden=(4, 5),
            gate=(5, 5),
            out=(5, 3),
        ),
        (5, 6),
    ),
    "bilinear": Case(
        net(
            lambda n, x: n.out(n.both(n.a(x), n.b(x)).relu()),
            a=(4, 3),
            b=(4, 2),
            both=lambda: nn.Bilinear(3, 2, 4),
            out=(4, 3),
        ),
        (0, 5),
        (9, 0),
    ),
}

ENDS = {
    "squared error": Case(
        two(), (5, 0), criterion=lambda y: F.mse_loss(y, torch.ones_like(y)), known=numbers
    ),
    "binary cross-entropy": Case(
        two(),
        (5, 0),
        criterion=lambda y: F.binary_cross_entropy_with_logits(y, torch.rand_like(y)),
        known=numbers,
    ),
    "log_softmax at the end": Case(net(lambda n, x: n.out(x).log_softmax(1), out=(4, 3)), (0, 5)),
    "softmax at the end": Case(net(lambda n, x: n.out(x).softmax(1), out=(4, 3)), (0, 5)),
    "tanh at the end": Case(net(lambda n, x: n.out(x).tanh(), out=(4, 3)), (0, 0)),
    "a tuple": Case(
        net(lambda n, x: (n.out(n.hidden(x).relu()), x), hidden=(4, 5), out=(5, 3)), (5, 6)
    ),
    "logits of a convolution": Case(
        lambda: nn.Sequential(conv(2, 4), nn.ReLU(), conv(4, 3)), (4, 5), example=IMAGES
    ),
    "logits of a wide convolution": Case(
        lambda: nn.Sequential(conv(2, 4), nn.ReLU(), conv(4, 3, 3)), (4, 37), example=IMAGES
    ),
    "logits over axis 1 of tokens": Case(
        net(lambda n, x: n.out(n.hidden(x).relu()), hidden=(4, 5), out=(5, 3)),
        (5, 0),
        example=TOKENS,
    ),
    "averaged logits": Case(
        net(lambda n, x: n.out(n.hidden(x).relu()).mean(1), hidden=(4, 5), out=(5, 3)),
        (5, 6),
        example=TOKENS,
    ),
    "logits read twice": Case(
        net(lambda n, x: (y := n.out(n.hidden(x).relu())) + y.tanh(), hidden=(4, 5), out=(5, 3)),
        (5, 0),
    ),
}

LAYERS = {
    "batch norm": Case(lambda: between(nn.BatchNorm1d(5), nn.ReLU(), given=5), (10, 6)),
    "batch norm in eval": Case(
        prepared(lambda: between(nn.BatchNorm1d(5), nn.ReLU(), given=5), used), (5, 6)
    ),
    "batch norm, not affine": Case(
        lambda: between(nn.BatchNorm1d(5, affine=False), nn.ReLU(), given=5), (5, 6)
    ),
    "batch norm by hand": Case(two(lambda n, h: ((h - h.mean(0)) / h.std(0)).relu()), (5, 6)),
    "layer norm, not affine": Case(
        lambda: between(nn.LayerNorm(5, elementwise_affine=False), nn.ReLU(), given=5), (1, 11)
    ),
    "group norm of features": Case(
        lambda: between(nn.GroupNorm(2, 6), nn.ReLU(), given=6), (8, 17)
    ),
    "pooling over channels": Case(
        net(
            lambda n, x: n.out(F.max_pool1d(n.hidden(x).relu()[:, None], 2)[:, 0]),
            hidden=(4, 6),
            out=(3, 3),
        ),
        (1, 4),
        (2, 0),
    ),
    "averages over channels": Case(
        net(
            lambda n, x: n.out(F.avg_pool1d(n.hidden(x).relu()[:, None], 2)[:, 0]),
            hidden=(4, 6),
            out=(3, 3),
        ),
        (1, 4),
        (2, 0),
    ),
    "lrn": Case(
        images(lambda: conv(2, 4), lambda: nn.LocalResponseNorm(2), nn.ReLU), (0, 5), example=IMAGES
    ),
    "pixel shuffle": Case(
        images(lambda: conv(2, 8), lambda: nn.PixelShuffle(2), nn.ReLU, channels=2),
        (2, 3),
        example=IMAGES,
    ),
    "upsampled": Case(
        images(lambda: conv(2, 4), lambda: nn.Upsample(scale_factor=2), nn.ReLU),
        (4, 5),
        example=IMAGES,
    ),
    "reflected": Case(
        images(lambda: conv(2, 4), lambda: nn.ReflectionPad2d(1), nn.ReLU), (4, 5), example=IMAGES
    ),
    "linear over columns": Case(
        images(lambda: conv(2, 4), nn.ReLU, lambda: nn.Linear(4, 4), nn.ReLU),
        (2, 5),
        example=IMAGES,
    ),
    "embedding and mean": Case(
        net(lambda n, x: n.out(n.table(x).mean(1)), table=lambda: nn.Embedding(6, 4), out=(4, 3)),
        (4, 5),
        example=WORDS,
    ),
    "embedding with padding": Case(
        net(
            lambda n, x: n.out(n.table(x).mean(1)),
            table=lambda: nn.Embedding(6, 4, padding_idx=0),
            out=(4, 3),
        ),
        (0, 5),
        example=WORDS,
    ),
    "attention of other widths": Case(
        net(
            lambda n, x: n.out(n.mix(x, x[..., :3], x[..., :2], need_weights=False)[0][:, 0]),
            mix=lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=2, batch_first=True),
            out=(4, 3),
        ),
        (12, 5),
        example=TOKENS,
    ),
    "attention with weights": Case(
        net(
            lambda n, x: n.out(n.mix(x, x, x)[0][:, 0]),
            mix=lambda: nn.MultiheadAttention(4, 2, batch_first=True),
            out=(4, 3),
        ),
        (12, 5),
        example=TOKENS,
    ),
    "encoder, norm last": Case(
        net(
            lambda n, x: n.out(n.body(x)[:, 0]),
            body=lambda: nn.TransformerEncoderLayer(4, 2, 5, 0.1, batch_first=True),
            out=(4, 3),
        ),
        (18, 5),
        example=TOKENS,
    ),
    "encoder, norm first": Case(
        net(
            lambda n, x: n.out(n.body(x)[:, 0]),
            body=lambda: nn.TransformerEncoderLayer(
                4, 2, 5, 0.1, batch_first=True, norm_first=True
            ),
            out=(4, 3),
        ),
        (21, 5),
        example=TOKENS,
    ),
    "lstm": Case(
        net(
            lambda n, x: n.out(n.body(x)[0][:, -1]),
            body=lambda: nn.LSTM(4, 3, batch_first=True),
            out=(3, 3),
        ),
        (0, 4),
        (0, 12),
        example=TOKENS,
    ),
    "gru": Case(
        net(
            lambda n, x: n.out(n.body(x)[0][:, -1]),
            body=lambda: nn.GRU(4, 3, batch_first=True),
            out=(3, 3),
        ),
        (0, 4),
        (0, 6),
        example=TOKENS,
    ),
    "complex numbers": Case(
        two(lambda n, h: torch.fft.rfft(h.relu()).abs().repeat(1, 2)[:, :5]), (0, 6), (1, 4)
    ),
    "inverse": Case(
        two(lambda n, h: h @ torch.linalg.inv(n.m), m=lambda: nn.Parameter(torch.eye(5))),
        (1, 6),
        (9, 0),
    ),
    "a loop over layers": Case(
        net(
            lambda n, x: n.out(F.relu(n.all[1](F.relu(n.all[0](x))))),
            all=lambda: nn.ModuleList([nn.Linear(4, 5), nn.Linear(5, 4)]),
            out=(4, 3),
        ),
        (9, 5),
    ),
}

HOOKS = {
    "a method replaced on an instance": Case(two(prepare=replaced), (0, 5)),
    "a hook that bounds": Case(
        two(prepare=lambda m: m.hidden.register_forward_hook(lambda layer, x, y: y.clamp(max=1))),
        (0, 6),
    ),
    "a hook that doubles": Case(
        two(prepare=lambda m: m.hidden.register_forward_hook(lambda layer, x, y: 2 * y)), (5, 6)
    ),
    "a hook that adds to the input": Case(
        two(prepare=lambda m: m.out.register_forward_pre_hook(lambda layer, x: (x[0] + 1,))), (0, 6)
    ),
    "a hook on the logits": Case(
        two(prepare=lambda m: m.register_forward_hook(lambda layer, x, y: y.tanh())), (5, 0)
    ),
}

CASES = READ_AND_WRITTEN | PARAMETERS | ENDS | LAYERS | HOOKS


@pytest.mark.parametrize("name", CASES)
def test_nothing_false_is_found_and_no_more_is_missed(name):
    case = CASES[name]
    model = case.make()
    groups = find_structure(model, case.example, case.criterion).groups
    proof = prove(model, case.example, groups, case.known)
    kinds = (proof.scales, proof.shifts)
    assert not any(kind.false for kind in kinds), proof
    assert tuple(kind.units for kind in kinds) == case.units, proof
    assert tuple(kind.exist - kind.found for kind in kinds) == case.missed, proof
