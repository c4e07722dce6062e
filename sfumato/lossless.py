"""A picture and the size of its file in; a remark out where a lossless file would be smaller.

Flat colours, text and screenshots are where lossless formats win: whoever asks for a high quality should
know.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfumato.picture import Picture

SAMPLE_ROWS, SAMPLES = 16, 8
HOPELESS = 2.0  # times the size: if a sample says so much, the whole is not tried
WEBP_SIDE, WEBP_PIXELS = 16383, 1 << 24


def remark(picture: Picture, size: int) -> str | None:
    """A sentence if a lossless WebP (PNG for what that cannot hold) has fewer bytes than `size`; else None.

    Most photographs are passed over by a look at a few of their rows, in a hundredth of the time of encoding.
    """
    pixels = picture.array
    height = pixels.shape[0]
    if height > 2 * SAMPLE_ROWS * SAMPLES:
        tops = np.linspace(0, height - SAMPLE_ROWS, SAMPLES).astype(int)
        sample = np.concatenate([pixels[top : top + SAMPLE_ROWS] for top in tops])
        if _size(sample, 0)[1] * height / len(sample) > HOPELESS * size:
            return None
    kind, found = _size(pixels, 4)
    return f"a lossless {kind} of it has {found} bytes, fewer than these {size}" if found < size else None


def _size(pixels: np.ndarray, method: int) -> tuple[str, int]:
    """(name of the format, bytes)."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) <= WEBP_SIDE and image.width * image.height <= WEBP_PIXELS:
        image.save(buffer, "WEBP", lossless=True, method=method, quality=75 if method else 0)
        return "WebP", buffer.tell()
    image.save(buffer, "PNG")
    return "PNG", buffer.tell()
