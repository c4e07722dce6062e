"""What comes with the pixels of an image file in; the same, made true for upright pixels, out.

EXIF and XMP are edited in place: orientation, the thumbnail of a turned image, and what speaks of a gain map
that is not there any more.  Resolution and text have entries of their own in a .sfu file (FORMAT.md, section
3).
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sfumato.image_data import ImageData
from sfumato.tiles import METADATA_MAX

EXIF_PREFIX = b"Exif\0\0"
TAGS = {"icc": "ICC ", "exif": "EXIF", "xmp": "XMP "}
DPI_TAG, TEXT_TAG = "DPI ", "TEXT"
DPI_UNIT = 10_000  # of a pixel per inch
COMMENT = "Comment"

ORIENTATION, EXIF_IFD, EXIF_WIDTH, EXIF_HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
THUMBNAIL_AT, THUMBNAIL_SIZE, STRIPS_AT, STRIP_SIZES = 0x0201, 0x0202, 0x0111, 0x0117
GAIN_MAP = (b"hdrgm", b"hdr-gain-map", b"HDRGainMap", b"GainMap")


def entries(image_data: ImageData) -> dict[str, bytes]:
    """What a .sfu file keeps of an image beside pixels and alpha: tag -> bytes."""
    found = {tag: value for kind, tag in TAGS.items() if (value := getattr(image_data, kind))}
    if image_data.dpi:
        found[DPI_TAG] = struct.pack("<II", *(round(DPI_UNIT * side) for side in image_data.dpi))
    if image_data.text:
        parts = (
            part.replace("\0", " ").encode("utf-8", "replace")
            for item in image_data.text.items()
            for part in item
        )
        found[TEXT_TAG] = b"".join(part + b"\0" for part in parts)
    return found


def fields(found: Mapping[str, bytes]) -> dict[str, Any]:
    """The fields of an `ImageData` that a file's entries hold; those of a wrong form are left out."""
    known: dict[str, Any] = {kind: found.get(tag) for kind, tag in TAGS.items()} | {"dpi": None, "text": {}}
    if len(data := found.get(DPI_TAG, b"")) == 8 and all(sides := struct.unpack("<II", data)):
        known["dpi"] = (sides[0] / DPI_UNIT, sides[1] / DPI_UNIT)
    parts = found.get(TEXT_TAG, b"").split(b"\0")
    if len(parts) > 2 and len(parts) % 2:
        words = [part.decode("utf-8", "replace") for part in parts]
        known["text"] = dict(zip(words[:-1:2], words[1::2], strict=True))
    return known


def fitted(image_data: ImageData) -> ImageData:
    """The image without what is too much for a .sfu file, the largest first; its warnings name it."""
    while True:
        sizes = {tag: len(value) for tag, value in entries(image_data).items()}
        if sum(sizes.values()) + 16 * len(sizes) <= METADATA_MAX:
            return image_data
        tag = max(sizes, key=lambda tag: sizes[tag])
        size = f"{tag.strip()} of {sizes[tag]} bytes was left out: the limit is {METADATA_MAX}"
        kind = {tag: kind for kind, tag in TAGS.items()}.get(tag)
        change: dict[str, Any] = {kind: None} if kind else {"text": {}}
        image_data = replace(image_data, **change, warnings=(*image_data.warnings, size))


def dpi_of(image: Any) -> tuple[float, float] | None:
    """The resolution that an image file gives, in pixels per inch."""
    given = image.info.get("dpi")
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") not in (1, 2):
        with contextlib.suppress(Exception):
            if 282 not in image.getexif():
                return None  # Pillow's 72, where nothing is known
    if image.format == "TIFF" and 282 not in image.tag_v2:
        return None  # Pillow's 1
    try:
        x, y = (float(side) for side in given)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if is_dpi((x, y)) else None


def is_dpi(sides: tuple[float, float]) -> bool:
    """Whether an entry holds this resolution, in pixels per inch."""
    return all(1 / DPI_UNIT <= side < (2**32 - 1) / DPI_UNIT for side in sides)


def text_of(image: Any) -> dict[str, str]:
    """The texts of a PNG, and the comment of a JPEG or GIF; of a decoded image."""
    found: dict[str, str] = {}
    if image.format == "PNG":
        for key, value in getattr(image, "text", {}).items():
            if key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type"):
                found[str(key)] = str(value)
    comment = image.info.get("comment") if image.format in ("JPEG", "MPO", "GIF") else None
    if comment:
        found[COMMENT] = comment.decode("utf-8", "replace") if isinstance(comment, bytes) else str(comment)
    return {key: value for key, value in found.items() if value}


def losses(image: Any, meta: bytes, xmp: bytes | None) -> Iterator[str]:
    """Sentences on what an image file holds and a .sfu file does not; `meta` is the box of an AVIF or
    HEIC.
    """
    frames = getattr(image, "n_frames", 1)
    segments = b"".join(data for kind, data in getattr(image, "applist", ()) if kind in ("APP1", "APP2"))
    gain = b"hdrgainmap" in meta.lower() or b"tmap" in meta or b"21496" in meta + segments
    gain = gain or (image.format in ("JPEG", "MPO") and any(word in (xmp or b"") for word in GAIN_MAP))
    if gain:
        yield "its gain map (HDR) was left out"
    elif image.format == "MPO" and frames > 1:
        yield f"{frames - 1} further images in the file were left out"
    elif b"auxl" in meta and b"depth" in meta.lower():
        yield "its depth map was left out"
    if b"http://ns.adobe.com/xmp/extension/" in segments:
        yield "extended XMP was left out"
    if 0x0404 in (image.info.get("photoshop") or {}):
        yield "IPTC captions were left out"
    if any(kind == "APP11" for kind, _ in getattr(image, "applist", ())):
        yield "content credentials (JUMBF) were left out"
    if image.format == "TIFF":
        kinds = {33723: "IPTC captions", 34377: "Photoshop's data", 34735: "GeoTIFF tags"}
        yield from (f"{what} were left out" for tag, what in kinds.items() if tag in image.tag_v2)


