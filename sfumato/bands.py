"""A map and a network in; the network's output band by band, the same as in one piece, in bounded memory.

A network of convolutions sees `halo` rows around each row of its output.  A band is computed with that many
rows of its neighbours on each side, which are thrown away after: no seam can arise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sfumato.arrays import Array

PIXELS = 1 << 20
"""Pixels of a band, halo left out: enough to keep the cores busy, little enough for their caches."""


def rows_of(width: int, unit: int, pixels: int = PIXELS) -> int:
    """Rows of a band `width` pixels wide: a multiple of `unit`, at least one."""
    return max(1, pixels // (width * unit)) * unit


def bands(height: int, rows: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """(rows to compute, those of them to keep) for each band of `rows` rows, in order.

    The second slice counts from the start of the first.
    """
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - halo), min(height, bottom + halo)
        yield slice(first, last), slice(top - first, bottom - first)


def in_bands(
    network: Callable[[slice], Array], height: int, rows: int, halo: int, up: int = 1, down: int = 1
) -> Iterator[Array]:
    """What `network` makes of each band, [B, C, rows * up / down, W'], from top to bottom.

    `network` gets the rows of its input to work on, halo included; rows and halo are multiples of `down`.
    """
    for wide, keep in bands(height, rows, halo):
        out = network(wide)
        yield out[:, :, keep.start * up // down : keep.stop * up // down]
