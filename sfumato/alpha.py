"""Pixels and their alpha in; the same with smooth colours where nobody sees them out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato.image_data import ImageData

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Plane = UInt8[np.ndarray, "h w"]


CELL = 8  # pixels


def fill(pixels: UInt8[np.ndarray, "h w *rgb"], plane: Plane) -> UInt8[np.ndarray, "h w *rgb"]:
    """The pixels, with those of alpha 0 replaced by smooth continuations of their neighbours.

    Pull: means of what is visible over cells of 8, 16, 32 .. pixels.  Push: cells without any take the
    interpolated mean of the next coarser ones (after Gortler et al. 1996, section 3.4).
    """
    if plane.all():
        return pixels
    seen = plane > 0
    channels = np.atleast_3d(pixels)
    filled = [np.where(seen, c, _smooth(c, seen)) for c in np.moveaxis(channels, 2, 0)]
    return np.stack(filled, -1).reshape(pixels.shape)


def filled(image_data: ImageData) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of an image, filled where alpha is 0."""
    if image_data.alpha is None:
        return image_data.rgb
    return replace(image_data, pixels=fill(image_data.pixels, image_data.alpha)).rgb


def _smooth(channel: Plane, seen: np.ndarray) -> Plane:
    values, weights = (_sums(a, CELL, np.uint16).astype(np.float32) for a in (channel * seen, seen))
    small = Image.fromarray(_push(values, weights).round().astype(np.uint8))
    whole = small.resize((small.width * CELL, small.height * CELL), Image.Resampling.BILINEAR)
    return np.asarray(whole)[: channel.shape[0], : channel.shape[1]]


def _push(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = weights > 0
    means = values / np.maximum(weights, 1)
    if known.all() or values.size == 1:
        return means
    coarse = Image.fromarray(_push(_sums(values, 2, np.float32), _sums(weights, 2, np.float32)))
    wide = coarse.resize((2 * coarse.width, 2 * coarse.height), Image.Resampling.BILINEAR)
    return np.where(known, means, np.asarray(wide)[: values.shape[0], : values.shape[1]])


def _sums(a: np.ndarray, cell: int, kind: type) -> np.ndarray:
    """Sums over cells of `cell` x `cell`; zeros fill up those at the right and bottom."""
    a = np.pad(a, [(0, -side % cell) for side in a.shape])
    height, width = (side // cell for side in a.shape)
    rows = a.reshape(height, cell, -1).sum(1, dtype=kind)
    return rows.reshape(height, width, cell).sum(2, dtype=kind)
