"""The latents of neighbouring tiles in; the same without a step where the tiles meet.

Tiles are coded apart, so the means at their rims are foretold without the neighbour.  Where a symbol is zero,
as almost all are in a clear sky, the mean is all that is left of the image, and what it is wrong by shows
as a stripe.  Once the tiles are read, a second look across the border gives the means and deviations that one
tile would have had.  Any value within half a step of the coded one is as true to the file; of these the best
linear estimate is taken: the coded value has an error of variance 1/12, the mean one of variance sigma^2.

Symbols, checks and what a file means stay as they are; only the reconstruction differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfumato import scales
from sfumato.autoregressive import Layers, autoregressive_pass
from sfumato.tiles import Tile

if TYPE_CHECKING:
    from jaxtyping import Float

RATIO = 4  # cells of y for one of z, a side
CONTEXT = 2  # cells of z on each side of a border that are looked at
RIM = 4  # cells of y on each side of a border that may change
HALF = 0.5  # of a quantiser's step: how far a value may lie from the one that was coded
NOISE = 1 / 12  # variance of a value within its step, before anything is known of it


def smooth(
    prior: Layers,
    q: float,
    y_hat: Float[np.ndarray, "1 m h w"],
    z_hat: Float[np.ndarray, "1 n h/4 w/4"],
    tiles: Sequence[Tile],
    chunks: int | None = None,
) -> None:
    """Changes y_hat along every border between two of the tiles, in place; of a preview, the first
    `chunks`.
    """
    places = {(tile.top, tile.left): tile for tile in tiles}
    corners = list(_corners(places))
    coded = [y_hat[:, :, _cells(rows), _cells(columns)][rim].copy() for rows, columns, rim in corners]
    for axis in (3, 2):  # side by side, then one above the other
        for tile in tiles:
            top, left = (
                (tile.top, tile.left + tile.width) if axis == 3 else (tile.top + tile.height, tile.left)
            )
            other = places.get((top, left))
            if other is None:
                continue
            rows, columns = tile.slices()
            before, after = (min(CONTEXT, t.width if axis == 3 else t.height) for t in (tile, other))
            border = left if axis == 3 else top
            part = slice(border - before, border + after)
            rows, columns = (rows, part) if axis == 3 else (part, columns)
            found = _as_one(prior, q, y_hat, z_hat, rows, columns, chunks)
            at, rim = before * RATIO, min(RIM, before * RATIO, after * RATIO)
            target = y_hat[:, :, _cells(rows), _cells(columns)]
            near = (
                (..., slice(at - rim, at + rim))
                if axis == 3
                else (..., slice(at - rim, at + rim), slice(None))
            )
            target[near] = found[near]
    for (rows, columns, inner), was in zip(corners, coded, strict=True):
        found = _as_one(prior, q, y_hat, z_hat, rows, columns, chunks)
        target = y_hat[:, :, _cells(rows), _cells(columns)]
        target[inner] = np.clip(found[inner], was - HALF, was + HALF)


def _corners(places: Mapping[tuple[int, int], Tile]) -> Iterator[tuple[slice, slice, tuple[Any, ...]]]:
    """Where four tiles meet: rows and columns of z to look at, and the cells of y in it that may change."""
    for (top, left), tile in places.items():
        row, column = top + tile.height, left + tile.width
        after = places.get((row, column))
        if after is None or (top, column) not in places or (row, left) not in places:
            continue
        above, below = (min(CONTEXT, height) for height in (tile.height, after.height))
        before, behind = (min(CONTEXT, width) for width in (tile.width, after.width))
        rim = [
            slice(first * RATIO - min(RIM, first * RATIO), first * RATIO + min(RIM, last * RATIO))
            for first, last in ((above, below), (before, behind))
        ]
        yield slice(row - above, row + below), slice(column - before, column + behind), (..., *rim)


def _cells(cells: slice) -> slice:
    return slice(cells.start * RATIO, cells.stop * RATIO)


def _as_one(
    prior: Layers,
    q: float,
    y_hat: NDArray[np.float32],
    z_hat: NDArray[np.float64],
    rows: slice,
    columns: slice,
    chunks: int | None,
) -> NDArray[np.float64]:
    """The latents of a part that lies over several tiles, with the means of one."""

    def code(
        section: int,
        is_last: bool,
        mu: NDArray[np.float64],
        index: NDArray[np.float64],
        value: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        assert value is not None
        if section == 0:
            return value
        deviation = scales.SIGMA_MIN * np.exp(scales.LOG_STEP * index.clip(0, scales.NUM_SCALES - 1))
        towards = (mu - value) * (NOISE / (NOISE + np.square(deviation)))
        return value + towards.clip(-HALF, HALF)

    y = y_hat[:, :, _cells(rows), _cells(columns)].astype(np.float64)
    z = z_hat[:, :, rows, columns]
    found: NDArray[np.float64]
    found, _ = autoregressive_pass(prior, code, q, (z.shape[2], z.shape[3]), z, y, chunks)
    return found
