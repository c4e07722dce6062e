"""A rendered image in; a file of its pixels with fewer colours out, as many as a size or a distance asks for.

Windows, text and plots are few colours in sharp shapes, which transforms blur and a lossless stream keeps.
Median cut and a round of k-means choose the colours (Pillow).  Decoders read such a file as any lossless one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato import lossless
from sfumato.analysis import RENDERED, flatness
from sfumato.image_data import ImageData

if TYPE_CHECKING:
    from sfumato.lossless import Pixels

COLOURS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of colours that are tried; Pillow's palettes end there."""
LARGEST_Q = 254
"""Quality byte of such files at most: 255 says that the pixels are those that were given (FORMAT.md)."""

EXTRA_PER_DB, MOST_EXTRA = 0.05, 0.25
"""Share of its bytes that a file may have more for a decibel where no limit is given, and at most; those of a
latent grow by 7 to 16 % for each."""
TRIFLE = 32
"""Bytes that an exact image may cost more in any case."""
FAR, STRAYED = 40, 0.0005
"""Levels by which a sample is far off, and the share of pixels with such a sample from which on a palette is
refused: small marks of a colour of their own would take that of something else."""
ROWS = 256  # at once: a float for every sample of a large image is hundreds of megabytes


@dataclass(frozen=True)
class Reduced:
    """A file and the image that it holds."""

    data: bytes
    pixels: Pixels  # as those that were given: [H, W] if grey, else [H, W, 3]
    q: int  # its quality byte
    error: float  # mean squared, in levels of 0..255
    strayed: float  # the share of pixels with a sample that is `FAR` off


def is_rendered(image_data: ImageData) -> bool:
    """Whether enough pixels are equal to their neighbours for a file of few colours to be tried.

    Not where it would be a PNG: for 2^24 pixels a trial takes half a minute.
    """
    height, width = image_data.pixels.shape[:2]
    is_webp = max(height, width) <= lossless.WEBP_SIDE and height * width <= lossless.WEBP_PIXELS
    return is_webp and flatness(image_data.rgb) >= RENDERED[0]


def better(image_data: ImageData, size: int, error: float, q: int) -> Reduced | None:
    """The file with fewer colours that is better than one of `size` bytes with that squared error; else None.

    It is closer to the image, and larger by no more than that is worth.
    """
    for limit in (size + max(TRIFLE, round(MOST_EXTRA * size)), size):
        found = largest(image_data, limit, q)
        if found is not None and found.error < error and len(found.data) - size <= _worth(size, error, found):
            return found
    return None


def _worth(size: int, error: float, found: Reduced) -> float:
    """Bytes over `size` at most."""
    if found.error == 0:
        return max(TRIFLE, MOST_EXTRA * size)
    return size * min(MOST_EXTRA, EXTRA_PER_DB * 10 * math.log10(error / found.error))


def largest(image_data: ImageData, limit: int, q: int) -> Reduced | None:
    """The file with the most colours of at most `limit` bytes; with all of them, if it can be; None if none.

    `q` is the quality byte for one with fewer.
    """
    whole = lossless.file(image_data, limit)
    if whole is not None:
        return Reduced(whole, image_data.pixels, 255, 0.0, 0.0)
    found = _bisect(image_data, q, lambda tried: len(tried.data) <= limit, fewest=False)
    return found if found is not None and found.strayed <= STRAYED else None


def smallest(image_data: ImageData, limit: int, q: int, close: Callable[[Pixels], bool]) -> Reduced | None:
    """The file with the fewest colours whose pixels are `close` enough, if it has at most `limit` bytes."""
    found = _bisect(
        image_data, q, lambda tried: tried.strayed <= STRAYED and close(tried.pixels), fewest=True
    )
    if found is not None and len(found.data) <= limit:
        return found
    whole = None if found else lossless.file(image_data, limit)
    return None if whole is None else Reduced(whole, image_data.pixels, 255, 0.0, 0.0)


def _bisect(image_data: ImageData, q: int, accept: Callable[[Reduced], bool], fewest: bool) -> Reduced | None:
    """The accepted file at that end of `COLOURS` from which on, or up to which, files are accepted."""
    low, high, best = 0, len(COLOURS), None
    while low < high:
        middle = (low + high) // 2
        tried = reduced(image_data, COLOURS[middle], q)
        accepted = accept(tried)
        best = tried if accepted else best
        if accepted == fewest:
            high = middle
        else:
            low = middle + 1
    return best


def reduced(image_data: ImageData, colours: int, q: int) -> Reduced:
    """The file of an image in so many colours, 2..256."""
    given = Image.fromarray(np.ascontiguousarray(image_data.pixels))
    few = given.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    pixels = np.array(few.convert(given.mode))
    error = squared_error(pixels, image_data.pixels)
    difference = np.maximum(pixels, image_data.pixels) - np.minimum(pixels, image_data.pixels)
    strayed = float((difference > FAR).reshape(*pixels.shape[:2], -1).any(2).mean())
    q = min(q, LARGEST_Q)
    data = lossless.whole_file(replace(image_data, pixels=pixels), q)
    assert data is not None, "of 256 colours a stream takes at most a byte a pixel"
    return Reduced(data, pixels, q, error, strayed)


def squared_error(a: Pixels, b: Pixels) -> float:
    """The mean squared difference of two images of one shape, in levels of 0..255."""
    total = 0.0
    for top in range(0, len(a), ROWS):
        rows = slice(top, top + ROWS)
        total += float(np.square(a[rows].astype(np.float32) - b[rows]).sum(dtype=np.float64))
    return total / a.size
