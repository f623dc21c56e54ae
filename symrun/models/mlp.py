"""Fully connected networks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def mlp(sizes: Sequence[int], activation: str, bias: bool, batch_norm: bool) -> nn.Sequential:
    """Linear layers with an activation between two of them, and BatchNorm before it if asked for.

    inputs [batch, ...], flattened to [batch, sizes[0]] -> logits [batch, sizes[-1]]

    sizes: of the input, each hidden layer and the output. Weights are drawn as torch draws them.
    Example: mlp([784, 256, 10], "relu", bias=True, batch_norm=False)
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, units in pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, units, bias))
        layers += [nn.BatchNorm1d(units)] if batch_norm else []
        layers.append(_ACTIVATIONS[activation]())
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1], bias))
