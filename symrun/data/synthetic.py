"""Synthetic textures: images made in memory, without a download.

A class is a grating (orientation, frequency, colour) on a background colour; an image of it has a
phase, contrast, tint and noise of its own.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from symrun.data.dataset import ImageDataset, Split

# Memory: the images made at a time, as float32.
_CHUNK = 1024

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Textures:
    """wave: radians per pixel down and across, [classes, 2]; the others: [classes, channels]."""

    wave: Floats
    background: Floats
    grating: Floats


def synthetic_textures(
    classes: int, image_size: int, train_images: int, val_images: int, seed: int, channels: int = 3
) -> ImageDataset:
    """The same images for the same settings; as many of each class as of any other, or one more.

    A crop leaves a class as it is, but a flip would turn its grating. A grey grating has all of the
    contrast that a colour spreads over three channels.
    """
    texture_rng, train_rng, val_rng = np.random.default_rng(seed).spawn(3)
    textures = _textures(classes, channels, texture_rng)
    return ImageDataset(
        title="synthetic textures",
        synthetic=True,
        train=_split(textures, train_images, image_size, train_rng),
        val=_split(textures, val_images, image_size, val_rng),
        classes=classes,
        mean=(0.5,) * channels,
        std=(0.295 if channels == 3 else 0.305,) * channels,
    )


def _textures(classes: int, channels: int, rng: np.random.Generator) -> Textures:
    # Multiples of irrational numbers, from a random start: spread evenly, however many classes.
    steps = np.sqrt([2, 3, 5, 7, 11, 13, 17, 19])
    spread = (rng.random(8) + np.arange(classes)[:, None] * steps) % 1
    angle = np.pi * spread[:, :1]
    # A period of 4 to 12 pixels.
    frequency = 2 * np.pi / (4 + 8 * spread[:, 1:2])
    background = 0.2 + 0.6 * spread[:, 2 : 2 + channels]
    grating = spread[:, 5 : 5 + channels] - 0.5
    grating /= np.linalg.norm(grating, axis=1, keepdims=True)
    wave = frequency * np.hstack([np.sin(angle), np.cos(angle)])
    return Textures(*(array.astype(np.float32) for array in (wave, background, grating)))


def _split(textures: Textures, images: int, size: int, rng: np.random.Generator) -> Split:
    labels = np.arange(images) % len(textures.wave)
    channels = textures.background.shape[1]
    pixels = np.empty((images, channels, size, size), dtype=np.uint8)
    for start in range(0, images, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pixels[chunk] = _draw(textures, labels[chunk], size, rng)
    return Split(torch.from_numpy(pixels), torch.from_numpy(labels))


def _draw(
    textures: Textures, labels: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Floats:
    """An image for each label: [images, channels, size, size], in [0, 255]."""

    def uniform(low: float, high: float, *shape: int) -> Floats:
        return rng.uniform(low, high, (len(labels), *shape)).astype(np.float32)

    axis = np.arange(size, dtype=np.float32)
    down, across = (textures.wave[labels, i, None] * axis for i in (0, 1))
    phase = uniform(0, 2 * np.pi, 1, 1) + down[:, :, None] + across[:, None, :]
    background = textures.background[labels, :, None, None]
    background = background + uniform(-0.2, 0.2, background.shape[1], 1, 1)
    grating = textures.grating[labels, :, None, None] * uniform(0.12, 0.24, 1, 1, 1)
    pixels: Floats = background + grating * np.cos(phase)[:, None]
    pixels += 0.25 * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(255 * pixels, 0, 255)
