"""The optimisers that are built, and the laws that go with them."""

import pytest
import torch

from symrun.launch import compose
from symrun.laws import ObservedUpdate
from symrun.optimizers import laws_of, make_optimizer


@pytest.mark.parametrize(
    ("overrides", "kind", "expected"),
    [
        (
            ["optim.momentum=0.8", "optim.dampening=0.3", "optim.weight_decay=0.01"],
            torch.optim.SGD,
            {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01, "nesterov": False},
        ),
        (["optim.momentum=0.8", "optim.nesterov=true"], torch.optim.SGD, {"nesterov": True}),
        (
            ["optim=adam", "optim.beta1=0.8", "optim.beta2=0.99", "optim.eps=1e-6"],
            torch.optim.Adam,
            {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.0},
        ),
        (["optim=adamw", "optim.lr=0.01"], torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.01}),
        (
            ["optim=rmsprop", "optim.alpha=0.9", "optim.eps=1e-4", "optim.momentum=0.5"],
            torch.optim.RMSprop,
            {"lr": 1e-3, "alpha": 0.9, "eps": 1e-4, "momentum": 0.5},
        ),
    ],
)
def test_the_settings_arrive(overrides, kind, expected):
    optimizer = make_optimizer(compose(overrides).optim, [torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is kind
    assert {name: optimizer.defaults[name] for name in expected} == expected


def test_defaults_are_torchs():
    for name in ("sgd", "adam", "adamw", "rmsprop"):
        optim = compose([f"optim={name}", "optim.lr=0.1"]).optim
        ours = make_optimizer(optim, [torch.nn.Parameter(torch.zeros(1))])
        theirs = type(ours)([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        assert ours.defaults == theirs.defaults


def test_each_optimiser_names_why_nothing_but_the_identity_holds():
    for name in ("adam", "adamw", "rmsprop"):
        laws, unpredicted = laws_of(compose([f"optim={name}"]).optim)
        assert laws == {"exact": ObservedUpdate(1e-2 if name == "adamw" else 0.0)}
        assert set(unpredicted) == {"flow", "discrete"}
        assert all(reason.startswith(name) for reason in unpredicted.values())
