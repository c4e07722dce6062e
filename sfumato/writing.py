"""A `Picture` in; the bytes of an image file out, with all that its format and its readers hold."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from sfumato import colour, metadata
from sfumato.errors import ImageError
from sfumato.picture import Picture

KINDS = {"icc": "ICC", "exif": "EXIF", "xmp": "XMP", "dpi": "DPI", "text": "text"}
"""What comes with pixels: field of `Picture` -> how it is called in sentences."""


@dataclass(frozen=True)
class Format:
    """A format that is written.

    name     Pillow's
    options  Pillow's
    limits   what it holds beside pixels -> bytes at most; None: as many as there are
    """

    name: str
    options: dict[str, Any]
    limits: dict[str, int | None]


# Pillow reads no more than 1 MiB of a profile or a text in a PNG; a segment of a JPEG has 65,533 bytes.
_PNG = Format(
    "PNG", {}, {"alpha": None, "icc": 1 << 20, "exif": None, "xmp": 1 << 20, "dpi": None, "text": 1 << 20}
)
_TIFF = Format(
    "TIFF",
    {"compression": "tiff_deflate"},
    {"alpha": None, "icc": None, "exif": None, "xmp": None, "dpi": None},
)
_JPEG = Format(
    "JPEG",
    {"quality": 95, "subsampling": "4:4:4"},
    {"icc": 255 * 65519, "exif": 65533 - 6, "xmp": 65533 - 29, "dpi": None, "text": 65533},
)
FORMATS: dict[str, Format] = {
    "": _PNG,
    ".png": _PNG,
    ".ppm": Format("PPM", {}, {}),
    ".bmp": Format("BMP", {}, {"dpi": None}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": Format(
        "WEBP", {"lossless": True, "exact": True}, {"alpha": None, "icc": None, "exif": None, "xmp": None}
    ),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
}


def format_of(path: str | os.PathLike[str]) -> str:
    """Pillow's name of the format that `write` chooses by the suffix; PNG for no suffix.

    Raises ImageError for an unknown suffix, so that a caller can ask before it starts to work.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(filter(None, FORMATS))
        raise ImageError(f"{os.fspath(path)}: unknown suffix {suffix!r}; known are {known}")
    return FORMATS[suffix].name


def to_bytes(path: str | os.PathLike[str], picture: Picture) -> tuple[bytes, tuple[str, ...]]:
    """A picture in the format of the suffix (PNG for none); all but JPEG are lossless.

    Alpha, ICC, EXIF, XMP, resolution and text go along; a sentence comes back for each that the format, or
    those who read it, cannot hold.  Without its profile a picture is converted to sRGB.

    Raises ImageError for an unknown suffix, transparent pixels where the format has none, and pixels that it
    cannot hold.
    """
    name = format_of(path)
    form = FORMATS[Path(path).suffix.lower()]
    if picture.alpha is not None and "alpha" not in form.limits:
        if picture.alpha.min() < 255:
            raise ImageError(f"{os.fspath(path)}: {name} has no alpha, and some pixels are transparent")
        picture = replace(picture, alpha=None)
    picture, sentences = _fitted(picture, form)
    try:
        return _encoded(picture, form), sentences
    except Exception as error:  # Pillow's encoders raise what its decoders do
        bare = Picture(picture.pixels, picture.alpha)
        extras = [KINDS[kind] for kind in KINDS if getattr(picture, kind)]
        if extras:
            bare, converted = _without_profile(picture, bare)
            try:
                said = f"{' and '.join(extras)} do not go into {name}: left out ({error})"
                return _encoded(bare, form), (*sentences, said, *converted)
            except Exception as other:  # so it is the pixels
                error = other
        size = f"{picture.pixels.shape[1]}x{picture.pixels.shape[0]}"
        raise ImageError(f"{os.fspath(path)}: {size} pixels do not go into {name}: {error}") from error


