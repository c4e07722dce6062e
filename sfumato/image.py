"""Image files in, 8-bit images or float arrays [1, 3, H, W] out; and back to files.

    file -> load -> ImageData: pixels -> to_x -> [1, 3, H, W] in [-1, 1] -> pad -> [1, 3, H', W'] -> networks
                       |     alpha, ICC, EXIF, XMP, resolution, text: past the networks
    file <- write <- ImageData: pixels <- from_x <- [1, 3, H, W] <----------------------------------+

What is neither grey nor RGB becomes sRGB; RGB keeps its values and its profile.  Nothing that is global to
the process is touched.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from sfumato import colour, formats, metadata, profiles
from sfumato.errors import ImageError as ImageError
from sfumato.files import write_bytes as write_bytes
from sfumato.formats import fault as fault
from sfumato.image_data import ImageData as ImageData
from sfumato.metadata import EXIF_PREFIX as EXIF_PREFIX
from sfumato.profiles import Space
from sfumato.tiles import MAX_PIXELS, METADATA_MAX, PIXELS_MAX, SIDE_MAX, padded_pixels
from sfumato.writing import format_of as format_of
from sfumato.writing import to_bytes as to_bytes

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

# EXIF 2.3, tag 0x0112: what turns the stored image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)

CAMERA_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # what of a TIFF's own tags is about the photograph
NEARLY_GREY = 2
"""Levels between the channels of a pixel up to which an image counts as grey: what a JPEG or a scanner
adds.
"""


Source = str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray | ImageData


def load(source: Source, max_pixels: int | None = MAX_PIXELS) -> ImageData:
    """The image in a file, an open binary file, a Pillow image or an array, upright, 8 bits a sample.

    Arrays are uint8 [H, W], [H, W, 2], [H, W, 3] or [H, W, 4].  Samples of more bits are rounded to 8; CMYK,
    Lab and grey with a profile become sRGB; colour that is described without a profile gets one.  An alpha
    that is opaque everywhere is dropped.  `max_pixels` is for files: pixels with both sides rounded up to
    multiples of 64, as they are coded; None for no limit but the format's.

    Raises ImageError for what is not an image, is damaged or cut short, has several frames, or more than
    65535 pixels a side, 2^27 or `max_pixels` in all (before they are decoded), and for samples whose
    range is unknown or high dynamic; OSError where the system does (FileNotFoundError, IsADirectoryError ..).
    """
    if isinstance(source, ImageData):
        return _checked(source)
    name = _name(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        with _pillow_errors(name):
            return _opened(source, name)
    if isinstance(source, str | os.PathLike):
        if isinstance(os.fspath(source), bytes):
            source = os.fsdecode(source)
        with _pillow_errors(name), open(source, "rb") as file:
            return _read_file(file, name, max_pixels)
    if not hasattr(source, "read"):
        kind = type(source).__name__
        hint = {"bytes": "; wrap the bytes of a file in io.BytesIO", "Tensor": "; pass tensor.numpy()"}
        hint |= {
            "bytearray": hint["bytes"],
            "memoryview": hint["bytes"],
            "list": "; pass numpy.asarray(list, 'u1')",
        }
        kinds = "a path, an open binary file, a Pillow image, an ImageData or a uint8 array"
        raise ImageError(f"an image is {kinds}, not {kind}{hint.get(kind, '')}")
    with _pillow_errors(name):
        return _read_file(source, name, max_pixels)


def read(source: Source) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of `load`, always sRGB; ImageError also where some of them are not opaque."""
    image_data = load(source)
    if image_data.alpha is not None:
        raise ImageError(f"{_name(source)}: transparent pixels; expected an opaque image")
    return np.ascontiguousarray(in_srgb(image_data).rgb)


def in_srgb(image_data: ImageData) -> ImageData:
    """The image with its colours converted to sRGB and no profile; its warnings say so."""
    if not image_data.icc or image_data.pixels.ndim == 2:
        return replace(image_data, icc=None)
    pixels, converted = colour.apply_icc(image_data.pixels, image_data.icc)
    return replace(image_data, pixels=pixels, icc=None, warnings=(*image_data.warnings, converted))


def strip(image_data: ImageData) -> ImageData:
    """The image without ICC, EXIF, XMP, resolution and text, its colours converted to sRGB."""
    image_data = in_srgb(image_data)
    return ImageData(image_data.pixels, image_data.alpha, warnings=image_data.warnings)


def upright(image_data: ImageData) -> ImageData:
    """The image turned as its EXIF says, which then says upright, and its XMP too."""
    xmp = image_data.xmp and metadata.upright_xmp(image_data.xmp)
    if not image_data.exif:
        return replace(image_data, xmp=xmp)
    number = metadata.orientation(image_data.exif)
    exif = metadata.upright_exif(image_data.exif, number in UPRIGHT, number in SIDEWAYS)
    image_data = replace(image_data, exif=exif, xmp=xmp)
    if number not in UPRIGHT:
        return image_data

    def turned(plane: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(plane).transpose(UPRIGHT[number]))

    alpha = None if image_data.alpha is None else turned(image_data.alpha)
    return replace(image_data, pixels=turned(image_data.pixels), alpha=alpha)


