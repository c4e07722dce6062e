"""The bytes of a file as they come in; better and better images out.

    decoder, shown = ProgressiveDecoder(), 0
    for part in connection:
        if (sections := decoder.feed(part)) > shown and (image := decoder.image()) is not None:
            show(image)
            shown = sections
    decoder.close()

A file has six sections: z and five chunks, the most important first.  z says how likely symbols are, and next
to nothing of the image, so the first image comes with chunk 1.  A lossless file has one section, and no
preview.  Each image is decoded from the start, and costs two thirds (chunk 1) to all (chunk 5) of decoding
the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfumato import arguments, container
from sfumato.codec import load, model_of
from sfumato.container import File, Header
from sfumato.errors import FormatError
from sfumato.fields import Ended
from sfumato.tiles import MAX_PIXELS, padded_pixels

if TYPE_CHECKING:
    from jaxtyping import UInt8

MIN_SECTIONS = 2
"""Sections that make an image: z and chunk 1."""


class ProgressiveDecoder:
    """One file being received.  Not for several threads at once.

    model       a path to weights that are not in the package; None for those that the file names
    max_pixels  pixels, both sides rounded up to multiples of 64, of an image at most; None: the format's
    limit
    """

    def __init__(self, model: str | Path | None = None, max_pixels: int | None = MAX_PIXELS) -> None:
        arguments.integer("max_pixels", max_pixels, 1)
        self._model = model
        self._max_pixels = max_pixels
        self._data = bytearray()
        self._wanted = 0
        self._file: File | None = None
        self._shown = 0
        self._image: UInt8[np.ndarray, "h w *channels"] | None = None

    def feed(self, data: bytes) -> int:
        """Takes any number of bytes, also none; how many sections are in as a whole, 0 .. 6 (1 if lossless).

        What is in is looked through only when another field of it is whole, so blocks may be of any size.
        FormatError as soon as the bytes cannot be the beginning of a file, or of one of too many pixels.
        """
        self._data += data
        if self._file is not None and len(self._data) < self._wanted:
            return len(self._file.sections)
        try:
            self._file = container.unpack(bytes(self._data), partial=True)
        except Ended:
            return 0  # the header is still coming
        self._wanted = self._file.wanted
        header = self._file.header
        pixels = padded_pixels(header.height, header.width)
        if self._max_pixels is not None and pixels > self._max_pixels:
            what = f"{header.width}x{header.height} pixels, {pixels} when padded"
            raise FormatError(f"{what}, are more than max_pixels = {self._max_pixels}")
        return len(self._file.sections)

    @property
    def header(self) -> Header | None:
        """Size, quality and model; None before all of it is in."""
        return None if self._file is None else self._file.header

    @property
    def complete(self) -> bool:
        """Whether the file is in, to the last byte."""
        return self._file is not None and self._file.complete

    def image(self) -> UInt8[np.ndarray, "h w *channels"] | None:
        """The image that the sections so far make, as `Codec.decode` shows it; None before chunk 1 is in.

        FormatError for a bad check or weights that are not there.  The same array until another section, or
        the end of the file, is in.
        """
        if self._file is None:
            return None
        if len(self._file.sections) < min(MIN_SECTIONS, len(self._file.header.sections)):
            return None
        have = len(self._file.sections) + self._file.complete
        if have > self._shown:
            data = bytes(self._data)
            codec = load(self._model or model_of(data))
            self._image = codec.decode(data, partial=True, max_pixels=self._max_pixels)
            self._shown = have
        return self._image

    def close(self) -> None:
        """The end of the bytes: FormatError unless the file is complete; it says what is missing."""
        if not self.complete:
            container.unpack(bytes(self._data))
