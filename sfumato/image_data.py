"""What an image is in this package: pixels and what comes with them, upright."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image and what comes with it, upright.

    pixels   uint8 [H, W, 3], sRGB or what `icc` says; or grey [H, W]
    alpha    uint8 [H, W], 0 invisible .. 255 opaque; not multiplied into the pixels.  None: opaque
    icc      colour profile of RGB pixels, if not sRGB's
    exif     from its TIFF header on; its orientation says upright
    xmp      a packet of XML
    warnings  sentences that say what was changed, or is missing
    dpi      pixels per inch, horizontally and vertically, above 0
    text     keyword -> text, as in the text chunks of PNG; a comment has the keyword Comment
    """

    pixels: UInt8[np.ndarray, "h w *rgb"]
    alpha: UInt8[np.ndarray, "h w"] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    warnings: tuple[str, ...] = ()
    dpi: tuple[float, float] | None = None
    text: Mapping[str, str] = field(default_factory=dict)

    @property
    def array(self) -> UInt8[np.ndarray, "h w *channels"]:
        """[H, W, 3], grey [H, W], with alpha [H, W, 4] or [H, W, 2]."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])

    @property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels, three channels also where they are grey."""
        grey = self.pixels.ndim == 2
        return np.repeat(self.pixels[:, :, None], 3, 2) if grey else self.pixels
