"""An open file in; Pillow's image of it out, if its format is one that is meant to be read.

Pillow knows formats that start other programs (EPS starts Ghostscript) or show a thumbnail for the image (raw
photographs look like TIFF); both are refused by name.
"""

from __future__ import annotations

import contextlib
import re
import struct
from pathlib import Path
from typing import IO, Any

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
    """Pillow's image, not yet decoded.  ImageError for a format that is not read; else what Pillow raises."""
    start = file.tell()
    head = file.read(64)
    file.seek(start)
    if HEIC.search(head[:12]) and b"avif" not in head and b"avis" not in head:
        return _heic(file, name)
    try:
        image = Image.open(file, formats=READ)
    except Image.UnidentifiedImageError:
        for pattern, what in OTHERS:
            if re.match(pattern, head, re.S):
                raise ImageError(f"{name}: {what}, which is not read") from None
        kinds = ", ".join(kind for kind in READ if kind != "DIB")
        raise ImageError(f"{name}: not a picture in a known format; known are {kinds}") from None
    if image.format == "TIFF":
        at = file.tell()
        _refuse_thumbnail(image, file, start, name)
        file.seek(at)
    return image


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


def _refuse_thumbnail(image: Any, file: IO[bytes], start: int, name: str) -> None:
    """ImageError where the first image of a TIFF is a smaller stand-in for what the file is about."""
    tags = image.tag_v2
    file.seek(start + 8)
    canon = file.read(2) == b"CR"
    raw = canon or DNG_VERSION in tags or tags.get(PHOTOMETRIC) in SENSOR
    if raw:
        raise ImageError(f"{name}: {RAW}")
    if int(tags.get(SUBFILE, 0) or 0) & 1:
        raise ImageError(f"{name}: its first image is a reduced one, by its own tag; save the full one alone")
    inner = tags.get(SUB_IFDS, ())
    for offset in inner if isinstance(inner, tuple) else (inner,):
        size = _size_of(file, start, int(offset))
        if size[0] * size[1] > image.width * image.height:
            full = f"{size[0]}x{size[1]}"
            raise ImageError(f"{name}: its first image is smaller than one of {full} inside: {RAW}")


def _size_of(file: IO[bytes], start: int, offset: int) -> tuple[int, int]:
    """(width, height) that a directory of a classic TIFF tells; (0, 0) if it tells none."""
    found = {WIDTH: 0, LENGTH: 0}
    with contextlib.suppress(struct.error, OSError, OverflowError):
        file.seek(start)
        order = "<" if file.read(2) == b"II" else ">"
        file.seek(start + offset)
        (count,) = struct.unpack(order + "H", file.read(2))
        for _ in range(count):
            entry = file.read(12)
            tag, kind = struct.unpack(order + "HH", entry[:4])
            if tag in found:
                (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), entry, 8)
    return found[WIDTH], found[LENGTH]
