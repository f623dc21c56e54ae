"""Three losses of two parameters, with one symmetry each: the smallest networks that have them.

Where a loss does not change along a direction, its gradient is perpendicular to that direction, the
generator, and gradient flow conserves a quantity: <grad L, generator> = 0 at every theta.

Source: Kunin et al. (2021), arXiv 2012.04728, sections 3 and 4 and Figs. 2 and 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TEACHER = np.array([1.0, 1.0]) / np.sqrt(2)
"""What the neuron of `SCALE` is to imitate; of length 1."""


@dataclass(frozen=True)
class Toy:
    """A loss and what belongs to its symmetry, as functions of theta.

    Shapes: theta [2, ...]; `loss` and `conserved` give [...], `gradient` and `generator` [2, ...].
    Units: none; theta and the losses are pure numbers.
    Example: RESCALE.gradient(np.array([2.0, 3.0]))
    """

    symmetry: str
    network: str
    formula: str
    loss: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    generator: Callable[[Array], Array]
    conserved: Callable[[Array], Array]
    conserved_formula: str


def _softmax_loss(theta: Array) -> Array:
    """Cross-entropy of a softmax over the logits theta, for the first class."""
    loss: Array = np.logaddexp(0.0, theta[1] - theta[0])
    return loss


def _softmax_gradient(theta: Array) -> Array:
    """p_2 (-1, 1), with p_2 = 1 - p_1 the probability of the second class."""
    wrong = np.exp(-np.logaddexp(0.0, theta[0] - theta[1]))
    return np.stack([-wrong, wrong])


def _normalised_loss(theta: Array) -> Array:
    """Half the mean squared error of a batch-normalised linear neuron against a linear teacher u.

    Over the whole population of white inputs x, theta . x has standard deviation |theta|, so that
    L = E[(theta . x / |theta| - u . x)^2] / 2 = 1 - cos angle(theta, u).

    Error: a division by zero at the origin, where the neuron has no direction.
    """
    loss: Array = 1.0 - _along(TEACHER, theta) / np.hypot(theta[0], theta[1])
    return loss


def _normalised_gradient(theta: Array) -> Array:
    """-(u - cos theta / |theta|) / |theta|: u without its part along theta, shorter further out.

    Error: a division by zero at the origin.
    """
    length = np.hypot(theta[0], theta[1])
    cosine = _along(TEACHER, theta) / length
    gradient: Array = np.stack([cosine * theta[i] / length - TEACHER[i] for i in (0, 1)]) / length
    return gradient


def _path_loss(theta: Array) -> Array:
    """Half the mean squared error of theta_2 theta_1 x against x, where E[x^2] = 1."""
    loss: Array = 0.5 * (theta[0] * theta[1] - 1.0) ** 2
    return loss


def _path_gradient(theta: Array) -> Array:
    """(theta_1 theta_2 - 1) (theta_2, theta_1)."""
    gradient: Array = (theta[0] * theta[1] - 1.0) * theta[::-1]
    return gradient


def _along(direction: Array, theta: Array) -> Array:
    product: Array = direction[0] * theta[0] + direction[1] * theta[1]
    return product


TRANSLATION = Toy(
    symmetry="translation",
    network="a softmax over two logits, cross-entropy of the first class",
    formula=r"$L = \log(1 + \exp(θ_2 - θ_1))$",
    loss=_softmax_loss,
    gradient=_softmax_gradient,
    generator=np.ones_like,
    conserved=lambda theta: theta[0] + theta[1],
    conserved_formula=r"$θ_1 + θ_2$",
)
"""A softmax over two logits: both may move by the same amount."""

SCALE = Toy(
    symmetry="scale",
    network="a batch-normalised linear neuron, white inputs, a linear teacher u = (1, 1)/√2",
    formula=r"$L = 1 - \cos\,∠(θ, u)$",
    loss=_normalised_loss,
    gradient=_normalised_gradient,
    generator=np.copy,
    conserved=lambda theta: theta[0] ** 2 + theta[1] ** 2,
    conserved_formula=r"$θ_1^2 + θ_2^2$",
)
"""A neuron before batch normalisation: its weights may grow by a common factor."""

RESCALE = Toy(
    symmetry="rescale",
    network="a linear path θ₂θ₁x, squared error against x",
    formula=r"$L = (θ_2 θ_1 - 1)^2 / 2$",
    loss=_path_loss,
    gradient=_path_gradient,
    generator=lambda theta: np.stack([theta[0], -theta[1]]),
    conserved=lambda theta: theta[1] ** 2 - theta[0] ** 2,
    conserved_formula=r"$θ_2^2 - θ_1^2$",
)
"""A linear path of two weights: one may grow by the factor by which the other shrinks."""

TOYS = (TRANSLATION, SCALE, RESCALE)


def networks() -> list[str]:
    """What each toy is, for a caption."""
    return [f"{toy.symmetry.capitalize()}: {toy.network}" for toy in TOYS]
