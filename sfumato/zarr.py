"""A codec for arrays of Zarr's format 3: a chunk is an image.

    zarr.create_array("a.zarr", shape=(n, 256, 256, 3), chunks=(1, 256, 256, 3), dtype="uint8",
                      serializer=Sfumato(quality=0.4), compressors=None)

Zarr finds it by the name "sfumato" where the package is installed, so reading needs no code.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, final

from zarr.abc.codec import ArrayBytesCodec

from sfumato import DEFAULT_MODEL, arguments
from sfumato.numcodecs import one_image, weights_to_read, with_channels


@final
@dataclass(frozen=True)
class Sfumato(ArrayBytesCodec):
    """uint8 chunks of one image, [1, .., h, w, 3] or [1, .., h, w], <-> bytes of a .sfu file.  Lossy."""

    quality: float = 0.5  # 0 .. 1
    model: str = DEFAULT_MODEL

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]

    def __post_init__(self) -> None:
        arguments.number("quality", self.quality, 0, 1)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Sfumato:
        """The inverse of `to_dict`."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """What the array's metadata says of the codec."""
        return {"name": "sfumato", "configuration": {"quality": self.quality, "model": self.model}}

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        from sfumato.api import encode

        pixels = one_image(chunk_data.as_numpy_array(), _channels(chunk_spec.shape))
        data = await asyncio.to_thread(encode, pixels, q=self.quality, model=self.model)
        return chunk_spec.prototype.buffer.from_bytes(data)

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        from sfumato.api import decode

        pixels = await asyncio.to_thread(decode, chunk_data.to_bytes(), model=weights_to_read(self.model))
        pixels = with_channels(pixels, _channels(chunk_spec.shape)).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError  # a file's size is known when it is written


def _channels(shape: tuple[int, ...]) -> int:
    return 3 if len(shape) > 2 and shape[-1] == 3 else 1
