"""The toys are the networks they stand for, and have the symmetries they are drawn for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from symrun.figures.toys import RESCALE, SCALE, TEACHER, TOYS, TRANSLATION, networks

EPSILON = np.finfo(np.float64).eps
SAMPLES = 500

each_toy = pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.symmetry)


@pytest.fixture
def theta():
    """[2, 200] in [-2, 2]^2, no closer to the origin than 1/2."""
    points = np.random.default_rng(0).uniform(-2, 2, (2, 400))
    return points[:, np.hypot(*points) > 0.5][:, :200]


def white_inputs():
    """[SAMPLES, 2] of mean 0 and covariance 1, to rounding."""
    draws = np.random.default_rng(1).normal(size=(SAMPLES, 2))
    columns, _ = np.linalg.qr(draws - draws.mean(axis=0))
    return torch.from_numpy(columns * SAMPLES**0.5)


def softmax_classifier(theta):
    return F.cross_entropy(theta[None], torch.tensor([0]))


def normalised_neuron(theta):
    x = white_inputs()
    eps = 1e-300  # torch refuses 0; added to a variance, this is the same
    out = F.batch_norm((x @ theta)[:, None], None, None, training=True, eps=eps)[:, 0]
    return 0.5 * F.mse_loss(out, x @ torch.from_numpy(TEACHER))


def linear_path(theta):
    x = white_inputs()[:, :1]
    hidden = F.linear(x, theta[0].reshape(1, 1))
    return 0.5 * F.mse_loss(F.linear(hidden, theta[1].reshape(1, 1)), x)


NETWORKS = {
    "translation": softmax_classifier,
    "scale": normalised_neuron,
    "rescale": linear_path,
}


@each_toy
def test_losses_and_gradients_are_those_of_the_real_network(toy, theta):
    # Sums of SAMPLES products, each rounded: their error is at most SAMPLES epsilon of their size;
    # the gradient divides by |theta| >= 1/2 and multiplies by up to |theta| < 3
    tolerance = 12 * SAMPLES * EPSILON
    assert np.hypot(*theta).min() > 0.5 and len(theta.T) == 200
    for point in theta.T[:40]:
        parameters = torch.tensor(point, requires_grad=True)
        loss = NETWORKS[toy.symmetry](parameters)
        (gradient,) = torch.autograd.grad(loss, parameters)
        size = max(1.0, loss.item(), gradient.norm().item())
        assert abs(toy.loss(point) - loss.item()) < tolerance * size
        np.testing.assert_allclose(toy.gradient(point), gradient, rtol=0, atol=tolerance * size)


@each_toy
def test_gradients_are_the_differences_of_the_loss(toy, theta):
    step = 1e-5
    # Largest third derivative along an axis. translation: of log(1 + e^z), 1 / (6 sqrt 3). scale:
    # (u . theta) / |theta|, where derivative n of 1 / |theta| is at most n! / |theta|^(n + 1), as
    # Legendre's polynomials are at most 1; so 12 / |theta|^3 < 96. rescale: a square in each.
    third = {"translation": 0.1, "scale": 96.0, "rescale": 0.0}[toy.symmetry]
    rounding = 8 * EPSILON * max(1.0, toy.loss(theta).max())
    tolerance = third * step**2 / 6 + rounding / step
    differences = [
        (toy.loss(theta + shift) - toy.loss(theta - shift)) / (2 * step)
        for shift in (np.array([[step], [0]]), np.array([[0], [step]]))
    ]
    np.testing.assert_allclose(toy.gradient(theta), differences, rtol=0, atol=tolerance)


@each_toy
def test_the_gradient_is_perpendicular_to_the_generator(toy, theta):
    gradient, generator = toy.gradient(theta), toy.generator(theta)
    sizes = np.maximum(1.0, np.hypot(*gradient) * np.hypot(*generator))
    assert (np.abs((gradient * generator).sum(axis=0)) < 16 * EPSILON * sizes).all()
    assert np.hypot(*gradient).max() > 0.5


@each_toy
def test_the_gradient_moves_nothing_along_what_is_conserved(toy, theta):
    gradient = toy.gradient(theta)
    # A central difference is exact for polynomials of degree 2, at any step
    change = (toy.conserved(theta + gradient) - toy.conserved(theta - gradient)) / 2
    sizes = 2 * (np.hypot(*theta) + np.hypot(*gradient)) ** 2 + 2
    assert (np.abs(change) < 16 * EPSILON * sizes).all()
    generator = toy.generator(theta)
    along = toy.conserved(theta + generator) - toy.conserved(theta - generator)
    assert np.median(np.abs(along)) > 1  # the generator is what crosses the level sets


@pytest.mark.parametrize("amount", [0.5, 3.0])
def test_the_loss_does_not_see_the_symmetry(theta, amount):
    first, second = theta
    for toy, moved in (
        (TRANSLATION, theta + amount),
        (SCALE, amount * theta),
        (RESCALE, np.stack([amount * first, second / amount])),
    ):
        np.testing.assert_allclose(toy.loss(moved), toy.loss(theta), rtol=0, atol=64 * EPSILON)
    assert not np.allclose(RESCALE.loss(amount * theta), RESCALE.loss(theta), atol=0.1)


def test_rescale_has_the_sign_of_the_tables():
    # |what leaves the unit|^2 - |what enters it|^2
    assert RESCALE.conserved(np.array([1.0, 3.0])) == 8.0


def test_the_caption_names_each_network():
    for toy in TOYS:
        assert f"{toy.symmetry.capitalize()}: {toy.network}" in networks()
    assert len(networks()) == 3
