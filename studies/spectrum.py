"""Energy by frequency: which detail a decoder brings back, and how much of it is right."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from sfumato.dct import dct, frequencies

OCTAVES = ("1/16", "1/8", "1/4", "1/2")
"""Lower ends of the octaves, as parts of the highest frequency along an axis."""

RGB = UInt8[np.ndarray, "h w 3"]


def radial_power(image: RGB, bins: int = 64) -> Float[np.ndarray, " bins"]:
    """Mean squared DCT coefficient of the luma in rings of equal width, from 0 to the highest frequency."""
    power, radius = _power(image)
    ring = np.minimum((radius * bins).astype(np.int64), bins)  # the last takes the corners and is dropped
    count = np.bincount(ring.ravel(), minlength=bins + 1)[:bins]
    return np.bincount(ring.ravel(), power.ravel(), bins + 1)[:bins] / np.maximum(count, 1)


def recovered(original: RGB, decoded: RGB) -> list[float]:
    """Energy of the decoded image in each of `OCTAVES`, as a share of the original's; 1 is right."""
    (power, radius), (power_hat, _) = _power(original), _power(decoded)
    shares = []
    for name in OCTAVES:
        low = 1 / int(name.partition("/")[2])
        ring = (radius >= low) & (radius < 2 * low)
        shares.append(float(power_hat[ring].sum() / max(power[ring].sum(), 1e-9)))
    return shares


def _power(image: RGB) -> tuple[np.ndarray, np.ndarray]:
    """(squared DCT coefficients of the BT.601 luma, their frequency as a part of the highest)."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    height, width = luma.shape
    return dct(luma) ** 2, np.sqrt(frequencies(height, width)) / math.pi
