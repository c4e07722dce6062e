"""y_hat in, the image out, piece by piece: g_s, and after it the diffusion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfumato import image
from sfumato.container import Header
from sfumato.decode_options import Crop, Progress, report
from sfumato.diffusion_decoder import DiffusionOptions, Region, diffusion_decode, halo
from sfumato.latents import quality
from sfumato.strips import strip_height, strips
from sfumato.transforms import HYPER_STRIDE, STRIDE, BaseReconstruction, Transforms
from sfumato.weights import Config

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Piece: TypeAlias = "tuple[int, int, Float[np.ndarray, '1 3 h w']]"
"""A part of a decoded image, in [-1, 1]: its first row and column, and itself."""

WIDE, WINDOW = 16384, 4096  # pixels: a strip of 64 rows may have 2^20


def pieces_of(
    transforms: Transforms,
    config: Config,
    y_hat: NDArray[np.float32],
    header: Header,
    chosen: DiffusionOptions,
    corner: tuple[int, int] = (0, 0),
    progress: Progress | None = None,
) -> Iterator[Piece]:
    """The image of y_hat, or of a part of it that begins at this row and column of pixels.

    In strips of rows; a strip of a very wide one is not small: that is made in windows of columns.
    """
    rows, columns = (side + -side % HYPER_STRIDE for side in (header.height, header.width))
    frame, width = Region(rows, columns, *corner), y_hat.shape[3] * STRIDE
    around, windows = halo(config, chosen), [(slice(0, width), slice(0, width))]
    if around is not None and width > WIDE:
        around += -(-config.halo // HYPER_STRIDE) * HYPER_STRIDE
        windows = list(strips(width, WINDOW, around))
    q = quality(header)
    for wide, keep in windows:
        cells = y_hat[..., wide.start // STRIDE : wide.stop // STRIDE]
        parts = _synthesised(transforms, config, cells, q, 4 * (halo(config, chosen) or 0))
        here = frame._replace(left=corner[1] + wide.start)
        top = 0
        for x in diffusion_decode(transforms, config, parts, q, header.noise_seed, chosen, here):
            yield top, wide.start + keep.start, x[:, :, :, keep]
            top += x.shape[2]
            done = (wide.start + keep.stop * top / (y_hat.shape[2] * STRIDE)) / width
            report(progress, "restoration", 0.5 + 0.5 * min(1.0, done))


def cropped(pieces: Iterable[Piece], part: Crop) -> Iterator[Piece]:
    """What of the pieces lies in a part of the image they make, by its own rows and columns."""
    for top, left, x in pieces:
        top, left = top - part.y, left - part.x
        rows = slice(max(0, -top), min(x.shape[2], part.height - top))
        columns = slice(max(0, -left), min(x.shape[3], part.width - left))
        if rows.start < rows.stop and columns.start < columns.stop:
            yield top + rows.start, left + columns.start, x[:, :, rows, columns]


def to_uint8(pieces: Iterable[Piece], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The image that the pieces make; memory is taken when the first is there, so after every check."""
    pixels = np.empty((0, 0, 3), np.uint8)
    for top, left, x in pieces:
        if not pixels.size:
            pixels = np.empty((height, width, 3), np.uint8)
        pixels[top : top + x.shape[2], left : left + x.shape[3]] = image.from_x(x)
    return pixels


def _synthesised(
    transforms: Transforms, config: Config, y_hat: NDArray[np.float32], q: float, least: int
) -> Iterator[BaseReconstruction]:
    """What g_s makes of y_hat, in strips of at least so many rows, but the last."""
    height, width = y_hat.shape[2:]
    rows = max(strip_height(width * STRIDE, HYPER_STRIDE), least) // STRIDE
    for wide, keep in strips(height, rows, config.halo // STRIDE):
        part = transforms.synthesize(y_hat[:, :, wide], q)
        yield part.part(slice(STRIDE * keep.start, STRIDE * keep.stop))
