"""Latents in, the six range-coded sections of a file out; and back.  The entropy model at work.

    y, z --- prior.walk --- step: mean, level, symbols --- Encoder | Decoder | Meter --- sections

A large picture's latents are coded tile by tile, each with its own coders and checks (`tiles`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sfumato import container, exact, quantise, scales, seams
from sfumato.coder import Coder, Decoder, Encoder, Meter
from sfumato.container import SECTIONS, Checksum, Header, Section
from sfumato.errors import FormatError
from sfumato.model import Weights
from sfumato.prior import Code
from sfumato.tiles import Tile, grid
from sfumato.transform import HYPER_STRIDE, STRIDE

RATIO = HYPER_STRIDE // STRIDE  # cells of y for one of z, a side

Progress = Callable[[float], None]
"""Called with the part of the work that is done, 0 .. 1."""


class LatentCoder:
    """Writes, reads and measures latents with one set of weights, in exact arithmetic."""

    def __init__(self, weights: Weights) -> None:
        tables = dict(weights.tables)
        self.channels = weights.model.config.latent
        self.z_channels = weights.model.config.z_channels
        self.prior = exact.convert(weights.model.prior, tables.pop("fractions"))
        self.tables = scales.Tables.from_arrays(**{k: v.numpy() for k, v in tables.items()})

    def write(
        self,
        y: Float[Tensor, "1 m h w"],
        z: Float[Tensor, "1 n h/4 w/4"],
        header: Header,
        progress: Progress | None = None,
        reconstruct: bool = True,
    ) -> tuple[list[Section], Float[Tensor, "1 m h w"]]:
        """All six sections, and y_hat as `read` gives it; without `reconstruct`, its borders of tiles are
        not.
        """
        pieces: list[list[Section]] = [[] for _ in SECTIONS]
        y_hat, z_hat = torch.empty_like(y), torch.empty_like(z, dtype=torch.float64)
        tiles = grid(header.height, header.width)
        for tile in tiles:
            coders = [Encoder(self.tables) for _ in SECTIONS]
            checks, found, z_found = self._walk(y, z, header, tile, len(tiles), coders, progress)
            y_hat[(..., *tile.slices(RATIO))] = found.float()
            z_hat[(..., *tile.slices())] = z_found
            for section, (coder, check) in enumerate(zip(coders, checks, strict=True)):
                pieces[section].append(Section(coder.finish(), check))
        if reconstruct:
            seams.smooth(self.prior, quality(header), y_hat, z_hat, tiles)
        return [container.join(number, parts) for number, parts in enumerate(pieces)], y_hat

    def measure(
        self, y: Float[Tensor, "1 m h w"], z: Float[Tensor, "1 n h/4 w/4"], header: Header
    ) -> list[float]:
        """Ideal bits of each section, without bytes."""
        meters = [Meter(self.tables) for _ in SECTIONS]
        tiles = grid(header.height, header.width)
        for tile in tiles:
            self._walk(y, z, header, tile, len(tiles), meters, None)
        return [meter.bits for meter in meters]

    def read(
        self,
        header: Header,
        sections: Sequence[Section],
        wanted: Callable[[Tile], bool] = lambda tile: True,
        progress: Progress | None = None,
    ) -> Float[Tensor, "1 m h w"]:
        """y_hat, float32, in the domain of the gains; zeros in tiles that are not wanted.

        Where sections are missing at the end, expected values stand for them.  FormatError for bad sections.
        """
        tiles = grid(header.height, header.width)
        pieces = [container.split(number, section, len(tiles)) for number, section in enumerate(sections)]
        last = tiles[-1]
        rows, columns = (last.top + last.height) * RATIO, (last.left + last.width) * RATIO
        y_hat = torch.zeros(1, self.channels, rows, columns, dtype=torch.float32)
        z_hat = torch.zeros(1, self.z_channels, rows // RATIO, columns // RATIO, dtype=torch.float64)
        chosen = [tile for tile in tiles if wanted(tile)]
        for done, tile in enumerate(chosen):
            mine = [piece[tile.number] for piece in pieces]
            coders = [Decoder(self.tables, piece.payload) for piece in mine]
            checksum = Checksum(header, tile.number if len(tiles) > 1 else None)

            def sealed(
                section: int,
                checksum: Checksum = checksum,
                mine: list[Section] = mine,
                coders: list[Decoder] = coders,
            ) -> None:
                checksum.verify(section, mine[section])
                try:
                    coders[section].finish()
                except FormatError as error:
                    raise FormatError(f"{SECTIONS[section]}: {error}") from None

            step = stepper(coders, checksum, sealed)
            found, z_found = self.prior.walk(
                step, quality(header), (tile.height, tile.width), chunks=len(mine) - 1
            )
            y_hat[(..., *tile.slices(RATIO))] = found.float()  # multiples of 2^-8: exact
            z_hat[(..., *tile.slices())] = z_found
            if progress is not None:
                progress((done + 1) / len(chosen))
        seams.smooth(self.prior, quality(header), y_hat, z_hat, chosen, len(sections) - 1)
        return y_hat

    def _walk(
        self,
        y: Tensor,
        z: Tensor,
        header: Header,
        tile: Tile,
        count: int,
        coders: Sequence[Coder],
        progress: Progress | None,
    ) -> tuple[list[int], Tensor, Tensor]:
        """Walk over one of `count` tiles; the check of each section, y_hat and z_hat."""
        checksum = Checksum(header, tile.number if count > 1 else None)
        checks = [0] * len(SECTIONS)

        def sealed(section: int) -> None:
            checks[section] = checksum.check(section)
            if progress is not None:
                progress((tile.number + (section + 1) / len(SECTIONS)) / count)

        y, z = y[(..., *tile.slices(RATIO))].double(), z[(..., *tile.slices())].double()
        step = stepper(coders, checksum, sealed)
        return checks, *self.prior.walk(step, quality(header), (tile.height, tile.width), z, y)


def quality(header: Header) -> Float[Tensor, 1]:
    """q as both sides of the walk see it: the float64 nearest to q / 255 (FORMAT.md, section 1)."""
    return torch.tensor([header.q / 255], dtype=torch.float64)


def stepper(coders: Sequence[Coder], checksum: Checksum, sealed: Callable[[int], None]) -> Code:
    """The step of the walk that codes symbols: real means and levels in, grid means and integers between.

    `sealed` is called with the number of each section when its last symbol is done.
    """

    def code(section: int, ends: bool, mu: Tensor, level: Tensor, value: Tensor | None) -> Tensor:
        mu = quantise.snap(mu).contiguous()
        index = quantise.hard(level).clamp(0, scales.LEVELS - 1).to(torch.uint8).flatten().numpy()
        symbols = None
        if value is not None:
            limit = scales.SYMBOL_MAX
            symbols = quantise.hard(value - mu).clamp(-limit, limit).to(torch.int32).flatten().numpy()
        coded: slice | NDArray[np.intp] = np.flatnonzero(index)
        if not index.all():
            # at level 0 a symbol is all but surely zero: one flag instead of many symbols says that all are
            flag = None if symbols is None else np.array([symbols[index == 0].any()], np.int32)
            if coders[section].code(np.zeros(1, np.uint8), flag)[0]:
                coded = slice(None)
        found = coders[section].code(index[coded], None if symbols is None else symbols[coded])
        checksum.update(found)
        if ends:
            sealed(section)
        y_hat = mu.clone()
        y_hat.view(-1).numpy()[coded] += found
        return y_hat

    return code
