"""Large maps strip by strip: what a network makes of them, the same as in one piece, in bounded memory.

A network of convolutions sees `halo` rows around each row of its output.  A strip is computed with that many
rows of its neighbours on each side, which are thrown away after: no seam can arise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from sfumato.transforms import BaseReconstruction

PIXELS = 1 << 20
"""Pixels of a strip, halo left out: enough to keep the cores busy, little enough for their caches."""


def strip_height(width: int, unit: int, pixels: int = PIXELS) -> int:
    """Rows of a strip `width` pixels wide: a multiple of `unit`, at least one."""
    return max(1, pixels // (width * unit)) * unit


def strips(height: int, rows: int, halo: int) -> Iterator[tuple[slice, slice]]:
    """(rows to compute, those of them to keep) for each strip of `rows` rows, in order.

    The second slice counts from the start of the first.
    """
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - halo), min(height, bottom + halo)
        yield slice(first, last), slice(top - first, bottom - first)


def map_strips(
    network: Callable[[slice], NDArray[np.float32]], height: int, rows: int, halo: int, down: int = 1
) -> NDArray[np.float32]:
    """What `network` makes of all strips, [B, C, height / down, W'].

    `network` gets the rows of its input to work on, halo included; rows and halo are multiples of `down`.
    """
    found = (
        network(wide)[:, :, keep.start // down : keep.stop // down]
        for wide, keep in strips(height, rows, halo)
    )
    return np.concatenate(list(found), 2)


def with_halo(parts: Iterable[BaseReconstruction], halo: int) -> Iterator[tuple[BaseReconstruction, slice]]:
    """Strips as they come, each with up to `halo` rows of its neighbours, and which rows are its own."""
    above: list[BaseReconstruction] = []
    strip: BaseReconstruction | None = None
    for below in chain(parts, [None]):
        if strip is not None:
            height = strip.x_base.shape[2]
            after = [] if below is None else [below.part(slice(0, min(halo, below.x_base.shape[2])))]
            first = above[0].x_base.shape[2] if above else 0
            yield concat_strips([*above, strip, *after]), slice(first, first + height)
            above = [strip.part(slice(max(0, height - halo), height))]
        strip = below


def concat_strips(parts: Iterable[BaseReconstruction]) -> BaseReconstruction:
    """Strips, from top to bottom, as one."""
    x_base, *features = (
        np.concatenate(maps, 2) for maps in zip(*((p.x_base, *p.features) for p in parts), strict=True)
    )
    return BaseReconstruction(x_base, tuple(features))
