"""Networks that are easy to misread, for what they share, write to, cut out and hold constant.

A case counts the units that are found, scales and rescales before translations, and those that the
null space of the gradients (null_space.py) has beyond them. These are missed because the search

    does not follow what is written through a view, or an operation without a rule;
    has an exponent for each row and each column, and none for a column in some of the rows;
    moves no constant from one parameter or unit to another that is added to it;
    lets nothing vary along an axis that is indexed, sorted or pooled;
    asks that the loss stays as it is, where only the gradients obey the constraint (a condition on
    sizes, or a norm without gradient).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from blocks import FEATURES, parameter, then_head
from net import Net
from null_space import log_probabilities
from torch import nn

from symrun.symmetry.search import cross_entropy


@dataclass(frozen=True)
class Case:
    make: Any
    units: tuple[int, int]
    missed: tuple[int, int] = (0, 0)
    example: torch.Tensor = FEATURES
    criterion: Any = cross_entropy
    known: Any = log_probabilities


def two(change=lambda net, hidden: hidden.relu(), prepare=None, **parts):
    """Linear layers 4 -> 5 -> 3 with `change` : 5 rescales and 6 translations."""

    def make():
        net = Net(
            lambda net, x: net.out(change(net, net.hidden(x))),
            **{"hidden": nn.Linear(4, 5), "out": nn.Linear(5, 3)},
            **{name: part() for name, part in parts.items()},
        )
        if prepare is not None:
            prepare(net)
        return net

    return make


def net(forward, **parts):
    """parts: functions that make them, or settings of linear layers."""
    return lambda: Net(
        forward,
        **{n: nn.Linear(*p) if isinstance(p, tuple) else p() for n, p in parts.items()},
    )


def written(change):
    """A copy is changed in place."""

    def function(net, hidden):
        hidden = hidden.clone()
        change(hidden)
        return hidden

    return two(function)


def images(*body, channels=4):
    return lambda: then_head(*(part() for part in body), channels=channels)


@torch.no_grad()
def without_gradients(layer, x):
    return layer(x)


def replaced(net):
    net.hidden.forward = torch.tanh
    net.out = nn.Linear(4, 3)


def sharing_memory(net):
    net.second.weight = nn.Parameter(net.first.weight.data)


def used(body):
    body[1].eval()
    body[1].running_mean.fill_(0.5)


def pair(net, x):
    return net.out(net.second(net.first(x).relu()).relu())


TRIO = {"first": (4, 4), "second": (4, 4), "out": (4, 3)}


def prepared(make, prepare):
    def prepared_model():
        model = make()
        prepare(model)
        return model

    return prepared_model


SHARED = {
    "plain": Case(two(), (5, 6)),
    "a module used twice": Case(
        net(lambda n, x: n.out(n.one(n.one(x).relu()).relu()), one=(4, 4), out=(4, 3)), (0, 5)
    ),
    "a module used twice, no bias": Case(
        net(lambda n, x: n.out(n.one(n.one(x).relu()).relu()), one=(4, 4, False), out=(4, 3)),
        (1, 5),
    ),
    "one module under two names": Case(
        prepared(net(pair, **TRIO), lambda m: setattr(m, "second", m.first)), (0, 5)
    ),
    "a weight under two names": Case(
        prepared(net(pair, **TRIO), lambda m: setattr(m.second, "weight", m.first.weight)), (1, 5)
    ),
    "two parameters in one memory": Case(
        prepared(net(pair, **TRIO), sharing_memory), (0, 5), (8, 0)
    ),  # double() parts them
    "a view of one memory": Case(
        net(
            lambda n, x: n.out(F.linear(F.linear(x, n.w[:4]).relu(), n.w[4:]).relu()),
            w=lambda: parameter(8, 4),
            out=(4, 3),
        ),
        (5, 5),
        (3, 0),
    ),
    "a transposed view": Case(
        net(lambda n, x: F.linear(F.linear(x, n.w).relu(), n.w.T[:3]), w=lambda: parameter(5, 4)),
        (0, 0),
    ),
    "tied encoder and decoder": Case(
        net(lambda n, x: F.linear(n.one(x).relu(), n.one.weight.T), one=(4, 5)), (0, 0)
    ),
    "bilinear in one layer": Case(
        net(lambda n, x: n.out(n.one(x) * n.one(x)), one=(4, 5), out=(5, 3)), (5, 6)
    ),
    "frozen weight": Case(two(prepare=lambda m: m.hidden.weight.requires_grad_(False)), (0, 6)),
    "frozen bias": Case(two(prepare=lambda m: m.hidden.bias.requires_grad_(False)), (0, 6)),
    "frozen bias of the logits": Case(
        two(prepare=lambda m: m.out.bias.requires_grad_(False)), (5, 5)
    ),
    "frozen head": Case(two(prepare=lambda m: m.out.requires_grad_(False)), (0, 0)),
    "all of it frozen but one bias": Case(
        two(
            prepare=lambda m: [
                p.requires_grad_(False) for p in (m.hidden.weight, m.hidden.bias, m.out.weight)
            ]
        ),
        (0, 1),
    ),
    "unused parameters": Case(two(unused=lambda: nn.Linear(3, 3)), (5, 6)),
    "read elsewhere too": Case(two(lambda n, h: h.relu() * n.hidden.weight.norm()), (1, 6)),
    "its layer's norm beside it": Case(two(lambda n, h: h.relu() / n.hidden.weight.norm()), (1, 6)),
    "weights in a penalty": Case(
        net(
            lambda n, x: n.out(n.hidden(x).relu()) * n.hidden.weight.square().sum(),
            hidden=(4, 5),
            out=(5, 3),
        ),
        (1, 6),
    ),
}

GRADIENTS = {
    "a layer under no_grad": Case(
        net(lambda n, x: n.out(without_gradients(n.hidden, x).relu()), hidden=(4, 5), out=(5, 3)),
        (0, 6),
    ),
    "detached": Case(two(lambda n, h: h.relu().detach()), (0, 6)),
    "detached in part": Case(two(lambda n, h: h.relu() + h.detach()), (0, 6)),
    "detached norm": Case(
        two(lambda n, h: h / h.detach().norm(dim=1, keepdim=True)), (0, 6), (5, 0)
    ),
    "straight through": Case(two(lambda n, h: h + (h.sign() - h).detach()), (0, 6)),
}

IN_PLACE = {
    "relu_": Case(two(lambda n, h: h.relu_()), (5, 6)),
    "relu_ of a slice": Case(written(lambda h: h[:, :3].relu_()), (0, 6), (5, 0)),
    "a slice doubled": Case(written(lambda h: h[:, :3].mul_(2)), (0, 6), (5, 0)),
    "a slice filled with zero": Case(written(lambda h: h[:, :2].zero_()), (0, 4), (3, 0)),
    "a slice filled with one": Case(written(lambda h: h[:, :2].fill_(1)), (0, 6), (3, 4)),
    "added to a slice": Case(written(lambda h: h[:, :2].add_(h[:, 2:4])), (0, 6), (3, 0)),
    "copied into a slice": Case(written(lambda h: h[:, :2].copy_(h[:, 2:4])), (0, 6), (3, 4)),
    "masked in place": Case(written(lambda h: h.masked_fill_(h < 0, 0)), (5, 6)),
    "clamped in place": Case(written(lambda h: h.clamp_(min=0)), (5, 6)),
    "one added in place": Case(written(lambda h: h.add_(1)), (0, 6)),
    "doubled in place": Case(written(lambda h: h.mul_(2)), (5, 6)),
}

SHAPES = {
    "a slice": Case(two(lambda n, h: F.pad(h[:, :3].relu(), (0, 2))), (3, 4)),
    "padding": Case(two(lambda n, h: F.pad(h.relu()[:, :4], (1, 0))), (4, 5)),
    "padding with one": Case(
        two(lambda n, h: F.pad(h.relu()[:, :4], (1, 0), value=1.0)), (0, 6), (4, 2)
    ),
    "reversed": Case(two(lambda n, h: h.flip(1).relu()), (5, 6)),
    "rolled": Case(two(lambda n, h: h.roll(2, 1).relu()), (5, 6)),
    "permuted by constants": Case(two(lambda n, h: h[:, [4, 2, 0, 1, 3]].relu()), (1, 6), (4, 0)),
    "split and joined": Case(
        two(lambda n, h: torch.cat(h.relu().split([2, 3], 1)[::-1], 1)), (5, 6)
    ),
    "joined with the input": Case(
        net(lambda n, x: n.out(torch.cat([n.hidden(x).relu(), x], 1)), hidden=(4, 5), out=(9, 3)),
        (5, 10),
    ),
    "joined with itself": Case(
        net(
            lambda n, x: n.out(torch.cat([h := n.hidden(x).relu(), h], 1)),
            hidden=(4, 5),
            out=(10, 3),
        ),
        (5, 11),
        (0, 10),
    ),
    "stacked": Case(
        net(
            lambda n, x: n.out(torch.stack([n.a(x).relu(), n.b(x).relu()], 1).flatten(1)),
            a=(4, 3),
            b=(4, 3),
            out=(6, 3),
        ),
        (6, 7),
    ),
    "cumulated": Case(two(lambda n, h: h.relu().cumsum(1)), (1, 6)),
    "cumulated over the batch": Case(two(lambda n, h: h.relu().cumsum(0)), (5, 6)),
    "sorted": Case(two(lambda n, h: h.relu().sort(1).values), (1, 6)),
    "largest over units": Case(
        net(
            lambda n, x: n.out(n.hidden(x).relu().amax(1, keepdim=True)), hidden=(4, 5), out=(1, 3)
        ),
        (1, 2),
    ),
    "a sum over units": Case(
        net(lambda n, x: n.out(n.hidden(x).sum(1, keepdim=True)), hidden=(4, 5), out=(1, 3)),
        (1, 2),
        (0, 20),
    ),
    "sums over parts of rows": Case(
        net(
            lambda n, x: n.out((x @ n.w.view(4, 2, 3).sum(-1)).relu()),
            w=lambda: parameter(4, 6),
            out=(2, 3),
        ),
        (2, 3),
        (0, 16),
    ),
    "einsum": Case(
        two(lambda n, h: torch.einsum("bi,i->bi", h.relu(), n.scale), scale=lambda: parameter(5)),
        (10, 6),
    ),
    "merged heads": Case(
        net(
            lambda n, x: n.out(n.hidden(x).view(-1, 2, 3).transpose(1, 2).reshape(-1, 6).relu()),
            hidden=(4, 6),
            out=(6, 3),
        ),
        (6, 7),
    ),
    "low rank": Case(
        net(
            lambda n, x: n.out((x @ n.a @ n.b).relu()),
            a=lambda: parameter(4, 2),
            b=lambda: parameter(2, 5),
            out=(5, 3),
        ),
        (7, 6),
    ),
    "low rank beside a frozen weight": Case(
        prepared(
            net(
                lambda n, x: n.base(x) + x @ n.a @ n.b,
                base=(4, 3),
                a=lambda: parameter(4, 2),
                b=lambda: parameter(2, 3),
            ),
            lambda m: m.base.requires_grad_(False),
        ),
        (2, 2),
    ),
    "a product of two parameters in a batch": Case(
        net(
            lambda n, x: n.out((x.view(2, 3, 4) @ torch.bmm(n.a, n.b)).flatten(0, 1).relu()),
            a=lambda: parameter(2, 4, 2),
            b=lambda: parameter(2, 2, 5),
            out=(5, 3),
        ),
        (8, 6),
        (1, 0),
    ),
}

CONSTANTS = {
    "one is added": Case(two(lambda n, h: (h + 1).relu()), (0, 6)),
    "an eps is added": Case(
        two(lambda n, h: F.relu(h) / (h.norm(dim=1, keepdim=True) + 1e-30)), (1, 6)
    ),
    "more than an eps is added": Case(
        two(lambda n, h: h / (h.norm(dim=1, keepdim=True) + 2e-3)), (0, 6)
    ),
    "a constant tensor is added": Case(
        two(lambda n, h: (h + torch.ones(5, device=h.device)).relu()), (0, 6)
    ),
    "a buffer is multiplied": Case(
        two(
            lambda n, h: h.relu() * n.mask,
            prepare=lambda m: m.register_buffer("mask", torch.rand(5)),
        ),
        (5, 6),
    ),
    "a buffer is added": Case(
        two(
            lambda n, h: h.relu() + n.mean,
            prepare=lambda m: m.register_buffer("mean", torch.rand(5)),
        ),
        (0, 6),
    ),
    "bounded by one": Case(two(lambda n, h: h.clamp(0, 1)), (0, 6)),
    "bounded by zero from above": Case(two(lambda n, h: h.clamp(max=0)), (5, 6)),
    "bounded by a negative number": Case(two(lambda n, h: h.clamp(min=-1)), (0, 6)),
    "relu6": Case(two(lambda n, h: F.relu6(9 * h)), (0, 6)),
    "threshold": Case(two(lambda n, h: F.threshold(h, 0.0, 0.0)), (5, 6)),
    "threshold elsewhere": Case(two(lambda n, h: F.threshold(h, 0.1, 0.0)), (0, 6), (5, 0)),
    "threshold with a value": Case(two(lambda n, h: F.threshold(h, 0.0, 1.0)), (0, 6)),
    "leaky": Case(two(lambda n, h: F.leaky_relu(h, 0.2)), (5, 6)),
    "gelu": Case(two(lambda n, h: F.gelu(h)), (0, 6)),
    "elu": Case(two(lambda n, h: F.elu(h)), (0, 6)),
    "rrelu": Case(two(lambda n, h: F.rrelu(h, training=True)), (5, 6)),
    "dropout": Case(two(lambda n, h: F.dropout(h.relu(), 0.5)), (5, 6)),
    "alpha dropout": Case(two(lambda n, h: F.alpha_dropout(h.relu(), 0.5, training=True)), (0, 6)),
    "dropout of the logits": Case(
        net(lambda n, x: F.dropout(n.out(n.hidden(x).relu()), 0.5), hidden=(4, 5), out=(5, 3)),
        (5, 0),
    ),
    "cubed": Case(two(lambda n, h: h**3), (5, 6)),
    "square root of a square": Case(two(lambda n, h: h.square().sqrt()), (5, 6)),
    "to the power 1.3": Case(two(lambda n, h: h.abs() ** 1.3), (0, 6), (5, 0)),
    "a choice by sign": Case(two(lambda n, h: torch.where(h > 0, h, 0.1 * h)), (5, 6)),
    "a choice by size": Case(two(lambda n, h: torch.where(h > 1, h, 0.1 * h)), (0, 6), (5, 0)),
    "masked": Case(two(lambda n, h: h.masked_fill(h < 0, 0.0)), (5, 6)),
    "masked with one": Case(two(lambda n, h: h.masked_fill(h < 0, 1.0)), (0, 6)),
    "a greater of two": Case(
        net(lambda n, x: n.out(torch.maximum(n.a(x), n.b(x))), a=(4, 5), b=(4, 5), out=(5, 3)),
        (5, 6),
    ),
}

READ_AND_WRITTEN = SHARED | GRADIENTS | IN_PLACE | SHAPES | CONSTANTS
