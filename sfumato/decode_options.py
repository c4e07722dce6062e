"""What the reader of a file may choose, and what that may cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sfumato import arguments
from sfumato.container import File, Header
from sfumato.errors import FormatError
from sfumato.tiles import CELL, MAX_PIXELS, cells, grid, padded_pixels

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of the whole is done, 0 .. 1."""


@dataclass(frozen=True)
class Crop:
    """A part of an image, in pixels from its top left corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """x, y, width, height."""
        return self.x, self.y, self.width, self.height

    def within(self, header: Header) -> Crop:
        """Itself; ValueError unless it is a part of the image that has this header."""
        right, bottom = self.x + self.width, self.y + self.height
        inside = self.x >= 0 and self.y >= 0 and right <= header.width and bottom <= header.height
        if not inside or self.width < 1 or self.height < 1:
            size = f"{header.width}x{header.height}"
            raise ValueError(f"crop {self.x},{self.y},{self.width},{self.height} is no part of {size} pixels")
        return self

    def of(self, plane: np.ndarray) -> np.ndarray:
        """The part of a plane [H, W, ..] of the whole image."""
        return plane[self.y : self.y + self.height, self.x : self.x + self.width]

    def latents(self, header: Header, halo: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) in cells of z: what the pixels depend on, `halo` pixels included."""
        rows, columns = cells(header.height, header.width)
        top, left = (max(0, side - halo) // CELL for side in (self.y, self.x))
        bottom = min(rows, -(-(self.y + self.height + halo) // CELL))
        right = min(columns, -(-(self.x + self.width + halo) // CELL))
        return top, left, bottom, right


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What the reader of a file may choose.

    steps     0 .., of the diffusion: 0 stops at the base reconstruction x_base, 1 refines it; more gain
              nothing with the weights of today.  None: what is best by DISTS where it can be had,
              `Codec.default_steps` with a trained denoiser and a whole file; else, and for previews, 0
    realism   0 .. 1, from the base reconstruction to all that the steps change (`DiffusionOptions`)
    eta       0 .. 1, fresh noise at each step; 0 is deterministic.  More needs the whole image in memory
    crop      the part to decode, a Crop or its four numbers, with eta = 0: of a large image, only the tiles
              that it needs are read
    partial   accept a file that is cut short: what is missing is replaced by what is expected, and a missing
              alpha by an opaque one; the image's warnings say so
    chunks    0 .. 5, decode only so many chunks, faster, for a preview; None for all.  What follows them
              may be missing, but not damaged
    max_pixels  pixels that are decoded at most, both sides rounded up to multiples of 64; of a crop those of
              the tiles that it needs, where the image has no alpha.  None: the format's limit; FormatError
              for more
    progress  called as the work goes on

    Of a lossless file steps, realism, eta and chunks change nothing.  ValueError for another type or range.
    """

    steps: int | None = None
    realism: float = 1.0
    eta: float = 0.0
    crop: Crop | tuple[int, int, int, int] | None = None
    partial: bool = False
    chunks: int | None = None
    max_pixels: int | None = MAX_PIXELS
    progress: Progress | None = None

    def __post_init__(self) -> None:
        arguments.integer("steps", self.steps, 0)
        arguments.integer("chunks", self.chunks, None)  # how many there are the file says
        arguments.integer("max_pixels", self.max_pixels, 1)
        arguments.number("realism", self.realism, 0, 1)
        arguments.number("eta", self.eta, 0, 1)
        if self.crop is not None:
            sides = self.crop if isinstance(self.crop, tuple) else getattr(self.crop, "sides", ())
            if len(sides) != 4 or not all(map(arguments.is_integer, sides)):
                given = f"crop is {self.crop!r}"
                raise ValueError(f"{given}; it must be a Crop, or four integers: x, y, width, height")

    def region(self, header: Header) -> Crop:
        """The part of the image with this header that is wanted; ValueError unless it is one."""
        if self.crop is None:
            return Crop(0, 0, header.width, header.height)
        return (Crop(*self.crop) if isinstance(self.crop, tuple) else self.crop).within(header)


def check_pixels(file: File, region: tuple[int, int, int, int] | None, max_pixels: int | None) -> None:
    """FormatError if more would be decoded than is allowed; the region is in cells of z, None for all."""
    height, width = file.header.height, file.header.width
    pixels, what = padded_pixels(height, width), f"{width}x{height} pixels"
    if region is not None and file.alpha is None and not file.header.holds_pixels:
        read = [tile for tile in grid(height, width) if tile.meets(*region)]
        pixels, what = sum(tile.height * tile.width for tile in read) * CELL**2, "the tiles of the crop"
    if max_pixels is not None and pixels > max_pixels:
        raise FormatError(f"{what}, {pixels} when padded, are more than max_pixels = {max_pixels}")


def stage_of(
    progress: Progress | None, what: str, first: float, last: float
) -> Callable[[float], None] | None:
    """The progress of a stage that takes the work from `first` to `last`."""
    if progress is None:
        return None
    return lambda part: progress(what, first + (last - first) * part)


def report(progress: Progress | None, what: str, part: float) -> None:
    """Calls `progress`, if there is one."""
    if progress is not None:
        progress(what, part)
