"""Colour quantisation: the colours of an image, and few that stand for all of them.

Each next colour is the one that is farthest, by squared distance times the root of its count, from those
chosen before (Gonzalez 1985), so that a small mark gets one as well as a ground; then k-means (Lloyd 1982)
moves them.  All sums are of whole numbers, so every machine chooses the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, UInt8

    from sfumato.lossless import Pixels

MOST = 256
"""Colours of a choice at most."""
CELLS = 1 << 12
"""Colours to choose from, at most; of more, those with equal high bits are merged."""
ROUNDS = 10
"""Of k-means, at most."""
GROUND = 0.5
"""The share of its cluster from which on a colour stands for it unmoved, so that white stays white."""
ALIKE = 2
"""Levels by which neighbours of one ground or mark differ at most; noise of a JPEG may be that large."""
FAR, EDGE = 40, 0.1
"""Levels by which a sample is far off, and what a pixel unlike its four neighbours, antialiasing as a rule,
counts for in `Choice.strayed`."""
SHIFTED = 8
"""Levels by which a ground is seen to have another colour, or a shade to break into bands."""
ROWS = 256  # at once: indices of a whole large image are hundreds of megabytes


@dataclass(frozen=True)
class Choice:
    """Few colours in place of all."""

    colours: UInt8[np.ndarray, "k c"]
    number: UInt8[np.ndarray, " n"]  # of the colour that each colour of the image becomes
    error: float  # mean squared, in levels of 0..255
    strayed: float  # the share of pixels with a sample that is `FAR` off
    shifted: float  # the share of pixels that are of a ground or a shade and `SHIFTED` off


class Colours:
    """The colours of an image uint8 [H, W] or [H, W, 3], and how many pixels each has."""

    def __init__(self, pixels: Pixels) -> None:
        self._shape = pixels.shape
        samples = np.atleast_3d(pixels)
        channels = range(samples.shape[2])
        self._codes = np.zeros(samples.shape[:2], np.int32)
        for channel in channels:
            self._codes |= np.left_shift(samples[..., channel], 8 * channel, dtype=np.int32)
        count, alike = np.zeros((2, 1 << 8 * len(channels)), np.int32)
        for rows in _blocks(len(pixels)):
            np.add.at(count, self._codes[rows], 1)
            np.add.at(alike, self._codes[rows][_like_a_neighbour(samples, rows)], 1)
        self._present = np.flatnonzero(count)
        self._values = np.stack([self._present >> 8 * channel & 255 for channel in channels], 1)
        self._count = count[self._present].astype(np.int64)
        self._alike = alike[self._present].astype(np.int64)

    def __len__(self) -> int:
        return len(self._present)

    def few(self, most: int) -> Choice:
        """So many colours, 2..256, or all, if there are fewer."""
        values, count = self._cells[1], self._cells[2]
        chosen = values[self._order[:most]]
        for _ in range(ROUNDS):
            moved = _centres(values, count, _nearest(values, chosen), chosen)
            if np.array_equal(moved, chosen):
                break
            chosen = moved
        number = _nearest(values, chosen)[self._cells[0]]
        difference = self._values - chosen[number]
        pixels = int(self._count.sum())
        error = int((np.square(difference).sum(1) * self._count).sum()) / (pixels * difference.shape[1])
        off = np.abs(difference).max(1)
        strayed = float((EDGE * self._count + (1 - EDGE) * self._alike)[off > FAR].sum()) / pixels
        shifted = int(self._alike[off > SHIFTED].sum()) / pixels
        return Choice(chosen.astype(np.uint8), number.astype(np.uint8), error, strayed, shifted)

    def shown(self, choice: Choice) -> Pixels:
        """The image in the colours of a choice."""
        table = np.zeros((int(self._present[-1]) + 1, choice.colours.shape[1]), np.uint8)
        table[self._present] = choice.colours[choice.number]
        shown = np.empty((*self._codes.shape, table.shape[1]), np.uint8)
        for rows in _blocks(len(shown)):
            shown[rows] = table[self._codes[rows]]
        return shown.reshape(self._shape)

    @cached_property
    def _cells(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "m c"], Int[np.ndarray, " m"]]:
        """(cell of each colour, the mean of each cell, its count)."""
        shifts = 8 * np.arange(self._values.shape[1])
        for lost in range(8):
            high = (self._values >> lost << shifts).sum(1)
            cells, cell = np.unique(high, return_inverse=True)
            if len(cells) <= CELLS:
                break
        return cell, *_means(self._values, self._count, cell, len(cells))

    @cached_property
    def _order(self) -> Int[np.ndarray, " k"]:
        """Cells in the order in which they are chosen, `MOST` at most."""
        _, values, count = self._cells
        order = [int(count.argmax())]
        weight, distance = np.sqrt(count), np.full(len(values), np.iinfo(np.int64).max)
        while len(order) < min(MOST, len(values)):
            distance = np.minimum(distance, np.square(values - values[order[-1]]).sum(1))
            order.append(int((weight * distance).argmax()))
        return np.array(order)


def _blocks(height: int) -> list[slice]:
    return [slice(top, top + ROWS) for top in range(0, height, ROWS)]


def _like_a_neighbour(samples: UInt8[np.ndarray, "h w c"], rows: slice) -> Bool[np.ndarray, "rows w"]:
    """Whether pixels of these rows are `ALIKE` one beside, above or below them."""
    first = max(0, rows.start - 1)
    block = samples[first : rows.stop + 1]
    alike = np.zeros(block.shape[:2], bool)
    for one, other in (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1]):
        difference = np.maximum(block[one], block[other]) - np.minimum(block[one], block[other])
        equal = (difference <= ALIKE).all(2)
        alike[one] |= equal
        alike[other] |= equal
    return alike[rows.start - first :][: rows.stop - rows.start]


def _nearest(values: Int[np.ndarray, "m c"], chosen: Int[np.ndarray, "k c"]) -> Int[np.ndarray, " m"]:
    """The number of the chosen colour that is nearest to each; float32 holds these sums exactly."""
    product = values.astype(np.float32) @ chosen.T.astype(np.float32)
    return (np.square(chosen).sum(1).astype(np.float32) - 2 * product).argmin(1)


def _centres(
    values: Int[np.ndarray, "m c"],
    count: Int[np.ndarray, " m"],
    number: Int[np.ndarray, " m"],
    chosen: Int[np.ndarray, "k c"],
) -> Int[np.ndarray, "k c"]:
    """What stands for each cluster: its commonest colour, if it has `GROUND` of the pixels, else the mean."""
    means, counts = _means(values, count, number, len(chosen))
    order = count.argsort(kind="stable")
    commonest = np.zeros(len(chosen), np.int64)
    commonest[number[order]] = order
    is_ground = count[commonest] >= GROUND * counts
    centres = np.where(is_ground[:, None], values[commonest], means)
    return np.where(counts[:, None] > 0, centres, chosen)


def _means(
    values: Int[np.ndarray, "n c"], count: Int[np.ndarray, " n"], group: Int[np.ndarray, " n"], groups: int
) -> tuple[Int[np.ndarray, "g c"], Int[np.ndarray, " g"]]:
    """(the rounded mean of each group, its count)."""
    counts = np.bincount(group, count, groups)
    sums = np.stack([np.bincount(group, count * channel, groups) for channel in values.T], 1)
    return np.rint(sums / np.maximum(counts, 1)[:, None]).astype(np.int64), counts.astype(np.int64)
