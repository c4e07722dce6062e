"""What `import sfumato` offers as functions: a codec's methods, with the weights that a name or file says.

encode   an image -> the bytes of a file                decode         bytes -> uint8 array, sRGB
open     a file -> its header, metadata and a preview   decode_image   bytes -> pixels, alpha and metadata
                                                        decode_float   bytes -> the network's own output
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from sfumato import DEFAULT_MODEL, container, image, metadata
from sfumato.codec import DEFAULTS, Codec, load, model_of
from sfumato.container import Header
from sfumato.decode_options import Crop, DecodeOptions, Progress
from sfumato.image import ImageData
from sfumato.latents import AnalysisResult
from sfumato.tiles import MAX_PIXELS

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


def encode(
    source: image.Source | AnalysisResult,
    *,
    q: float = 0.5,
    seed: int | None = None,
    strip: bool = False,
    lossless_if_smaller: bool = False,
    few_colours: bool = True,
    max_pixels: int | None = MAX_PIXELS,
    progress: Progress | None = None,
    model: str | Path = DEFAULT_MODEL,
) -> bytes:
    """An image -> the bytes of a file; see `Codec.encode`.  `model` names weights or is a path to them."""
    return load(model).encode(
        source, q=q, seed=seed, strip=strip, lossless_if_smaller=lossless_if_smaller,
        few_colours=few_colours, max_pixels=max_pixels, progress=progress,
    )  # fmt: skip


def decode(
    data: bytes,
    *,
    steps: int | None = None,
    realism: float = 1.0,
    eta: float = 0.0,
    crop: Crop | tuple[int, int, int, int] | None = None,
    partial: bool = False,
    chunks: int | None = None,
    keep_profile: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    progress: Progress | None = None,
    model: str | Path | None = None,
) -> UInt8[np.ndarray, "h w *channels"]:
    """The bytes of a file -> sRGB, uint8 [H, W, 3], grey [H, W]; [H, W, 4] or [H, W, 2] with alpha.

    See `Codec.decode` and `DecodeOptions`.  `model` is a path to weights that are not in the package; without
    it the file names its weights.
    """
    return _codec(data, model).decode(
        bytes(data), steps=steps, realism=realism, eta=eta, crop=crop, partial=partial, chunks=chunks,
        keep_profile=keep_profile, max_pixels=max_pixels, progress=progress,
    )  # fmt: skip


def decode_image(
    data: bytes, options: DecodeOptions = DEFAULTS, *, model: str | Path | None = None
) -> ImageData:
    """As `decode`, in the file's own colours, with alpha, ICC, EXIF, XMP, resolution and text apart."""
    return _codec(data, model).decode_image(bytes(data), options)


def decode_float(
    data: bytes, options: DecodeOptions = DEFAULTS, *, model: str | Path | None = None
) -> Float[np.ndarray, "3 h w"]:
    """As `decode`, but the network's own output: RGB in [-1, 1], float32, not clamped or rounded."""
    return _codec(data, model).decode_float(bytes(data), options)


class SfuFile:
    """A .sfu file, of which no pixel is decoded until one is asked for.

    header    size, quality (q is header.q / 255), model and more
    metadata  what comes with the pixels: "icc", "exif", "xmp", "dpi", "text", each None or empty if absent
    """

    def __init__(self, data: bytes, model: str | Path | None = None) -> None:
        self._data, self._model = data, model
        file = container.unpack(data)
        self.header: Header = file.header
        self.has_alpha = file.alpha is not None
        self.metadata: dict[str, Any] = metadata.fields(file.metadata)

    def __len__(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    def preview(self, chunks: int = 1) -> UInt8[np.ndarray, "h w *channels"]:
        """The image that the first chunks make, at full size, sooner than all of it; see `decode`."""
        return decode(self._data, chunks=chunks, model=self._model)

    def decode(self, options: DecodeOptions = DEFAULTS) -> ImageData:
        """The image; see `decode_image`."""
        return decode_image(self._data, options, model=self._model)


def open(source: str | os.PathLike[str] | IO[bytes] | bytes, *, model: str | Path | None = None) -> SfuFile:
    """The file at a path, of an open binary file, or of these bytes; FormatError for one that is bad."""
    if isinstance(source, str | os.PathLike):
        source = Path(source).read_bytes()
    elif not isinstance(source, bytes | bytearray | memoryview):
        source = source.read()
    return SfuFile(bytes(source), model)


def _codec(data: bytes, model: str | Path | None) -> Codec:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"decode takes the bytes of a file, got {type(data).__name__}; read the file first")
    return load(model or model_of(bytes(data)))
