"""An open file in; Pillow's image of it out, if its format is one that is meant to be read.

Pillow knows formats that start other programs (EPS starts Ghostscript) or show a thumbnail for the image (raw
photographs look like TIFF); both are refused by name.
"""

from __future__ import annotations

import contextlib
import re
import struct
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile

from sfumato.errors import ImageError

READ = (
    "PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI",
)  # fmt: skip
HEIC = re.compile(rb"ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.S)
OTHERS = (  # what a file begins with, and what it is then
    (rb"(%!PS|\xc5\xd0\xd3\xc6)", "EPS or PostScript"),
    (rb"%PDF", "PDF"),
    (rb"(\xff\x0a|\0\0\0\x0cJXL )", "JPEG XL"),
    (rb"8BPS", "PSD"),
    (rb"\s*<(\?xml|svg|!--)", "SVG or XML"),
    (rb"....ftypcrx ", "a raw photograph (CR3)"),
    (rb"(IIRO|IIRS|MMOR|IIU\0|FUJIFILMCCD-RAW)", "a raw photograph"),
    (rb"SFU[\x10-\xff]", "a .sfu file already"),
)
RAW = "a raw photograph, of which only the thumbnail could be read; develop it to a TIFF or JPEG first"
SUBFILE, WIDTH, LENGTH, PHOTOMETRIC, SUB_IFDS, DNG_VERSION = 254, 256, 257, 262, 330, 50706
SENSOR = (32803, 34892)  # photometric interpretations of raw samples: colour filter array, linear raw


def open_image(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Pillow's image, not yet decoded, of a file from its first byte on.

    ImageError for a format that is not read; else what Pillow raises.
    """
    file.seek(0)
    head = file.read(64)
    file.seek(0)
    if HEIC.search(head[:12]) and b"avif" not in head and b"avis" not in head:
        return _heic(file, name)
    if head[:4] in (b"II*\0", b"MM\0*"):
        _refuse_thumbnail(file, name)
    try:
        return Image.open(file, formats=READ)
    except Image.UnidentifiedImageError:
        for pattern, what in OTHERS:
            if re.match(pattern, head, re.S):
                raise ImageError(f"{name}: {what}, which is not read") from None
        kinds = ", ".join(kind for kind in READ if kind != "DIB")
        raise ImageError(f"{name}: not an image in a known format; known are {kinds}") from None


def fault(path: Path) -> str:
    """What is wrong with the file of an image, in words; "" for a whole one.  OSError as `open` does."""
    with open(path, "rb") as file:
        try:
            with open_image(file, path.name) as image:
                if image.format == "PNG":
                    image.verify()  # every byte is under a CRC
                else:
                    image.load()
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return str(error).removeprefix(f"{path.name}: ") or type(error).__name__
    return ""


def _heic(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(f"{name}: HEIC, which is read where pillow-heif is installed") from None
    return HeifImageFile(file)


def _refuse_thumbnail(file: IO[bytes], name: str) -> None:
    """ImageError where the first image of a TIFF is a smaller stand-in for what the file is about."""
    file.seek(0)
    head = file.read(10)
    order = "<" if head[:2] == b"II" else ">"
    tags = _tags(file, order, int.from_bytes(head[4:8], "little" if order == "<" else "big"))
    sensor = set(tags.get(PHOTOMETRIC, ())) & set(SENSOR)
    if head[8:] == b"CR" or DNG_VERSION in tags or sensor:
        raise ImageError(f"{name}: {RAW}")
    if tags.get(SUBFILE, (0,))[0] & 1:
        raise ImageError(f"{name}: its first image is a reduced one, by its own tag; save the full one alone")
    size = tags.get(WIDTH, (0,))[0] * tags.get(LENGTH, (0,))[0]
    for offset in tags.get(SUB_IFDS, ()):
        inner = _tags(file, order, offset)
        width, height = inner.get(WIDTH, (0,))[0], inner.get(LENGTH, (0,))[0]
        if width * height > size:
            raise ImageError(f"{name}: its first image is smaller than one of {width}x{height} inside: {RAW}")


def _tags(file: IO[bytes], order: str, offset: int) -> dict[int, tuple[int, ...]]:
    """The whole numbers in a directory of a TIFF, up to 64 of each tag; what is damaged is left out."""
    found: dict[int, tuple[int, ...]] = {}
    with contextlib.suppress(struct.error, OSError, OverflowError):
        file.seek(offset)
        (count,) = struct.unpack(order + "H", file.read(2))
        data = file.read(12 * count)
        for tag, kind, number, value in struct.iter_unpack(order + "HHI4s", data[: len(data) // 12 * 12]):
            if kind not in (1, 3, 4, 13) or not number:
                continue
            form = {1: "B", 3: "H"}.get(kind, "I")
            number = min(number, 64)
            size = number * struct.calcsize(form)
            if size > 4:
                file.seek(struct.unpack(order + "I", value)[0])
                value = file.read(size)
            found[tag] = struct.unpack_from(f"{order}{number}{form}", value)
    return found
