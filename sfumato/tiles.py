"""The size of an image in; the tiles in which its latents are coded out (FORMAT.md, section 6).

Only the latents are cut: transforms see the whole map, so tiles leave no seam.  Each can be decoded alone.
"""

from __future__ import annotations

from dataclasses import dataclass

SIDE_MAX = 65535  # pixels a side of an image
PIXELS_MAX = 1 << 27  # pixels of an image
METADATA_MAX = 1 << 24  # bytes of what comes with an image, inflated
MAX_PIXELS = 89_478_485
"""Pixels, padding included, that are decoded if the caller does not say otherwise: Pillow's
MAX_IMAGE_PIXELS.
"""
CELL = 64  # pixels of a cell of z
WHOLE = 1 << 22  # pixels, padding included, up to which an image is one tile
SIDE = 16  # cells of z a side of a tile otherwise: 1024 pixels


@dataclass(frozen=True)
class Tile:
    """A rectangle of latents, in cells of z.  `number` is its place in the order of the file."""

    number: int
    top: int
    left: int
    height: int
    width: int

    def slices(self, scale: int = 1) -> tuple[slice, slice]:
        """(rows, columns) in a map with `scale` cells for each cell of z a side."""
        rows = slice(self.top * scale, (self.top + self.height) * scale)
        return rows, slice(self.left * scale, (self.left + self.width) * scale)

    def meets(self, top: int, left: int, bottom: int, right: int) -> bool:
        """Whether it shares a cell with the rows top .. bottom and columns left .. right (ends left out)."""
        rows = self.top < bottom and top < self.top + self.height
        return rows and self.left < right and left < self.left + self.width


def cells(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of z for an image of this many pixels."""
    return -(-height // CELL), -(-width // CELL)


def padded_pixels(height: int, width: int) -> int:
    """Pixels of an image with both sides rounded up to multiples of 64, as it is coded: what it costs."""
    rows, columns = cells(height, width)
    return rows * columns * CELL * CELL


def grid(height: int, width: int) -> tuple[Tile, ...]:
    """The tiles of an image of this many pixels, row by row: one, or squares of 16 cells and the rest."""
    rows, columns = cells(height, width)
    if padded_pixels(height, width) <= WHOLE:
        return (Tile(0, 0, 0, rows, columns),)
    corners = [(top, left) for top in range(0, rows, SIDE) for left in range(0, columns, SIDE)]
    return tuple(
        Tile(number, top, left, min(SIDE, rows - top), min(SIDE, columns - left))
        for number, (top, left) in enumerate(corners)
    )