def without_tint(image_data: ImageData) -> ImageData:
    """A nearly grey image of three channels as a grey one, which coding cannot turn coloured."""
    if image_data.pixels.ndim == 2 or not _nearly_grey(image_data.pixels):
        return image_data
    grey = image_data.pixels
    if image_data.icc:
        grey, converted = colour.apply_icc(grey, image_data.icc)
        if converted != colour.CONVERTED:  # nobody knows what they mean: they stay as they are
            return image_data
    return replace(image_data, pixels=mean(grey), icc=None) if _nearly_grey(grey) else image_data


def _nearly_grey(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether the channels of each pixel are at most `NEARLY_GREY` levels apart; by rows, in little
    memory.
    """
    for top in range(0, len(pixels), 64):
        rows = pixels[top : top + 64]
        if int((rows.max(2) - rows.min(2)).max()) > NEARLY_GREY:
            return False
    return True


def to_x(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "1 3 h w"]:
    """0 .. 255 -> -1 .. 1, float32."""
    x = np.ascontiguousarray(image.transpose(2, 0, 1))[None].astype(np.float32)
    x /= 127.5
    x -= 1
    return x


def from_x(x: Float[np.ndarray, "1 3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """-1 .. 1 -> 0 .. 255: clamped, then rounded to the nearest, halves to even.  Undoes `to_x` exactly."""
    levels = np.rint((np.clip(x[0], -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


def mean(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """One channel of three, rounded: what three noisy looks at one grey say together."""
    return ((image.sum(2, dtype=np.uint16) + 1) // 3).astype(np.uint8)


def pad(x: Float[np.ndarray, "b c h w"], multiple: int) -> Float[np.ndarray, "b c h2 w2"]:
    """Repeats the last row and column until both sides are multiples of `multiple` pixels."""
    height, width = x.shape[2:]
    return np.pad(x, ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)), mode="edge")


def write(
    path: str | os.PathLike[str], source: ImageData | UInt8[np.ndarray, "h w *rgba"], overwrite: bool = True
) -> tuple[str, ...]:
    """Writes what `writing.to_bytes` makes of an image or an array, complete or not at all; its sentences.

    ImageError as there, and for an array that `load` does not take; OSError as `files.write_bytes`.
    """
    image_data = source if isinstance(source, ImageData) else _from_array(source, os.fspath(path))
    data, sentences = to_bytes(path, image_data)
    write_bytes(path, data, overwrite)
    return sentences


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, np.ndarray | ImageData):
        return "array"
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "image")


def _read_file(file: IO[bytes], name: str, max_pixels: int | None) -> ImageData:
    if not file.seekable():
        file = io.BytesIO(file.read())

    def again(raw: str) -> np.ndarray:
        with formats.open_image(file, name) as other:
            for number, tile in enumerate(other.tile):
                args = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
                other.tile[number] = tile._replace(args=args)
            return np.array(other)

    file.seek(0)  # as Pillow does
    head = file.read(1 << 16)
    with formats.open_image(file, name) as image:
        _check_size(image, name, max_pixels)
        at = file.tell()  # where Pillow reads on
        file.seek(0)
        space, icc = profiles.of_file(file, image.format, name)
        meta = profiles.meta_box(file) if image.format in ("AVIF", "HEIF") else b""
        file.seek(at)
        return _image_data(image, name, again, colour.bit_depth(head), space, icc, meta)


def _opened(image: Image.Image, name: str) -> ImageData:
    """The image of a Pillow image, which may come from a file that is still open."""
    _check_size(image, name, None)
    file, space, icc = getattr(image, "fp", None), None, None
    if file is not None and image.format and hasattr(file, "seek"):
        with contextlib.suppress(OSError, ValueError):  # closed, or cannot be rewound
            at = file.tell()
            file.seek(0)
            try:
                space, icc = profiles.of_file(file, image.format, name)
            finally:
                file.seek(at)
    return _image_data(image, name, space=space, icc=icc)


def _check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    """ImageError for more than the format, or the caller, allows: before anything is decoded."""
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name}: an image of {width}x{height} pixels is empty")
    if width * height > PIXELS_MAX or max(image.size) > SIDE_MAX:
        raise ImageError(f"{name}: {width}x{height} pixels, over {SIDE_MAX} a side or {PIXELS_MAX} in all")
    if max_pixels is not None and padded_pixels(height, width) > max_pixels:
        padded = f"{padded_pixels(height, width)} when padded"
        raise ImageError(
            f"{name}: {width}x{height} pixels, {padded}, are more than max_pixels = {max_pixels}"
        )


@contextlib.contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into ImageError.

    Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error and others.  An OSError
    with a number comes from the system (a disk error, a folder) and passes through.
    """
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # a host may raise the latter
        raise ImageError(f"{name}: more pixels than Pillow opens: {error}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _image_data(
    image: Image.Image,
    name: str,
    again: Callable[[str], np.ndarray] | None = None,
    bits: int = 8,
    space: Space | None = None,
    icc: bytes | None = None,
    meta: bytes = b"",
) -> ImageData:
    """`again` decodes the file anew with another raw mode; `bits` are what it has, if Pillow hides it;
    `space` and `icc` are what it says of its colour and Pillow does not pass on, `meta` the box of an AVIF or
    HEIC.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("MPO", "HEIF"):  # a photograph, followed by others or other views
        raise ImageError(f"{name}: has {frames} frames; only still images are supported")
    if image.mode == "F":
        raise ImageError(f"{name}: mode F: the range of floating-point samples is not known")
    icc = image.info.get("icc_profile") or icc or None
    raw, top = colour.raw_mode(image)
    image.load()
    space = None if icc else space or _exif_space(image)
    turn, exif, xmp = _orientation(image), _exif(image), image.info.get("xmp")
    xmp = xmp if isinstance(xmp, bytes) else None
    if image.format == "HEIF" and b"irot" not in meta and b"imir" not in meta:
        turn = int(image.info.get("original_orientation") or 1)  # nothing but EXIF says how it lies
    dpi, text = metadata.dpi_of(image), metadata.text_of(image)
    warnings = list(metadata.losses(image, meta, xmp))
    bits = max(bits, top.bit_length(), int(image.info.get("bit_depth") or 8))
    if bits > 8:
        warnings.append(f"{bits}-bit samples were reduced to 8 bits")
    image, curved = colour.to_uint8(image, name, raw, top, again, space)
    image, converted, icc = colour.srgb(image, icc)
    if space is not None:
        image, note, icc = colour.from_described_space(image, space, curved)
        converted = [*converted, note]
    icc = None if icc and colour.is_srgb(icc) else icc  # it would say what is taken for granted
    if turn in SIDEWAYS and dpi:
        dpi = dpi[::-1]
    pixels = np.array(image.transpose(UPRIGHT[turn]) if turn in UPRIGHT else image)
    exif = None if exif is None else metadata.upright_exif(exif, turn in UPRIGHT, turn in SIDEWAYS)
    if xmp and (kept := metadata.without_gain_map(metadata.upright_xmp(xmp))) is None:
        converted = [*converted, "XMP was left out, as it speaks of a gain map"]
        xmp = None
    elif xmp:
        xmp = kept
    alpha = None
    if image.mode in ("LA", "RGBA"):
        pixels, alpha = np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1])
        pixels = pixels[..., 0] if image.mode == "LA" else pixels
        alpha = None if alpha.min() == 255 else alpha
    image_data = ImageData(pixels, alpha, icc, exif, xmp, (*warnings, *converted), dpi, text)
    return metadata.fitted(in_srgb(image_data) if len(icc or b"") > METADATA_MAX // 2 else image_data)


def _exif_space(image: Image.Image) -> Space | None:
    try:
        return profiles.of_exif(image.getexif(), image.format) if image.mode[:3] == "RGB" else None
    except ImageError:
        raise
    except Exception:  # damaged metadata does not make the image unreadable
        return None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(metadata.ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the image unreadable
        return 1


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block of a decoded file from its TIFF header on; None for none."""
    if image.format == "TIFF":
        tags, kept = image.getexif(), Image.Exif()
        kept.update({tag: tags[tag] for tag in CAMERA_TAGS if tag in tags})
        kept.update({tag: inner for tag in (0x8769, 0x8825) if (inner := dict(tags.get_ifd(tag)))})
        return kept.tobytes().removeprefix(EXIF_PREFIX) if len(kept) else None
    exif = image.info.get("exif")
    if not isinstance(exif, bytes) or not (exif := exif.removeprefix(EXIF_PREFIX)).startswith((b"II", b"MM")):
        return None
    return exif


def _checked(image_data: ImageData) -> ImageData:
    """The same; ImageError for what a caller cannot have meant."""
    pixels, plane = image_data.pixels, image_data.alpha
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise ImageError(f"pixels: expected uint8 [H, W] or [H, W, 3], got {got}")
    if pixels.size == 0:
        raise ImageError(f"pixels: an image of {pixels.shape[1]}x{pixels.shape[0]} pixels is empty")
    if plane is not None and (plane.dtype != np.uint8 or plane.shape != pixels.shape[:2]):
        expected = f"expected uint8 {list(pixels.shape[:2])}"
        raise ImageError(f"alpha: {expected}, as the pixels, got {plane.dtype} {list(plane.shape)}")
    if image_data.dpi is not None and not metadata.is_dpi(image_data.dpi):
        raise ImageError(f"dpi is {image_data.dpi}; both must lie in 0.0001..429496")
    return image_data


def _from_array(array: np.ndarray, name: str) -> ImageData:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and channels not in (2, 3, 4)):
        kinds = "[H, W], [H, W, 2], [H, W, 3] or [H, W, 4]"
        raise ImageError(f"{name}: expected uint8 {kinds}, got {array.dtype} {list(array.shape)}")
    if array.size == 0:
        raise ImageError(f"{name}: an image of {array.shape[1]}x{array.shape[0]} pixels is empty")
    return _opened(Image.fromarray(np.ascontiguousarray(array)), name)
