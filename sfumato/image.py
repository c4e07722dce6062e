"""Picture files in, 8-bit pictures or float arrays [1, 3, H, W] out; and back to files.

    file -> load -> Picture: pixels -> to_x -> [1, 3, H, W] in [-1, 1] -> pad -> [1, 3, H', W'] -> networks
                       |     alpha, ICC, EXIF, XMP: past the networks
    file <- write <- Picture: pixels <- from_x <- [1, 3, H, W] <----------------------------------+

What is neither grey nor RGB becomes sRGB; RGB keeps its values and its profile.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin

from sfumato import colour
from sfumato.errors import ImageError as ImageError
from sfumato.tiles import PIXELS_MAX, SIDE_MAX

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

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

CAMERA_TAGS = (270, 271, 272, 305, 306, 315, 33432)  # what of a TIFF's own tags is about the photograph
EXIF_PREFIX = b"Exif\0\0"

# What `write` can write: suffix -> Pillow's name of the format, its options, and what it holds beside pixels.
_ALL = ("alpha", "icc", "exif", "xmp")
FORMATS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "": ("PNG", {}, _ALL),
    ".png": ("PNG", {}, _ALL),
    ".ppm": ("PPM", {}, ()),
    ".bmp": ("BMP", {}, ()),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}, _ALL),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}, _ALL),
    ".webp": ("WEBP", {"lossless": True, "exact": True}, _ALL),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}, _ALL[1:]),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}, _ALL[1:]),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what comes with it, upright.

    pixels   uint8 [H, W, 3], sRGB or what `icc` says; or grey [H, W]
    alpha    uint8 [H, W], 0 invisible .. 255 opaque; not multiplied into the pixels.  None: opaque
    icc      colour profile of RGB pixels, if not sRGB's
    exif     from its TIFF header on; its orientation says upright
    xmp      a packet of XML
    remarks  sentences that say what was changed, or is missing
    """

    pixels: UInt8[np.ndarray, "h w *rgb"]
    alpha: UInt8[np.ndarray, "h w"] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    remarks: tuple[str, ...] = ()

    @property
    def array(self) -> UInt8[np.ndarray, "h w *channels"]:
        """[H, W, 3], grey [H, W], with alpha [H, W, 4] or [H, W, 2]."""
        return self.pixels if self.alpha is None else np.dstack([self.pixels, self.alpha])

    @property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels, three channels also where they are grey."""
        grey = self.pixels.ndim == 2
        return np.repeat(self.pixels[:, :, None], 3, 2) if grey else self.pixels


Source = str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray | Picture


def load(source: Source) -> Picture:
    """The picture in a file, an open binary file, a Pillow image or an array, upright, 8 bits a sample.

    Arrays are uint8 [H, W], [H, W, 2], [H, W, 3] or [H, W, 4].  Samples of more bits are rounded to 8; CMYK,
    Lab and grey with a profile become sRGB.  An alpha that is opaque everywhere is dropped.

    Raises ImageError for what is not a picture, is damaged or cut short, has several frames, or more than
    65535 pixels a side or 2^27 in all (told before they are decoded), and for samples whose range is
    unknown; OSError where the system does (FileNotFoundError, IsADirectoryError ..).
    """
    if isinstance(source, Picture):
        return source
    name = _name(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    with _pillow_errors(name):
        if isinstance(source, Image.Image):
            return _picture(source, name)
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as file:
                return _read_file(file, name)
        return _read_file(source, name)


def read(source: Source) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of `load`, always RGB; ImageError also where some of them are not opaque."""
    picture = load(source)
    if picture.alpha is not None:
        raise ImageError(f"{_name(source)}: transparent pixels; expected an opaque picture")
    return np.ascontiguousarray(picture.rgb)


def strip(picture: Picture) -> Picture:
    """The picture without ICC, EXIF and XMP, its colours converted to sRGB."""
    pixels, remarks = picture.pixels, picture.remarks
    if picture.icc:
        pixels, said = colour.through(pixels, picture.icc)
        remarks = (*remarks, said)
    return Picture(pixels, picture.alpha, remarks=remarks)


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