def upright_xmp(xmp: bytes) -> bytes:
    """The packet with every orientation set to 1, whatever prefix, quotes or form it has."""
    if xmp[:2] in (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<"):  # UTF-16, as XMP allows
        with contextlib.suppress(UnicodeError):
            xmp = xmp.decode("utf-16-be" if xmp[:2] == b"\0<" else "utf-16").encode()
    return re.sub(rb"(:Orientation\s*(?:=\s*[\"']|>)\s*)[0-9]+", rb"\g<1>1", xmp)


def without_gain_map(xmp: bytes) -> bytes | None:
    """The packet without what it says of a gain map; None where that cannot be taken out."""
    if not any(word in xmp for word in GAIN_MAP):
        return xmp
    for prefix in (rb"hdrgm", rb"HDRGainMap", rb"GContainer", rb"Container"):
        xmp = re.sub(rb"<" + prefix + rb":(\w+)\b[^>]*?/>", b"", xmp)
        xmp = re.sub(rb"<" + prefix + rb":(\w+)\b.*?</" + prefix + rb":\1\s*>", b"", xmp, flags=re.S)
        xmp = re.sub(rb"\s(xmlns:)?" + prefix + rb"(:\w+)?\s*=\s*(\"[^\"]*\"|'[^']*')", b"", xmp)
    return None if any(word in xmp for word in GAIN_MAP) else xmp


def upright_exif(exif: bytes, turned: bool = False, swapped: bool = False, crop: bool = False) -> bytes:
    """The block with orientation 1 wherever it has one.

    turned   whether the pixels were: the thumbnail, which is not, is taken out
    swapped  whether width and height were
    crop     whether the pixels are a part only: the thumbnail, which is not, is taken out
    """
    out = bytearray(exif)
    order = "<" if exif[:2] == b"II" else ">"
    with contextlib.suppress(struct.error):  # cut short
        (first,) = struct.unpack_from(order + "I", exif, 4)
        inner, end = _upright_directory(out, order, first)
        if inner and swapped:
            _swap_sides(out, order, inner)
        (second,) = struct.unpack_from(order + "I", exif, end)
        if second and (turned or crop):
            struct.pack_into(order + "I", out, end, 0)
            _blank_thumbnail(out, order, second)
        elif second:
            _upright_directory(out, order, second)
    return bytes(out)


def orientation(exif: bytes) -> int:
    """The orientation, 1 .. 8, that an EXIF block gives; 1 if none."""
    order = "<" if exif[:2] == b"II" else ">"
    with contextlib.suppress(struct.error):
        (first,) = struct.unpack_from(order + "I", exif, 4)
        for at in _directory(exif, order, first):
            if struct.unpack_from(order + "H", exif, at) == (ORIENTATION,):
                (value,) = struct.unpack_from(order + "H", exif, at + 8)
                return value if 1 <= value <= 8 else 1
    return 1


def _directory(data: bytes | bytearray, order: str, at: int) -> range:
    """Where the entries of a directory begin."""
    (count,) = struct.unpack_from(order + "H", data, at)
    return range(at + 2, at + 2 + 12 * count, 12)


def _upright_directory(out: bytearray, order: str, at: int) -> tuple[int, int]:
    """(offset of the EXIF directory, or 0; where the offset of the next directory stands)."""
    inner, entries = 0, _directory(out, order, at)
    for entry in entries:
        tag, _, _, value = struct.unpack_from(order + "HHII", out, entry)
        if tag == ORIENTATION:
            struct.pack_into(order + "H", out, entry + 8, 1)
        elif tag == EXIF_IFD:
            inner = value
    return inner, entries.stop


def _swap_sides(out: bytearray, order: str, at: int) -> None:
    found = {}
    for entry in _directory(out, order, at):
        (tag,) = struct.unpack_from(order + "H", out, entry)
        found[tag] = entry
    if EXIF_WIDTH in found and EXIF_HEIGHT in found:
        a, b = (slice(found[tag] + 2, found[tag] + 12) for tag in (EXIF_WIDTH, EXIF_HEIGHT))
        out[a], out[b] = out[b], out[a]


def _blank_thumbnail(out: bytearray, order: str, at: int) -> None:
    """Zeros, which cost next to nothing, for a thumbnail that nothing points to any more."""
    places: dict[int, int] = {}
    for entry in (entries := _directory(out, order, at)):
        tag, kind, count, value = struct.unpack_from(order + "HHII", out, entry)
        if count == 1:
            places[tag] = value >> 16 if kind == 3 and order == ">" else value
    for where, size in ((THUMBNAIL_AT, THUMBNAIL_SIZE), (STRIPS_AT, STRIP_SIZES)):
        first, last = places.get(where, 0), places.get(where, 0) + places.get(size, 0)
        if 8 <= first < last <= len(out):
            out[first:last] = bytes(last - first)
    out[at : entries.stop + 4] = bytes(min(entries.stop + 4, len(out)) - at)
