"""The plane of alpha in, a lossless stream of bytes out, and back; and colours for what nobody sees.

The stream is a WebP or a PNG of the plane as grey (FORMAT.md, section 3).
"""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin, WebPImagePlugin

from sfumato.errors import FormatError

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Plane = UInt8[np.ndarray, "h w"]


WEBP_SIDE = 16383  # pixels; a limit of that format
WEBP_PIXELS = 1 << 24  # beyond, PNG, for writer and reader alike: Pillow's WebP wants 20 bytes a pixel
CELL = 8  # pixels


def pack(plane: Plane) -> bytes:
    """The stream of a plane, 0 invisible .. 255 opaque."""
    buffer = io.BytesIO()
    if max(plane.shape) <= WEBP_SIDE and plane.size <= WEBP_PIXELS:
        Image.fromarray(plane).save(buffer, "WEBP", lossless=True, quality=100, method=4)
    else:
        Image.fromarray(plane).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def unpack(data: bytes, height: int, width: int) -> Plane:
    """The plane in a stream; FormatError for another size (told before decoding) or a bad stream."""
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L" and len(data) >= 25 and data[20] == 0x2F:
        (bits,) = struct.unpack("<I", data[21:25])
        kind, found = "WEBP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:29] == b"\x08\0\0\0\0":
        kind, found = "PNG", struct.unpack(">II", data[16:24])[::-1]
    else:
        raise FormatError(f"alpha: starts with {data[:16]!r}: neither lossless WebP nor grey PNG of 8 bits")
    if found != (height, width):
        raise FormatError(f"alpha: {found[1]}x{found[0]} pixels, the header says {width}x{height}")
    if kind == "WEBP" and height * width > WEBP_PIXELS:
        raise FormatError(f"alpha: a WebP of {width}x{height} pixels, the limit is {WEBP_PIXELS}")
    opened = WebPImagePlugin.WebPImageFile if kind == "WEBP" else PngImagePlugin.PngImageFile
    try:
        with opened(io.BytesIO(data)) as image:
            if image.size != (width, height) or getattr(image, "n_frames", 1) != 1:
                raise FormatError(f"alpha: {image.size} pixels or several frames")
            return np.array(image if image.mode == "L" else image.getchannel("G"))
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"alpha: {kind} cannot be decoded: {error}") from error


def fill(pixels: UInt8[np.ndarray, "h w *rgb"], plane: Plane) -> UInt8[np.ndarray, "h w *rgb"]:
    """The pixels, with those of alpha 0 replaced by smooth continuations of their neighbours.

    Pull: means of what is visible over cells of 8, 16, 32 .. pixels.  Push: cells without any take the
    interpolated mean of the next coarser ones (after Gortler et al. 1996, section 3.4).
    """
    if plane.all():
        return pixels
    seen = plane > 0
    channels = np.atleast_3d(pixels)
    filled = [np.where(seen, c, _smooth(c, seen)) for c in np.moveaxis(channels, 2, 0)]
    return np.stack(filled, -1).reshape(pixels.shape)


def _smooth(channel: Plane, seen: np.ndarray) -> Plane:
    values, weights = (_sums(a, CELL, np.uint16).astype(np.float32) for a in (channel * seen, seen))
    small = Image.fromarray(_push(values, weights).round().astype(np.uint8))
    whole = small.resize((small.width * CELL, small.height * CELL), Image.Resampling.BILINEAR)
    return np.asarray(whole)[: channel.shape[0], : channel.shape[1]]


def _push(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = weights > 0
    means = values / np.maximum(weights, 1)
    if known.all() or values.size == 1:
        return means
    coarse = Image.fromarray(_push(_sums(values, 2, np.float32), _sums(weights, 2, np.float32)))
    wide = coarse.resize((2 * coarse.width, 2 * coarse.height), Image.Resampling.BILINEAR)
    return np.where(known, means, np.asarray(wide)[: values.shape[0], : values.shape[1]])


def _sums(a: np.ndarray, cell: int, kind: type) -> np.ndarray:
    """Sums over cells of `cell` x `cell`; zeros fill up those at the right and bottom."""
    a = np.pad(a, [(0, -side % cell) for side in a.shape])
    height, width = (side // cell for side in a.shape)
    rows = a.reshape(height, cell, -1).sum(1, dtype=kind)
    return rows.reshape(height, width, cell).sum(2, dtype=kind)