def format_of(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that `write` chooses by the suffix; PNG for no suffix.

    Raises ImageError for an unknown suffix, so that a caller can ask before it starts to work.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise ImageError(f"{os.fspath(path)}: unknown suffix {suffix!r}; known are {known}")
    return FORMATS[suffix][0]


def write(path: str | os.PathLike[str], source: Picture | UInt8[np.ndarray, "h w *rgba"]) -> tuple[str, ...]:
    """Writes what `to_bytes` makes, complete or not at all; its sentences.  OSError as `open` does."""
    data, sentences = to_bytes(path, source)
    write_bytes(path, data)
    return sentences


def to_bytes(
    path: str | os.PathLike[str], source: Picture | UInt8[np.ndarray, "h w *rgba"]
) -> tuple[bytes, tuple[str, ...]]:
    """A picture or an array in the format of the suffix (PNG for none); all but JPEG are lossless.

    Alpha, ICC, EXIF and XMP go along; a sentence comes back if the format cannot hold one of the last three.
    Raises ImageError for an unknown suffix, an array that `load` does not take, transparent pixels where the
    format has none, and what else it cannot hold.
    """
    name = format_of(path)
    _, options, holds = FORMATS[Path(path).suffix.lower()]
    picture = source if isinstance(source, Picture) else _from_array(source, os.fspath(path))
    if picture.alpha is not None and "alpha" not in holds:
        if picture.alpha.min() < 255:
            raise ImageError(f"{os.fspath(path)}: {name} has no alpha, and some pixels are transparent")
        picture = Picture(picture.pixels, None, picture.icc, picture.exif, picture.xmp)
    extras = {kind: getattr(picture, kind) for kind in ("icc", "exif", "xmp") if getattr(picture, kind)}
    lost = " and ".join(kind.upper() for kind in extras if kind not in holds)
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore"):
            held = _options(name, {kind: value for kind, value in extras.items() if kind in holds})
            Image.fromarray(picture.array).save(buffer, name, **(options | held))
    except Exception as error:  # Pillow's encoders raise what its decoders do
        size = f"{picture.pixels.shape[1]}x{picture.pixels.shape[0]}"
        what = "".join(f", {kind.upper()} of {len(value)} bytes" for kind, value in extras.items())
        raise ImageError(f"{os.fspath(path)}: {size} pixels{what} do not go into {name}: {error}") from error
    return buffer.getvalue(), (f"{name} holds no {lost}: left out",) if lost else ()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file that appears complete or not at all: under another name in its folder, then renamed.

    A symbolic link is followed; what is neither file nor folder (/dev/stdout, a pipe) is written directly.
    Raises OSError as `open` does; FileNotFoundError names the folder when that is missing.
    """
    target = path = Path(path)
    direct = path.exists() and not path.is_file() and not path.is_dir()
    if not direct:  # the name of /dev/stdout is not resolved: it may lead to a pipe without a name
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    part = target if direct else target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(data)
        if not direct:
            part.replace(target)
    except BaseException as error:
        if not direct:
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk
            error.filename = os.fspath(path)
        raise


def _options(name: str, extras: dict[str, bytes]) -> dict[str, Any]:
    """How Pillow wants ICC, EXIF and XMP for a format."""
    icc, exif, xmp = (extras.get(kind) for kind in ("icc", "exif", "xmp"))
    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    if name == "TIFF":
        tags = Image.Exif()
        tags.load(exif or b"")
        if xmp:
            tags[700] = xmp
        return options | {"exif": tags} | ({"compression": None} if exif else {})  # libtiff writes no EXIF
    if xmp and name == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        options["pnginfo"] = texts
    elif xmp:
        options["xmp"] = xmp
    return options | ({"exif": EXIF_PREFIX + exif} if exif else {})


def _name(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, np.ndarray | Picture):
        return "array"
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "picture")


def _read_file(file: IO[bytes], name: str) -> Picture:
    if not file.seekable():
        file = io.BytesIO(file.read())
    start = file.tell()

    def again(raw: str) -> np.ndarray:
        file.seek(start)
        with Image.open(file) as other:
            for number, tile in enumerate(other.tile):
                args = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
                other.tile[number] = tile._replace(args=args)
            return np.array(other)

    head = file.read(1 << 16)
    file.seek(start)
    with Image.open(file) as image:
        return _picture(image, name, again, colour.hidden_bits(head))


@contextlib.contextmanager
def _pillow_errors(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises on a bad file into ImageError, and lets no warning out.

    Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error and others.  An OSError
    with a number comes from the system (a disk error, a folder) and passes through.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (ImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: more than {PIXELS_MAX} pixels") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _picture(
    image: Image.Image, name: str, again: Callable[[str], np.ndarray] | None = None, bits: int = 8
) -> Picture:
    """`again` decodes the file anew with another raw mode; `bits` are what it has, if Pillow hides it."""
    width, height = image.size
    if 0 in image.size:
        raise ImageError(f"{name}: a picture of {width}x{height} pixels is empty")
    if width * height > PIXELS_MAX or max(image.size) > SIDE_MAX:
        raise ImageError(f"{name}: {width}x{height} pixels, over {SIDE_MAX} a side or {PIXELS_MAX} in all")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a photograph, followed by a depth map or another view
        raise ImageError(f"{name}: has {frames} frames; only still pictures are supported")
    if image.mode == "F":
        raise ImageError(f"{name}: mode F: the range of floating-point samples is not known")
    raw, top = colour.storage(image)
    image.load()
    turn, exif, xmp = _orientation(image), _exif(image), image.info.get("xmp")
    icc = image.info.get("icc_profile") or None
    remarks = []
    bits = max(bits, top.bit_length())
    if bits > 8:
        remarks.append(f"{bits}-bit samples were reduced to 8 bits")
    image, said, icc = colour.srgb(colour.eight_bits(image, name, raw, top, again), icc)
    icc = None if icc and colour.is_srgb(icc) else icc  # it would say what is taken for granted
    pixels = np.array(image if turn is None else image.transpose(turn))
    xmp = re.sub(rb'(tiff:Orientation(="|>))[0-9]', rb"\g<1>1", xmp) if isinstance(xmp, bytes) else None
    alpha = None
    if image.mode in ("LA", "RGBA"):
        pixels, alpha = np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1])
        pixels = pixels[..., 0] if image.mode == "LA" else pixels
        alpha = None if alpha.min() == 255 else alpha
    return Picture(pixels, alpha, icc, exif, xmp or None, (*remarks, *said))


def _orientation(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata does not make the picture unreadable
        return None


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block of a decoded file from its TIFF header on, orientation set to upright; None for none."""
    if image.format == "TIFF":
        tags, kept = image.getexif(), Image.Exif()
        kept.update({tag: tags[tag] for tag in CAMERA_TAGS if tag in tags})
        kept.update({tag: inner for tag in (0x8769, 0x8825) if (inner := dict(tags.get_ifd(tag)))})
        return kept.tobytes().removeprefix(EXIF_PREFIX) if len(kept) else None
    exif = image.info.get("exif")
    if not isinstance(exif, bytes) or not (exif := exif.removeprefix(EXIF_PREFIX)).startswith((b"II", b"MM")):
        return None
    order = "<" if exif[:2] == b"II" else ">"
    out = bytearray(exif)
    with contextlib.suppress(struct.error):  # cut short
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            if struct.unpack_from(order + "H", exif, entry) == (ORIENTATION_TAG,):
                struct.pack_into(order + "H", out, entry + 8, 1)
    return bytes(out)


def _from_array(array: np.ndarray, name: str) -> Picture:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and channels not in (2, 3, 4)):
        kinds = "[H, W], [H, W, 2], [H, W, 3] or [H, W, 4]"
        raise ImageError(f"{name}: expected uint8 {kinds}, got {array.dtype} {list(array.shape)}")
    if array.size == 0:
        raise ImageError(f"{name}: a picture of {array.shape[1]}x{array.shape[0]} pixels is empty")
    return _picture(Image.fromarray(np.ascontiguousarray(array)), name)
