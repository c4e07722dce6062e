"""The latents of neighbouring tiles in; the same without a step where the tiles meet.

Tiles are coded apart, so the means at their rims are foretold without the neighbour.  Where a symbol is zero,
as almost all are in a clear sky, the mean is all that is left of the picture, and what it is wrong by shows
as a stripe.  Once the tiles are read, a second look across the border gives the means that one tile would
have had: any value within half a step of the coded one is as true to the file, so the better one is taken.

Symbols, checks and what a file means stay as they are; only the reconstruction differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.prior import Prior
from sfumato.tiles import Tile

RATIO = 4  # cells of y for one of z, a side
CONTEXT = 2  # cells of z on each side of a border that are looked at
RIM = 4  # cells of y on each side of a border that may change
HALF = 0.5  # of a quantiser's step: how far a value may lie from the one that was coded
UNSURE = 0.75  # from here on the symbol was not zero, and the value stays


def smooth(
    prior: Prior,
    q: Float[Tensor, " 1"],
    y_hat: Float[Tensor, "1 m h w"],
    z_hat: Float[Tensor, "1 n h/4 w/4"],
    tiles: Sequence[Tile],
    chunks: int | None = None,
) -> None:
    """Changes y_hat along every border between two of the tiles, in place; of a preview, the first
    `chunks`.
    """
    places = {(tile.top, tile.left): tile for tile in tiles}
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
            target.narrow(axis, at - rim, 2 * rim).copy_(found.narrow(axis, at - rim, 2 * rim))


def _cells(cells: slice) -> slice:
    return slice(cells.start * RATIO, cells.stop * RATIO)


def _as_one(
    prior: Prior,
    q: Tensor,
    y_hat: Tensor,
    z_hat: Tensor,
    rows: slice,
    columns: slice,
    chunks: int | None,
) -> Float[Tensor, "1 m h w"]:
    """The latents of a part that lies over two tiles, with the means of one."""

    def step(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        assert value is not None
        off = mu - value
        if section == 0:
            return value
        return torch.where(off.abs() < UNSURE, value + off.clamp(-HALF, HALF), value)

    y = y_hat[:, :, _cells(rows), _cells(columns)].double()
    z = z_hat[:, :, rows, columns]
    found, _ = prior.walk(step, q, (z.shape[2], z.shape[3]), z, y, chunks)
    return found.float()
