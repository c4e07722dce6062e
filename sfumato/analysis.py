"""An image in, y out, before any gain: g_a, and what it gets wrong.

    y_0 = g_a(x)       x_0 = g_s(y_0) at q = 1, nothing quantised       y_1 = g_a(x + c (x - x_0))
    y   = y_0 + w (y_1 - y_0),       w in [0, 1]: more for high q, for rendered and for smooth images

What g_s cannot give back of an unquantised latent is the fault of the transforms, not of the rate.  Part of
it, shown to g_a once more, is a step of van Cittert's iteration (1931) towards an inverse of g_s.  No decoder
knows of it.  What it gives, by quality and kind of image: `studies.correction`, docs/results.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfumato import image
from sfumato.colour_quantiser import ALIKE
from sfumato.container import Header
from sfumato.decode_options import Crop
from sfumato.diffusion_decoder import DiffusionOptions
from sfumato.strips import map_strips, strip_height
from sfumato.synthesis import cropped, pieces_of, to_uint8
from sfumato.transforms import HYPER_STRIDE, STRIDE, Transforms
from sfumato.weights import Config

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

CORRECTION = 0.7
"""c above."""
FIDELITY = 0.51, 0.5
"""q, just over the default, from which on photographs get a correction, and their w at q = 1."""
RENDERED = 0.6, 0.85
"""`flatness` from which on an image counts as rendered in part, and altogether."""
RENDERED_FIDELITY = 0.1, 0.5
"""q from which on rendered images get a correction, and from which on all of it."""
SMOOTH, SMOOTH_SHARE = (0.5, 0.65), 0.75
"""`smoothness` from which on a photograph, of a sign or a sky, gets a correction from low q on, and from
which on all of the share beside it."""


def analyze(
    transforms: Transforms,
    config: Config,
    pixels: UInt8[np.ndarray, "h w 3"],
    shown: UInt8[np.ndarray, "h w 3"] | None = None,
) -> Float[np.ndarray, "1 m h/16 w/16"]:
    """y_0 of an image, padded to multiples of 64; y_1 where `shown` is x_0."""

    def g_a(rows: slice) -> NDArray[np.float32]:
        x = image.to_x(pixels[rows])
        if shown is not None:
            x += np.float32(CORRECTION) * (x - image.to_x(shown[rows]))
        return transforms.analyze(image.pad(x, HYPER_STRIDE))

    height, width = (side + -side % HYPER_STRIDE for side in pixels.shape[:2])
    return map_strips(g_a, height, strip_height(width, HYPER_STRIDE), config.halo, down=STRIDE)


def correction(
    transforms: Transforms,
    config: Config,
    pixels: UInt8[np.ndarray, "h w 3"],
    y: Float[np.ndarray, "1 m h/16 w/16"],
) -> Float[np.ndarray, "1 m h/16 w/16"]:
    """y_1 - y_0 of an image and its y_0: as long again as the analysis, and a synthesis."""
    height, width = pixels.shape[:2]
    header = Header(width, height, 255, 0)
    pieces = pieces_of(transforms, config, y * transforms.gain(1.0), header, DiffusionOptions())
    shown = to_uint8(cropped(pieces, Crop(0, 0, width, height)), height, width)
    return analyze(transforms, config, pixels, shown) - y


def weight(q: float, flatness: float, smoothness: float) -> float:
    """w, for a quality and the `flatness` and `smoothness` of an image."""
    start, most = FIDELITY
    flat = max(_ramp(flatness, *RENDERED), SMOOTH_SHARE * _ramp(smoothness, *SMOOTH))
    return max(most * _ramp(q, start, 1.0), flat * _ramp(q, *RENDERED_FIDELITY))


def _ramp(x: float, zero: float, one: float) -> float:
    return min(1.0, max(0.0, (x - zero) / (one - zero)))


def smoothness(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """`flatness` within `ALIKE` levels: high in skies, signs and shades, and where noise of a JPEG is."""
    return flatness(pixels, ALIKE)


def flatness(pixels: UInt8[np.ndarray, "h w 3"], within: int = 0) -> float:
    """The share of pixels like their right neighbour, `within` so many levels.

    By 0 levels screens have over .8, photographs mostly under .6.
    """
    if pixels.shape[1] < 2:
        return 0.0
    one, other = pixels[:, 1:], pixels[:, :-1]
    return float((np.maximum(one, other) - np.minimum(one, other) <= within).all(2).mean())
