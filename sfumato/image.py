"""Picture files in, uint8 [H, W, 3] or float tensors [1, 3, H, W] out; and back to files.

    file -> read -> uint8 [H, W, 3] -> to_x -> [1, 3, H, W] in [-1, 1] -> pad -> [1, 3, H', W'] -> networks
    file <- write <- uint8 [H, W, 3] <- from_x <- [1, 3, H, W]         <- crop <-------------------+

Samples are 8-bit sRGB.  Colour profiles are not applied.  Reading and writing files needs no torch: it is
imported by the functions on tensors.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

Source = str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray

# EXIF 2.3, tag 0x0112: what turns the stored picture upright.
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What `write` can write: suffix -> Pillow's name of the format, and its options.
FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "": ("PNG", {}),
    ".png": ("PNG", {}),
    ".ppm": ("PPM", {}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
}


class ImageError(ValueError):
    """A picture that cannot be read or written; the message names the file and what is wrong with it."""


def read(source: Source) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in a file, an open binary file, a Pillow image or an array, as 8-bit sRGB, upright.

    Grey and palette pictures become RGB, an alpha channel that is opaque everywhere is dropped, and the EXIF
    orientation is applied.  Arrays are uint8 [H, W], [H, W, 3] or [H, W, 4].

    Raises ImageError for what is not a picture, is damaged or cut short, is larger than Pillow's limit
    against decompression bombs, has several frames, more than 8 bits a channel, transparency, or another
    colour model (the message names the mode); FileNotFoundError and the like where `open` does.
    """
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "picture")
        with _pillow_errors(name):  # a picture from Image.open is decoded only now
            return _rgb(source, name)
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source), "array")
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return _read_file(file, os.fspath(source))
    return _read_file(source, str(getattr(source, "name", "file")))


def to_x(image: UInt8[np.ndarray, "h w 3"]) -> Float[Tensor, "1 3 h w"]:
    """0 .. 255 -> -1 .. 1, float32."""
    import torch

    return torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def from_x(x: Float[Tensor, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """-1 .. 1 -> 0 .. 255: clamped, then rounded to the nearest, halves to even.  Undoes `to_x` exactly."""
    import torch

    levels = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return levels[0].permute(1, 2, 0).contiguous().cpu().numpy()


def pad(x: Float[Tensor, "b c h w"], multiple: int) -> Float[Tensor, "b c h2 w2"]:
    """Repeats the last row and column until both sides are multiples of `multiple` pixels."""
    from torch.nn.functional import pad as torch_pad

    height, width = x.shape[-2:]
    return torch_pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def crop(x: Float[Tensor, "b c h2 w2"], h: int, w: int) -> Float[Tensor, "b c h w"]:
    """The top left `h` x `w` pixels: undoes `pad`."""
    return x[..., :h, :w]


def format_of(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that `write` chooses by the suffix; PNG for no suffix.

    Raises ImageError for an unknown suffix, so that a caller can ask before it starts to work.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise ImageError(f"{os.fspath(path)}: unknown suffix {suffix!r}; known are {known}")
    return FORMATS[suffix][0]


def write(path: str | os.PathLike[str], image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes 8-bit sRGB in the format of the suffix (PNG for none); all but JPEG are lossless.

    The file appears complete or not at all.  Raises ImageError for an unknown suffix, for what is not
    uint8 [H, W, 3], and for sizes that the format cannot hold; OSError as `open` does.
    """
    name = format_of(path)
    options = FORMATS[Path(path).suffix.lower()][1]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        kind = f"{image.dtype} {list(image.shape)}"
        raise ImageError(f"{os.fspath(path)}: expected uint8 [H, W, 3], got {kind}")
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, name, **options)
    except (ValueError, OSError) as error:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise ImageError(f"{os.fspath(path)}: {size} pixels do not go into {name}: {error}") from error
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that appears complete or not at all: under another name in its folder, then renamed.

    A symbolic link is followed; what is neither file nor folder (/dev/stdout, a pipe) is written directly.
    Raises OSError as `open` does; FileNotFoundError names the folder when that is missing.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)  # before the name is resolved: /dev/stdout may lead to a pipe without a name
        return
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read_file(file: IO[bytes], name: str) -> UInt8[np.ndarray, "h w 3"]:
    with _pillow_errors(name), Image.open(file) as image:
        return _rgb(image, name)


@contextlib.contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into ImageError.

    Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error and others.  An OSError
    with a number comes from the system (a disk error, a folder) and passes through.
    """
    try:
        yield
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _rgb(image: Image.Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    if 0 in image.size:
        raise ImageError(f"{name}: a picture of {image.width}x{image.height} pixels is empty")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph, followed by a depth map or another view
        raise ImageError(f"{name}: has {frames} frames; only still pictures are supported")
    depth = _deep_samples(image)
    if depth is not None:
        raise ImageError(f"{name}: mode {depth}: more than 8 bits a channel are not supported")
    if image.mode not in ("1", "L", "P", "RGB", "LA", "PA", "RGBA"):
        raise ImageError(f"{name}: mode {image.mode} is not supported; only 8-bit grey, palette and RGB are")
    image.load()
    upright = UPRIGHT.get(_orientation(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != 255:
            raise ImageError(f"{name}: mode {image.mode} with transparent pixels is not supported")
        image = rgba
    image = image.convert("RGB")
    if upright is not None:
        image = image.transpose(upright)
    return np.array(image)


def _deep_samples(image: Image.Image) -> str | None:
    """The raw mode of a file with over 8 bits a channel, which Pillow would silently read as 8-bit RGB."""
    for tile in getattr(image, "tile", ()):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if not args:
            continue
        if isinstance(args[0], str) and (";16" in args[0] or ";12" in args[0]):
            return args[0]
        if image.format == "PPM" and len(args) == 2 and isinstance(args[1], int) and args[1] > 255:
            return f"{args[0]} up to {args[1]}"
    return None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata does not make the picture unreadable
        return 1
    return value if isinstance(value, int) else 1


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and channels not in (3, 4)):
        raise ImageError(
            f"array: expected uint8 [H, W], [H, W, 3] or [H, W, 4], got {array.dtype} {list(array.shape)}"
        )
    if array.size == 0:
        raise ImageError(f"array: a picture of {array.shape[1]}x{array.shape[0]} pixels is empty")
    return Image.fromarray(array)
