"""Latents in, the range-coded sections of a file out; and back.  The entropy model at work.

    y, z --- autoregressive pass: mean, scale index, symbols --- Encoder | Decoder | Meter --- sections

A large image's latents are coded tile by tile, each with its own coders and checks (`tiles`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato import container, exact, scales, seams
from sfumato.autoregressive import SymbolCoder, autoregressive_pass
from sfumato.checks import Checksum
from sfumato.coder import Coder, Decoder, Encoder, Meter
from sfumato.container import Header, Section
from sfumato.errors import FormatError, WeightsError
from sfumato.image_data import ImageData
from sfumato.tiles import Tile, grid
from sfumato.transforms import HYPER_STRIDE, STRIDE
from sfumato.weights import Weights

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

GRID = 2.0**-8  # means live on this dyadic grid, so that y_hat = symbol + mu is exact in any float
RATIO = HYPER_STRIDE // STRIDE  # cells of y for one of z, a side

Progress = Callable[[float], None]
"""Called with the part of the work that is done, 0 .. 1."""


@dataclass(frozen=True)
class AnalysisResult:
    """An image after g_a, before any gain: `Codec.encode` takes it at every q, and spares the analysis."""

    pixels: UInt8[np.ndarray, "height width 3"]  # with a smooth filling where nothing is visible
    grey: bool  # whether a file of one channel is made
    alpha: bytes | None  # coded
    metadata: dict[str, bytes]
    model: int  # number of the weights that made y
    y: Float[np.ndarray, "1 m h w"]
    correction: Callable[[], Float[np.ndarray, "1 m h w"]]  # of y, which the encoder adds in part
    given: ImageData  # as it was read, black where nothing is visible, for a lossless file
    original: UInt8[np.ndarray, "height width 3"]  # as `pixels`, before its channels were made equal if grey

    def visible(self, decoded: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """A decoded image, with the original's pixels where nothing is visible, so that no error counts."""
        plane = self.given.alpha
        return decoded if plane is None else np.where(plane[..., None] > 0, decoded, self.original)

    def parts(self, pixels: int) -> Iterator[AnalysisResult]:
        """Parts of about so many pixels, or all that there is, that cover the image; opaque and bare."""
        rows, columns = (side // RATIO for side in self.y.shape[2:])
        cells = max(1, pixels // HYPER_STRIDE**2)
        height = min(rows, max(1, cells // columns))
        width = min(columns, max(1, cells // height))
        for top in range(0, rows, height):
            for left in range(0, columns, width):
                yield self._part(min(top, rows - height), min(left, columns - width), height, width)

    def _part(self, top: int, left: int, height: int, width: int) -> AnalysisResult:
        """The cells of z from there on."""
        cells_down = slice(top * RATIO, (top + height) * RATIO)
        cells_across = slice(left * RATIO, (left + width) * RATIO)
        y = self.y[:, :, cells_down, cells_across]

        def correction() -> Float[np.ndarray, "1 m h w"]:
            return self.correction()[:, :, cells_down, cells_across]

        down = slice(top * HYPER_STRIDE, (top + height) * HYPER_STRIDE)
        across = slice(left * HYPER_STRIDE, (left + width) * HYPER_STRIDE)
        there, original = self.pixels[down, across], self.original[down, across]
        bare = replace(self, pixels=there, original=original, alpha=None, metadata={})
        return replace(bare, y=y, correction=correction)


class LatentCoder:
    """Writes, reads and measures latents with one set of weights, in exact arithmetic."""

    def __init__(self, weights: Weights) -> None:
        self.channels = weights.config.channels
        self.z_channels = weights.config.z_channels
        try:
            self.prior = exact.from_arrays(weights.part("entropy"))
            self.tables = weights.tables
        except ValueError as error:
            raise WeightsError(f"weights of {weights.preset!r}: {error}") from error

    def write(
        self,
        y: Float[np.ndarray, "1 m h w"],
        z: Float[np.ndarray, "1 n h/4 w/4"],
        header: Header,
        progress: Progress | None = None,
        reconstruct: bool = True,
    ) -> tuple[list[Section], Float[np.ndarray, "1 m h w"]]:
        """All sections, and y_hat as `read` gives it; without `reconstruct` it is not smooth between
        tiles.
        """
        pieces: list[list[Section]] = [[] for _ in header.sections]
        y_hat, z_hat = np.empty_like(y, np.float32), np.empty_like(z, np.float64)
        tiles = grid(header.height, header.width)
        for tile in tiles:
            coders = [Encoder(self.tables) for _ in header.sections]
            checks, found, z_found = self._pass(y, z, header, tile, len(tiles), coders, progress)
            y_hat[(..., *tile.slices(RATIO))] = found
            z_hat[(..., *tile.slices())] = z_found
            for section, (coder, check) in enumerate(zip(coders, checks, strict=True)):
                pieces[section].append(Section(coder.finish(), check))
        if reconstruct:
            seams.smooth(self.prior, quality(header), y_hat, z_hat, tiles)
        return [container.join(header, number, parts) for number, parts in enumerate(pieces)], y_hat

    def measure(
        self, y: Float[np.ndarray, "1 m h w"], z: Float[np.ndarray, "1 n h/4 w/4"], header: Header
    ) -> list[float]:
        """Ideal bits of each section, without bytes."""
        meters = [Meter(self.tables) for _ in header.sections]
        tiles = grid(header.height, header.width)
        for tile in tiles:
            self._pass(y, z, header, tile, len(tiles), meters, None)
        return [meter.bits for meter in meters]

    def read(
        self,
        header: Header,
        sections: Sequence[Section],
        wanted: Callable[[Tile], bool] = lambda tile: True,
        progress: Progress | None = None,
    ) -> Float[np.ndarray, "1 m h w"]:
        """y_hat, float32, in the domain of the gains; zeros in tiles that are not wanted.

        Where sections are missing at the end, expected values stand for them.  FormatError for bad sections.
        """
        tiles = grid(header.height, header.width)
        pieces = [
            container.split(header, number, section, len(tiles)) for number, section in enumerate(sections)
        ]
        last = tiles[-1]
        rows, columns = (last.top + last.height) * RATIO, (last.left + last.width) * RATIO
        y_hat = np.zeros((1, self.channels, rows, columns), np.float32)
        z_hat = np.zeros((1, self.z_channels, rows // RATIO, columns // RATIO), np.float64)
        chosen = [tile for tile in tiles if wanted(tile)]
        for done, tile in enumerate(chosen):
            mine = [piece[tile.number] for piece in pieces]
            coders = [Decoder(self.tables, piece.payload) for piece in mine]
            checksum = Checksum(header, tile.number if len(tiles) > 1 else None)

            def section_done(
                section: int,
                checksum: Checksum = checksum,
                mine: list[Section] = mine,
                coders: list[Decoder] = coders,
            ) -> None:
                checksum.verify(section, mine[section])
                try:
                    coders[section].finish()
                except FormatError as error:
                    raise FormatError(f"{header.sections[section]}: {error}") from None

            code = make_symbol_coder(coders, checksum, section_done)
            size = tile.height, tile.width
            found, z_found = autoregressive_pass(
                self.prior, code, quality(header), size, chunks=len(mine) - 1
            )
            y_hat[(..., *tile.slices(RATIO))] = found  # multiples of 2^-8: exact
            z_hat[(..., *tile.slices())] = z_found
            if progress is not None:
                progress((done + 1) / len(chosen))
        seams.smooth(self.prior, quality(header), y_hat, z_hat, chosen, len(sections) - 1)
        return y_hat

    def _pass(
        self,
        y: NDArray[np.float32],
        z: NDArray[np.float32],
        header: Header,
        tile: Tile,
        count: int,
        coders: Sequence[Coder],
        progress: Progress | None,
    ) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
        """The pass over one of `count` tiles; the check of each section, y_hat and z_hat."""
        checksum = Checksum(header, tile.number if count > 1 else None)
        checks = [0] * len(header.sections)

        def section_done(section: int) -> None:
            checks[section] = checksum.check(section)
            if progress is not None:
                progress((tile.number + (section + 1) / len(header.sections)) / count)

        y, z = y[(..., *tile.slices(RATIO))], z[(..., *tile.slices())]
        code = make_symbol_coder(coders, checksum, section_done)
        size = tile.height, tile.width
        y_hat, z_hat = autoregressive_pass(
            self.prior, code, quality(header), size, z.astype(np.float64), y.astype(np.float64)
        )
        return checks, y_hat, z_hat


def rate_proxy(y: Float[np.ndarray, "1 m h w"]) -> float:
    """How the rate goes: sum of log2(1 + 4 e) / 2, e the mean of y^2 around a cell, 3x3; y in the gains'
    domain.

    The bits of a file are a multiple of this that changes little from one q to the next.
    """
    energy = np.square(y)
    count = np.ones((1, 1, *energy.shape[2:]), np.float32)  # of the cells around one that are inside
    for axis in (2, 3):
        energy, count = _neighbours(energy, axis), _neighbours(count, axis)
    return float(np.log1p(4 * energy / count).sum(dtype=np.float64)) / math.log(4)


def _neighbours(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Each value plus those before and after it along an axis."""
    x = np.moveaxis(x, axis, -1)
    out = x.copy()
    out[..., 1:] += x[..., :-1]
    out[..., :-1] += x[..., 1:]
    return np.moveaxis(out, -1, axis)


def quality(header: Header) -> float:
    """q as both sides of the pass see it: the float64 nearest to q / 255 (FORMAT.md, section 1)."""
    return header.q / 255


def make_symbol_coder(
    coders: Sequence[Coder], checksum: Checksum, on_section_done: Callable[[int], None]
) -> SymbolCoder:
    """Codes symbols in the pass: real means and scale indexes in, grid means and integers between.

    `on_section_done` is called with the number of each section when its last symbol is done.
    """

    def code(
        section: int,
        is_last: bool,
        mu: NDArray[np.float64],
        index: NDArray[np.float64],
        value: NDArray[np.float64] | None,
    ) -> NDArray[np.float64]:
        y_hat = np.ascontiguousarray(np.rint(mu / GRID) * GRID)
        level = np.clip(np.rint(index), 0, scales.NUM_SCALES - 1).astype(np.uint8).reshape(-1)
        symbols = None
        if value is not None:
            limit = scales.SYMBOL_MAX
            symbols = np.clip(np.rint(value - y_hat), -limit, limit).astype(np.int32).reshape(-1)
        coded: slice | NDArray[np.intp] = np.flatnonzero(level)
        if not level.all():
            # at level 0 a symbol is all but surely zero: one flag instead of many symbols says that all are
            flag = None if symbols is None else np.array([symbols[level == 0].any()], np.int32)
            if coders[section].code(np.zeros(1, np.uint8), flag)[0]:
                coded = slice(None)
        found = coders[section].code(level[coded], None if symbols is None else symbols[coded])
        checksum.update(found)
        if is_last:
            on_section_done(section)
        y_hat.reshape(-1)[coded] += found
        return y_hat

    return code
