"""A codec for numcodecs and so for arrays of Zarr's format 2: a chunk is an image.

    zarr.create_array("a.zarr", shape=(n, 256, 256, 3), chunks=(1, 256, 256, 3), dtype="uint8", zarr_format=2,
                      compressors=[Sfumato(quality=0.4)])

numcodecs finds it by the name "sfumato" where the package is installed, so reading needs no code.
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray, ndarray_copy

from sfumato import DEFAULT_MODEL, arguments


@final
class Sfumato(Codec):
    """uint8 chunks of one image, [.., h, w, 3], or with channels=1 [.., h, w], <-> bytes of a .sfu file.

    Lossy.  Raises ValueError for chunks of another kind and for a quality outside 0 .. 1.
    """

    codec_id: ClassVar[str] = "sfumato"

    def __init__(self, quality: float = 0.5, channels: int = 3, model: str = DEFAULT_MODEL) -> None:
        arguments.number("quality", quality, 0, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}; need 1 or 3")
        self.quality, self.channels, self.model = quality, channels, model

    def encode(self, buf: Any) -> bytes:
        """The bytes of a chunk."""
        from sfumato.api import encode

        return encode(one_image(ensure_ndarray(buf), self.channels), q=self.quality, model=self.model)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The pixels of a chunk."""
        from sfumato.api import decode

        pixels = decode(ensure_bytes(buf), model=weights_to_read(self.model))
        return ndarray_copy(with_channels(pixels, self.channels), out)


def weights_to_read(model: str) -> str | None:
    """Those of the package follow from the file."""
    return None if model == DEFAULT_MODEL else model


def one_image(chunk: np.ndarray, channels: int) -> np.ndarray:
    """The image in a chunk: [h, w] or [h, w, 3] of [1, .., h, w(, 3)]; ValueError if it is not one."""
    image = chunk.reshape(chunk.shape[-2 if channels == 1 else -3 :]) if _is_one(chunk, channels) else None
    if image is None:
        wanted = "[1, .., h, w]" if channels == 1 else "[1, .., h, w, 3]"
        raise ValueError(f"a chunk is one uint8 image {wanted}, not {chunk.dtype} {list(chunk.shape)}")
    return np.ascontiguousarray(image)


def _is_one(chunk: np.ndarray, channels: int) -> bool:
    sides = 2 if channels == 1 else 3
    whole = chunk.ndim >= sides and all(side == 1 for side in chunk.shape[:-sides])
    return whole and chunk.dtype == np.uint8 and (channels == 1 or chunk.shape[-1] == 3)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Decoded pixels with so many channels: what is nearly grey has one in the file."""
    if channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels)
