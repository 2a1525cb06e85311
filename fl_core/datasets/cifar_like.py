"""cifar-like: *not* CIFAR10 but made-up pictures of its shape, to exercise what is written for it where it is missing.

3x32x32 pixels in 10 classes that a network can learn: a class is a few waves of colour; a picture is its class's waves,
moved about, faint or strong, under noise. Accuracies say nothing about CIFAR10. The pictures are the same for ever:
neither the run's seed nor anything else changes them, but their number and the noise.
"""

from __future__ import annotations

import numpy as np
import torch

from fl_core.datasets import Pair, Samples
from fl_core.options import Count, NonNegative
from fl_core.randomness import numpy_generator

CLASSES, CHANNELS, SIDE = 10, 3, 32
_SEED = 20220203
_WAVES, _HIGHEST = 4, 4
"""Plane waves a class, of at most so many periods across the picture."""
_FARTHEST = 6
"""Pixels a picture is moved by, each way, around the edge."""


def load(*, train: Count = 50_000, test: Count = 10_000, noise: NonNegative = 1.0) -> Samples:
    """Inputs `[m, 3, 32, 32]` float32 with mean about 0 and deviation about 1, labels `[m]` int64, classes in turn.

    Args:
        train, test: numbers of pictures (CIFAR10's by default).
        noise: its deviation, in deviations of a class's waves.
    """
    waves = _waves()
    pairs = [_pictures(waves, count, noise, name) for count, name in ((train, "train"), (test, "test"))]
    return Samples(train=pairs[0], test=pairs[1], classes=CLASSES)


def _waves() -> np.ndarray:
    """A picture a class, `[10, 3, 32, 32]`, each with mean 0 and deviation 1."""
    source = numpy_generator(_SEED, "cifar-like", "waves")
    shape = (CLASSES, CHANNELS, _WAVES, 1, 1)
    across, down = (source.integers(-_HIGHEST, _HIGHEST + 1, shape) for _ in range(2))
    phase = source.uniform(0, 2 * np.pi, shape)
    at = np.arange(SIDE) * (2 * np.pi / SIDE)
    drawn: np.ndarray = np.cos(across * at + down * at[:, None] + phase).sum(axis=2)
    drawn -= drawn.mean(axis=(1, 2, 3), keepdims=True)
    drawn /= drawn.std(axis=(1, 2, 3), keepdims=True)
    return drawn


def _pictures(waves: np.ndarray, count: int, noise: float, name: str) -> Pair:
    """Bytes first, as pictures are: what a machine's cosine does in its last digit is rounded away."""
    source = numpy_generator(_SEED, "cifar-like", name)
    labels = np.arange(count) % CLASSES
    right, below = source.integers(-_FARTHEST, _FARTHEST + 1, (2, count))
    strength = source.uniform(0.5, 1.5, (count, 1, 1, 1))
    rows = (np.arange(SIDE) - below[:, None])[:, None, :, None] % SIDE
    columns = (np.arange(SIDE) - right[:, None])[:, None, None, :] % SIDE
    moved = waves[labels[:, None, None, None], np.arange(CHANNELS)[:, None, None], rows, columns]
    deviation = np.sqrt(13 / 12 + noise**2)  # E strength² = 13/12
    values = (strength * moved + noise * source.standard_normal(moved.shape)) / deviation
    pixels = np.clip(np.round(128 + 48 * values), 0, 255).astype(np.uint8)
    inputs = torch.from_numpy(pixels).to(torch.float32).sub_(128).div_(48)
    return inputs, torch.from_numpy(labels.astype(np.int64))
