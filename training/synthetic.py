"""A random generator in, a rendered crop out: flat and saturated colours, dark gradients, plain shapes.

Photographs hold few of them, and a codec that never saw them gives flat fields a tint and a rim.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def synthetic_crop(side: int, rng: np.random.Generator) -> Float[Tensor, "1 3 side side"]:
    """One crop in [-1, 1], on the CPU: a flat field, a gradient, or a few flat shapes on either."""
    kind = rng.random()
    if kind < 0.4:
        image = np.broadcast_to(_colour(rng), (side, side, 3)).astype(np.float64)
    else:
        image = _gradient(side, rng)
    if kind > 0.7:
        for _ in range(rng.integers(1, 5)):
            top, left = rng.integers(0, side, 2)
            height, width = rng.integers(4, side, 2)
            image = image.copy()
            image[top : top + height, left : left + width] = _colour(rng)
    levels = np.rint(image.clip(0, 255)).astype(np.float32)  # as an 8-bit file would hold it
    return torch.from_numpy(levels).permute(2, 0, 1)[None] / 127.5 - 1


def _colour(rng: np.random.Generator) -> np.ndarray:
    """RGB on 0..255: a corner of the cube, a grey, or anything."""
    kind = rng.random()
    if kind < 0.4:
        return rng.integers(0, 2, 3) * 255.0
    if kind < 0.6:
        return np.full(3, float(rng.integers(0, 256)))
    return rng.integers(0, 256, 3).astype(np.float64)


def _gradient(side: int, rng: np.random.Generator) -> np.ndarray:
    """Linear or radial from one colour to another; half of them between two that are dark or close."""
    first = _colour(rng)
    second = first * rng.uniform(0.6, 1.0) if rng.random() < 0.5 else _colour(rng)
    if rng.random() < 0.3:
        first, second = first * 0.15, second * 0.15
    y, x = np.mgrid[0:side, 0:side] / side - rng.random(2)[:, None, None]
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (x * np.cos(angle) + y * np.sin(angle)) / 2 + 0.5
    else:
        ramp = np.hypot(x, y)
    dither = rng.uniform(-0.5, 0.5, (side, side, 3)) * (rng.random() < 0.5)
    return first + (second - first) * ramp.clip(0, 1)[..., None] + dither
