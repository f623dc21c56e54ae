"""Small networks, optimisers and training loops of the kinds that people write, in float64."""

import torch
import torch.nn.functional as F
from torch import nn

from symrun.models.gpt import GPT
from symrun.models.resnet import SmallImageResNet


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                direction = (fast * average + (1 - fast) * parameter.grad).sign()
                parameter.add_(direction, alpha=-group["lr"])
                average.mul_(slow).add_(parameter.grad, alpha=1 - slow)


def mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))


def convolutions():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)),
    )


NETWORKS = {
    "mlp": (mlp, lambda: torch.randn(16, 12)),
    "convolutions": (convolutions, lambda: torch.randn(16, 3, 8, 8)),
    "resnet": (
        lambda: SmallImageResNet(18, 3, 5, 0.0625),
        lambda: torch.randn(8, 3, 8, 8),
    ),
    "gpt": (
        lambda: GPT(vocabulary=5, tokens=6, layers=1, heads=2, width=8),
        lambda: torch.randint(5, (8, 6)),
    ),
}


def made(name, dtype=torch.float64):
    """The network, and a batch of inputs and labels."""
    torch.manual_seed(0)
    make, draw = NETWORKS[name]
    model, inputs = make().to(dtype), draw()
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    shape = (len(inputs),) if inputs.is_floating_point() else tuple(inputs.shape)
    return model, inputs, torch.randint(5, shape)


def loss_of(outputs, labels):
    return F.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def plain(model, optimizer, inputs, labels, step):
    optimizer.zero_grad()
    loss_of(model(inputs), labels).backward()
    optimizer.step()


def accumulating(model, optimizer, inputs, labels, step):
    loss_of(model(inputs), labels).backward()
    if step % 3 == 2:
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)


def clipping(model, optimizer, inputs, labels, step):
    optimizer.zero_grad()
    loss_of(model(inputs), labels).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()


def with_closure(model, optimizer, inputs, labels, step):
    def closure():
        optimizer.zero_grad()
        loss = loss_of(model(inputs), labels)
        loss.backward()
        return loss

    optimizer.step(closure)


def by_kind(model, **more):
    """SGD without weight decay on vectors, the standard recipe."""
    matrices = [one for one in model.parameters() if one.dim() > 1]
    vectors = [one for one in model.parameters() if one.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 1e-2}, {"params": vectors, "lr": 0.02}]
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9, **more)


def sgd(**settings):
    settings = {"lr": 0.05, "weight_decay": 1e-2, **settings}
    return lambda model: torch.optim.SGD(model.parameters(), **settings)


def other(kind, **settings):
    settings = {"lr": 1e-3, "weight_decay": 0.1, **settings}
    return lambda model: kind(model.parameters(), **settings)


def muon(model):
    matrices = [one for one in model.parameters() if one.dim() == 2]
    return torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1)


FORETOLD = {
    "sgd": sgd(),
    "momentum": sgd(momentum=0.9),
    "dampening": sgd(momentum=0.9, dampening=0.5),
    "nesterov": sgd(momentum=0.9, nesterov=True),
}
OBSERVED = {
    "adam": other(torch.optim.Adam),
    "adamw": other(torch.optim.AdamW),
    "rmsprop": other(torch.optim.RMSprop, weight_decay=1e-3),
    "lion": other(Lion),
}