def _fitted(picture: Picture, form: Format) -> tuple[Picture, tuple[str, ...]]:
    """(the picture with what the format holds, sentences on the rest)."""
    sentences: list[str] = []
    lost = [kind for kind in KINDS if getattr(picture, kind) and kind not in form.limits]
    if lost:
        sentences.append(f"{form.name} holds no {' and '.join(KINDS[kind] for kind in lost)}: left out")
    for kind in ("icc", "exif", "xmp"):
        value, limit = getattr(picture, kind), form.limits.get(kind)
        if value and limit is not None and len(value) > limit:
            lost.append(kind)
            sentences.append(f"{KINDS[kind]} of {len(value)} bytes is over {form.name}'s {limit}: left out")
    text, limit = dict(picture.text), form.limits.get("text")
    for key, value in picture.text.items():
        if "text" in lost:
            break
        size = len(value.encode("utf-8", "replace"))
        if form.name == "JPEG" and key != metadata.COMMENT:
            sentences.append(f"JPEG holds a comment and no other text: {key!r} left out")
        elif limit is not None and size > limit:
            sentences.append(f"text {key!r} of {size} bytes is over {form.name}'s {limit}: left out")
        else:
            continue
        del text[key]
    kept = replace(picture, text=text)
    if kept.exif:
        kept = replace(kept, exif=metadata.upright_exif(kept.exif))
    if "icc" in lost:
        kept, converted = _without_profile(picture, kept)
        sentences += converted
    none: dict[str, Any] = {kind: {} if kind == "text" else None for kind in lost}
    return replace(kept, **none), tuple(sentences)


def _without_profile(picture: Picture, bare: Picture) -> tuple[Picture, tuple[str, ...]]:
    """(`bare` with the picture's colours in sRGB, what was done in words)."""
    if not picture.icc or picture.pixels.ndim == 2:
        return bare, ()
    pixels, said = colour.through(picture.pixels, picture.icc)
    return replace(bare, pixels=pixels, icc=None), (said,)


def _encoded(picture: Picture, form: Format) -> bytes:
    buffer = io.BytesIO()
    options = form.options | _options(picture, form.name)
    Image.fromarray(picture.array).save(buffer, form.name, **options)
    return buffer.getvalue()


def _options(picture: Picture, name: str) -> dict[str, Any]:
    """How Pillow wants what comes with the pixels."""
    options: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
    if picture.dpi:
        options["dpi"] = picture.dpi
    ways: dict[str, Callable[[Picture], dict[str, Any]]] = {"TIFF": _tiff, "PNG": _png, "JPEG": _jpeg}
    if name == "WEBP" and picture.xmp:
        options["xmp"] = picture.xmp
    if name != "TIFF" and picture.exif:
        options["exif"] = metadata.EXIF_PREFIX + picture.exif
    return options | (ways[name](picture) if name in ways else {})


def _tiff(picture: Picture) -> dict[str, Any]:
    tags = Image.Exif()
    tags.load(picture.exif or b"")
    if picture.xmp:
        tags[700] = picture.xmp
    return {"exif": tags} | ({"compression": None} if picture.exif else {})  # libtiff writes no EXIF


def _png(picture: Picture) -> dict[str, Any]:
    if not picture.xmp and not picture.text:
        return {}
    texts = PngImagePlugin.PngInfo()
    if picture.xmp:
        texts.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
    for key, value in picture.text.items():
        keyword = key.encode("latin-1", "replace")[:79].decode("latin-1") or metadata.COMMENT
        try:
            value.encode("latin-1")
            texts.add_text(keyword, value)
        except UnicodeEncodeError:
            texts.add_itxt(keyword, value)
    return {"pnginfo": texts}


def _jpeg(picture: Picture) -> dict[str, Any]:
    options: dict[str, Any] = {"xmp": picture.xmp} if picture.xmp else {}
    if comment := picture.text.get(metadata.COMMENT):
        options["comment"] = comment.encode("utf-8", "replace")
    return options
