"""An `ImageData` in; the bytes of an image file out, with all that its format and its readers hold."""

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
from sfumato.image_data import ImageData

KINDS = {"icc": "ICC", "exif": "EXIF", "xmp": "XMP", "dpi": "DPI", "text": "text"}
"""What comes with pixels: field of `ImageData` -> how it is called in sentences."""


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


def to_bytes(path: str | os.PathLike[str], image_data: ImageData) -> tuple[bytes, tuple[str, ...]]:
    """An image in the format of the suffix (PNG for none); all but JPEG are lossless.

    Alpha, ICC, EXIF, XMP, resolution and text go along; a sentence comes back for each that the format, or
    those who read it, cannot hold.  Without its profile an image is converted to sRGB.

    Raises ImageError for an unknown suffix, transparent pixels where the format has none, and pixels that it
    cannot hold.
    """
    name = format_of(path)
    form = FORMATS[Path(path).suffix.lower()]
    if image_data.alpha is not None and "alpha" not in form.limits:
        if image_data.alpha.min() < 255:
            raise ImageError(f"{os.fspath(path)}: {name} has no alpha, and some pixels are transparent")
        image_data = replace(image_data, alpha=None)
    image_data, sentences = _fitted(image_data, form)
    try:
        return _encoded(image_data, form), sentences
    except Exception as error:  # Pillow's encoders raise what its decoders do
        bare = ImageData(image_data.pixels, image_data.alpha)
        extras = [KINDS[kind] for kind in KINDS if getattr(image_data, kind)]
        if extras:
            bare, converted = _without_profile(image_data, bare)
            try:
                note = f"{' and '.join(extras)} do not go into {name}: left out ({error})"
                return _encoded(bare, form), (*sentences, note, *converted)
            except Exception as other:  # so it is the pixels
                error = other
        size = f"{image_data.pixels.shape[1]}x{image_data.pixels.shape[0]}"
        raise ImageError(f"{os.fspath(path)}: {size} pixels do not go into {name}: {error}") from error


def _fitted(image_data: ImageData, form: Format) -> tuple[ImageData, tuple[str, ...]]:
    """(the image with what the format holds, sentences on the rest)."""
    sentences: list[str] = []
    lost = [kind for kind in KINDS if getattr(image_data, kind) and kind not in form.limits]
    if lost:
        sentences.append(f"{form.name} holds no {' and '.join(KINDS[kind] for kind in lost)}: left out")
    for kind in ("icc", "exif", "xmp"):
        value, limit = getattr(image_data, kind), form.limits.get(kind)
        if value and limit is not None and len(value) > limit:
            lost.append(kind)
            sentences.append(f"{KINDS[kind]} of {len(value)} bytes is over {form.name}'s {limit}: left out")
    text, limit = dict(image_data.text), form.limits.get("text")
    for key, value in image_data.text.items():
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
    kept = replace(image_data, text=text)
    if kept.exif:
        kept = replace(kept, exif=metadata.upright_exif(kept.exif))
    if "icc" in lost:
        kept, converted = _without_profile(image_data, kept)
        sentences += converted
    none: dict[str, Any] = {kind: {} if kind == "text" else None for kind in lost}
    return replace(kept, **none), tuple(sentences)


def _without_profile(image_data: ImageData, bare: ImageData) -> tuple[ImageData, tuple[str, ...]]:
    """(`bare` with the image's colours in sRGB, what was done in words)."""
    if not image_data.icc or image_data.pixels.ndim == 2:
        return bare, ()
    pixels, note = colour.apply_icc(image_data.pixels, image_data.icc)
    return replace(bare, pixels=pixels, icc=None), (note,)


def _encoded(image_data: ImageData, form: Format) -> bytes:
    buffer = io.BytesIO()
    options = form.options | _options(image_data, form.name)
    Image.fromarray(image_data.array).save(buffer, form.name, **options)
    return buffer.getvalue()


def _options(image_data: ImageData, name: str) -> dict[str, Any]:
    """How Pillow wants what comes with the pixels."""
    options: dict[str, Any] = {"icc_profile": image_data.icc} if image_data.icc else {}
    if image_data.dpi:
        options["dpi"] = image_data.dpi
    ways: dict[str, Callable[[ImageData], dict[str, Any]]] = {"TIFF": _tiff, "PNG": _png, "JPEG": _jpeg}
    if name == "WEBP" and image_data.xmp:
        options["xmp"] = image_data.xmp
    if name != "TIFF" and image_data.exif:
        options["exif"] = metadata.EXIF_PREFIX + image_data.exif
    return options | (ways[name](image_data) if name in ways else {})


def _tiff(image_data: ImageData) -> dict[str, Any]:
    tags = Image.Exif()
    tags.load(image_data.exif or b"")
    if image_data.xmp:
        tags[700] = image_data.xmp
    return {"exif": tags} | ({"compression": None} if image_data.exif else {})  # libtiff writes no EXIF


def _png(image_data: ImageData) -> dict[str, Any]:
    if not image_data.xmp and not image_data.text:
        return {}
    texts = PngImagePlugin.PngInfo()
    if image_data.xmp:
        texts.add_itxt("XML:com.adobe.xmp", image_data.xmp.decode("utf-8", "replace"))
    for key, value in image_data.text.items():
        keyword = key.encode("latin-1", "replace")[:79].decode("latin-1") or metadata.COMMENT
        try:
            value.encode("latin-1")
            texts.add_text(keyword, value)
        except UnicodeEncodeError:
            texts.add_itxt(keyword, value)
    return {"pnginfo": texts}


def _jpeg(image_data: ImageData) -> dict[str, Any]:
    options: dict[str, Any] = {"xmp": image_data.xmp} if image_data.xmp else {}
    if comment := image_data.text.get(metadata.COMMENT):
        options["comment"] = comment.encode("utf-8", "replace")
    return options
