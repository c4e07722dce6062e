"""Symbols in; the checks that a file keeps of them out (FORMAT.md, section 2)."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from sfumato.container import Header, Section
from sfumato.errors import FormatError


class Checksum:
    """Chained CRC-32 over the plain header and then all symbols, section after section, in coding order.

    One object serves the whole file, or one tile: update it with a section's symbols, take or compare the
    section's check, go on to the next section.

    tile  number of the tile; None for an image that is a single one
    """

    def __init__(self, header: Header, tile: int | None = None) -> None:
        number = b"" if tile is None else tile.to_bytes(2, "little")
        self._header = header
        self._value = zlib.crc32(header.pack() + number)

    @property
    def value(self) -> int:
        """The CRC-32 so far, u32."""
        return self._value

    def update(self, symbols: NDArray[np.int32]) -> None:
        """Continues over symbols, int32 [n]; any number of updates a section."""
        if symbols.dtype != np.int32:
            raise ValueError(f"symbols must be int32, got {symbols.dtype}")
        self._value = zlib.crc32(symbols.astype("<i4").tobytes(), self._value)

    def check(self, number: int) -> int:
        """The value as section `number` (0 = z, then the chunks) stores it: 16 low bits, or the last 32."""
        return self._value & ((1 << 8 * self._header.check_size(number)) - 1)

    def verify(self, number: int, section: Section) -> None:
        """FormatError unless section `number`'s check agrees with the symbols so far."""
        found = self.check(number)
        if found != section.check:
            name = self._header.sections[number]
            raise FormatError(f"{name}: check is {found:x}, the file says {section.check:x}")
