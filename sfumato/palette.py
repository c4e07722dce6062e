"""A rendered image in; a file of its pixels with fewer colours out, as many as its bytes are worth.

Windows, text and plots are few colours in sharp shapes, which transforms blur and a lossless stream keeps.
Decoders read such a file as any lossless one.  `colour_quantiser` chooses.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sfumato import lossless
from sfumato.analysis import RENDERED, flatness, smoothness
from sfumato.colour_quantiser import ROWS, Choice, Colours
from sfumato.image_data import ImageData

if TYPE_CHECKING:
    from sfumato.lossless import Pixels

NUMBERS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Of colours, that are tried."""
LARGEST_Q = 254
"""Quality byte of such files at most: 255 says that the pixels are those that were given (FORMAT.md)."""

NOISY = 0.7
"""`smoothness` from which on an image is tried: shades, and what has been a JPEG.
Clear skies are tried along, for a longer encode and the same file."""
TRIFLE = 32
"""Bytes that an exact image may cost more in any case."""
STRAYED, SHIFTED = 0.001, 0.05
"""`Choice.strayed` and `Choice.shifted` over which colours are refused: marks of a colour of their own would
take another, shades would break into bands."""


@dataclass(frozen=True)
class Reduced:
    """A file and the image that it holds."""

    data: bytes
    pixels: Pixels  # as those that were given: [H, W] if grey, else [H, W, 3]
    q: int  # its quality byte
    choice: Choice | None = None  # of its colours; None for all of them

    @property
    def error(self) -> float:
        """Mean squared, in levels of 0..255."""
        return 0.0 if self.choice is None else self.choice.error


def is_rendered(image_data: ImageData) -> bool:
    """Whether enough pixels are like their neighbours for a file of few colours to be tried.

    Not where it would be a PNG: for 2^24 pixels a trial takes half a minute.
    """
    height, width = image_data.pixels.shape[:2]
    if max(height, width) > lossless.WEBP_SIDE or height * width > lossless.WEBP_PIXELS:
        return False
    rgb = image_data.rgb
    return flatness(rgb) >= RENDERED[0] or smoothness(rgb) >= NOISY


def better(image_data: ImageData, size: int, error: float, q: int) -> Reduced | None:
    """The file that is better than one of `size` bytes with that squared error; None if there is none.

    It is closer to the image, and has the least sum, under 2, of its bytes as a share of `size` and its
    squared error as a share of `error`: a decibel may cost 26 % more bytes, about what the networks take on
    screens.  `q` is its quality byte if it has not all colours.
    """
    if error == 0:  # of x_base; what a refinement makes of it may be a level off
        return _whole(image_data, size + TRIFLE)
    colours, best, least = Colours(image_data.pixels), None, 2.0
    first = bisect_left(NUMBERS, True, key=lambda number: colours.few(number).error < error)
    for number in NUMBERS[first:]:
        choice = colours.few(number)
        if choice.error >= error or loses_colours(choice):
            continue
        tried = _of(image_data, colours, choice, q)
        if len(tried.data) >= least * size:
            break
        if (cost := choice.error / error + len(tried.data) / size) < least:
            best, least = tried, cost
    return _whole(image_data, max(size + TRIFLE, math.ceil(least * size) - 1)) or best


def largest(image_data: ImageData, limit: int, q: int) -> Reduced | None:
    """The file with the most colours of at most `limit` bytes; with all of them, if it can be; None if none.

    `q` is the quality byte for one with fewer.
    """
    if whole := _whole(image_data, limit):
        return whole
    found = _bisect(image_data, q, lambda tried: len(tried.data) <= limit, fewest=False)
    return found if found is not None and not loses_colours(found.choice) else None


def smallest(image_data: ImageData, limit: int, q: int, close: Callable[[Pixels], bool]) -> Reduced | None:
    """The file with the fewest colours whose pixels are `close` enough, if it has at most `limit` bytes."""
    found = _bisect(
        image_data, q, lambda tried: not loses_colours(tried.choice) and close(tried.pixels), fewest=True
    )
    if found is None:
        return _whole(image_data, limit)
    return found if len(found.data) <= limit else None


def loses_colours(choice: Choice | None) -> bool:
    """Whether a choice is refused for what becomes of marks, grounds or shades."""
    return choice is not None and (choice.strayed > STRAYED or choice.shifted > SHIFTED)


def reduced(image_data: ImageData, number: int, q: int) -> Reduced:
    """The file of an image in so many colours, 2..256."""
    colours = Colours(image_data.pixels)
    return _of(image_data, colours, colours.few(number), q)


def _of(image_data: ImageData, colours: Colours, choice: Choice, q: int) -> Reduced:
    pixels, q = colours.shown(choice), min(q, LARGEST_Q) if choice.error else 255
    data = lossless.whole_file(replace(image_data, pixels=pixels), q)
    assert data is not None, "of 256 colours a stream takes at most a byte a pixel"
    return Reduced(data, pixels, q, choice)


def _whole(image_data: ImageData, limit: int) -> Reduced | None:
    """The file of all colours, of at most `limit` bytes."""
    data = lossless.file(image_data, limit)
    return None if data is None else Reduced(data, image_data.pixels, 255)


def _bisect(image_data: ImageData, q: int, accept: Callable[[Reduced], bool], fewest: bool) -> Reduced | None:
    """The accepted file at that end of `NUMBERS` from which on, or up to which, files are accepted."""
    colours, low, high, best = Colours(image_data.pixels), 0, len(NUMBERS), None
    while low < high:
        middle = (low + high) // 2
        tried = _of(image_data, colours, colours.few(NUMBERS[middle]), q)
        accepted = accept(tried)
        best = tried if accepted else best
        if accepted == fewest:
            high = middle
        else:
            low = middle + 1
    return best


def squared_error(a: Pixels, b: Pixels) -> float:
    """The mean squared difference of two images of one shape, in levels of 0..255."""
    total = 0.0
    for top in range(0, len(a), ROWS):
        rows = slice(top, top + ROWS)
        total += float(np.square(a[rows].astype(np.float32) - b[rows]).sum(dtype=np.float64))
    return total / a.size
