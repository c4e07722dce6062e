"""Pixels in, a WebP or PNG of exactly them out, and back: planes of alpha, and whole files without a latent.

Flat colours, text and screenshots are where lossless formats win over any quality of a lossy one.
"""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin, WebPImagePlugin

from sfumato import container, metadata
from sfumato.container import File, Header, Section
from sfumato.decode_options import Crop, check_pixels
from sfumato.errors import FormatError
from sfumato.image_data import ImageData

if TYPE_CHECKING:
    from jaxtyping import UInt8

    Pixels = UInt8[np.ndarray, "h w *rgb"]

SAMPLE_ROWS, SAMPLES = 16, 8
HOPELESS = 2.0  # times the size: if a sample says so much, the whole is not tried
WEBP_SIDE = 16383  # pixels; a limit of that format
WEBP_PIXELS = 1 << 24  # beyond, PNG, for writer and reader alike: Pillow's WebP wants 20 bytes a pixel
KINDS = {1: b"\0", 3: b"\x02"}
"""Channels -> colour type of a PNG."""


def pack(pixels: Pixels) -> bytes:
    """The stream of pixels uint8 [H, W] or [H, W, 3] (FORMAT.md, section 3)."""
    buffer = io.BytesIO()
    _save(pixels, buffer, method=4, quality=100)
    return buffer.getvalue()


def unpack(data: bytes, height: int, width: int, channels: int = 1, what: str = "alpha") -> Pixels:
    """The pixels in a stream, [H, W] for one channel, [H, W, 3] for three.

    FormatError, which begins with `what`, for another size (named before decoding) or a bad stream.
    """
    kind, found = _kind_and_size(data, channels, what)
    if found != (height, width):
        raise FormatError(f"{what}: {found[1]}x{found[0]} pixels, the header says {width}x{height}")
    if kind == "WEBP" and height * width > WEBP_PIXELS:
        raise FormatError(f"{what}: a WebP of {width}x{height} pixels, the limit is {WEBP_PIXELS}")
    opened = WebPImagePlugin.WebPImageFile if kind == "WEBP" else PngImagePlugin.PngImageFile
    try:
        with opened(io.BytesIO(data)) as image:
            if image.size != (width, height) or getattr(image, "n_frames", 1) != 1:
                raise FormatError(f"{what}: {image.size} pixels or several frames")
            if image.mode != ("RGB" if kind == "WEBP" or channels == 3 else "L"):
                raise FormatError(f"{what}: mode {image.mode}: alpha of its own is not allowed")
            return np.array(image if channels == 3 or image.mode == "L" else image.getchannel("G"))
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(f"{what}: {kind} cannot be decoded: {error}") from error


def file(image_data: ImageData, limit: int) -> bytes | None:
    """The lossless file of an image if it has at most `limit` bytes, else None.

    Most photographs are passed over by a look at a few of their rows, in a hundredth of the time of encoding.
    """
    pixels = _stored(image_data)
    height = len(pixels)
    if height > 2 * SAMPLE_ROWS * SAMPLES:
        tops = np.linspace(0, height - SAMPLE_ROWS, SAMPLES).astype(int)
        sample, buffer = np.concatenate([pixels[top : top + SAMPLE_ROWS] for top in tops]), io.BytesIO()
        _save(sample, buffer, method=2, quality=50)
        if buffer.tell() * height / len(sample) > HOPELESS * limit:
            return None
    data = whole_file(image_data)
    return data if data is not None and len(data) <= limit else None


def whole_file(image_data: ImageData, q: int = 255) -> bytes | None:
    """The file of these pixels; None where they take more than a section may hold (`container`).

    `q` is its quality byte: 255 says that they are those of an original.  Colours where alpha is 0, which
    nobody sees, are black in it.
    """
    pixels = _stored(image_data)
    height, width = pixels.shape[:2]
    header = Header(width, height, q, 0, grey=pixels.ndim == 2, chunks=0)
    stream = pack(pixels)
    if len(stream) > container.section_limit(header):
        return None
    plane = None if image_data.alpha is None else pack(image_data.alpha)
    section = Section(stream, container.image_check(header, stream))
    return container.pack(header, [section], metadata.entries(image_data), plane)


def without_hidden(image_data: ImageData) -> ImageData:
    """The image with black where alpha is 0: nobody sees the colours that programs leave there."""
    pixels = image_data.pixels
    if image_data.alpha is None or image_data.alpha.all():
        return image_data
    seen = np.expand_dims(image_data.alpha, tuple(range(2, pixels.ndim))) > 0
    return replace(image_data, pixels=np.where(seen, pixels, np.uint8(0)))


def _stored(image_data: ImageData) -> Pixels:
    pixels = without_hidden(image_data).pixels
    is_grey = pixels.ndim == 3 and not image_data.icc and bool((pixels == pixels[..., :1]).all())
    return pixels[..., 0] if is_grey else pixels


def pixels(file: File, part: Crop, max_pixels: int | None) -> Pixels:
    """The pixels of a part of the image in a lossless file, [H, W] if grey; FormatError for a bad stream."""
    header = file.header
    check_pixels(file, None, max_pixels)
    channels = 1 if header.grey else 3
    whole = unpack(file.sections[0].payload, header.height, header.width, channels, "image")
    return part.of(whole)


def warning(image_data: ImageData, size: int) -> str | None:
    """A sentence if the lossless file of an image has fewer bytes than `size`; else None."""
    if (found := file(image_data, size - 1)) is None:
        return None
    return f"a lossless file has {len(found)} bytes, fewer than these {size}: see --lossless-if-smaller"


def _save(pixels: Pixels, buffer: io.BytesIO, method: int, quality: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) <= WEBP_SIDE and image.width * image.height <= WEBP_PIXELS:
        image.save(buffer, "WEBP", lossless=True, method=method, quality=quality)
    else:
        image.save(buffer, "PNG", optimize=method > 0)


def _kind_and_size(data: bytes, channels: int, what: str) -> tuple[str, tuple[int, int]]:
    """(WEBP or PNG, height and width) as the stream begins; FormatError for any other."""
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8L" and len(data) >= 25 and data[20] == 0x2F:
        (bits,) = struct.unpack("<I", data[21:25])
        return "WEBP", ((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    sort = b"\x08" + KINDS[channels] + bytes(3)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:29] == sort:
        width, height = struct.unpack(">II", data[16:24])
        return "PNG", (height, width)
    colours = "grey" if channels == 1 else "RGB"
    raise FormatError(f"{what}: starts with {data[:16]!r}: neither lossless WebP nor {colours} PNG of 8 bits")
