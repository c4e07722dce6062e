"""A picture and a setting in, a file on disk out, and the picture read back: sfumato and its rivals, by name.

    names("sfumato:steps=4,jpeg,avif") -> ["sfumato:steps=4", "jpeg", "avif"] -> codec(name) -> Codec

Codecs of libraries are made here; programs called by their command line come from `evaluation.commands`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

import sfumato
from sfumato import DEFAULT_MODEL
from sfumato.image import read, write_bytes

Picture = UInt8[np.ndarray, "h w 3"]

# From the smallest files to about 1.2 bits per pixel.
SFUMATO_Q = tuple(i / 8 for i in range(9))
JPEG_QUALITY = (5, 10, 15, 20, 30, 40, 60)
WEBP_QUALITY = (0, 5, 10, 20, 30, 50, 80)
AVIF_QUALITY = (5, 10, 20, 30, 40, 50, 60)
JXL_DISTANCE = (25, 12, 8, 6, 4.5, 3, 2)  # Butteraugli's; 1 is visually lossless
JPEG2000_BPP = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.2)  # what is asked for; files are measured
HEIC_QUALITY = (5, 15, 20, 25, 30, 40, 50)
COMPRESSAI_QUALITY = tuple(range(5, 100, 5))

# JPEG with 4:2:0 chroma, its default; WebP knows nothing else.  Slow settings: the smallest files.
JPEG_OPTIONS = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
WEBP_OPTIONS = {"method": 6}
# AVIF in one thread: with several, its bytes depend on the machine's number of cores.
AVIF_OPTIONS = {"subsampling": "4:4:4", "speed": 4, "max_threads": 1}
COMPRESSAI_OPTIONS: dict[str, Any] = {}  # Pillow's defaults: baseline, fixed Huffman tables, 4:2:0
HEIC_OPTIONS = {"chroma": "444"}
JXL_EFFORT = 7


@dataclass(frozen=True)
class Codec:
    """`encode(picture, setting, path)` writes a file and `decode(path)` reads it back."""

    name: str
    suffix: str
    settings: tuple[float, ...]
    encode: Callable[[Picture, float, Path], Any]
    decode: Callable[[Path], Picture]
    description: str = ""  # library or program with its version, and the options that all settings share
    program_peak_mb: Callable[[], float] | None = None  # of the program that ran last; None: the caller


class CodecMissing(ValueError):
    """A codec whose library or program is not installed; the message says what to install."""


def names(text: str) -> list[str]:
    """Names joined by commas, options kept with their codec: `sfumato:steps=4,realism=0.5,jpeg` has two.

    Raises ValueError for an empty or repeated name.
    """
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if "=" in part and ":" not in part and found:
            found[-1] += "," + part
        else:
            found.append(part)
    for name in found:
        if not name or found.count(name) > 1:
            raise ValueError(f"codecs {text!r}: {'an empty name' if not name else f'{name} comes twice'}")
    return found


def codec(name: str, model: str = DEFAULT_MODEL) -> Codec:
    """A codec of a library by its name.

    sfumato[:OPTION=VALUE,...] with steps (whole number), realism (0..1) and model (name or path; `model` if
    not given); sfumato:N is sfumato:steps=N.  Without options the decoder does what it does by default.

    Raises ValueError for an unknown name or option, and CodecMissing (a ValueError) where a library is not
    installed.
    """
    base, _, options = name.partition(":")
    if base == "sfumato" and not name.endswith(":"):
        return _sfumato(name, options, model)
    if name not in BUILDERS:
        raise ValueError(f"unknown codec {name!r}; known are sfumato[:OPTIONS], {', '.join(BUILDERS)}")
    return BUILDERS[name]()


def _sfumato(name: str, text: str, model: str) -> Codec:
    text = f"steps={text}" if text.isdecimal() else text
    options: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        key, _, value = part.partition("=")
        try:
            kind = {"steps": int, "realism": float, "model": str}[key]
            options[key] = kind(value)
        except (KeyError, ValueError):
            what = "steps=NUMBER, realism=0..1 and model=NAME"
            raise ValueError(f"unknown codec {name!r}: {part!r} is none of the options {what}") from None
    model = options.pop("model", model)
    weights = sfumato.load(model)
    if options.get("steps") and not weights.denoiser_id:
        raise CodecMissing(f"{name}: the {weights.preset} weights hold no trained denoiser, only steps=0")
    how = [f"weights {weights.preset} {weights.model_id:08x}", *(f"{k} {v}" for k, v in options.items())]
    if weights.denoiser_id and options.get("steps") != 0:  # files do not depend on it, but pictures do
        how.append(f"denoiser {weights.denoiser_id}")
    description = f"sfumato {sfumato.__version__}, {', '.join(how)}; the setting is q"
    encode = partial(encode_sfumato, model=model)
    decode = partial(decode_sfumato, options=tuple(options.items()), model=model)
    return Codec(name, ".sfu", SFUMATO_Q, encode, decode, description)


def encode_sfumato(picture: Picture, q: float, path: Path, *, model: str) -> None:
    """In this process; `q` in [0, 1]."""
    write_bytes(path, sfumato.encode(picture, q=q, model=model))


def decode_sfumato(path: Path, *, options: tuple[tuple[str, Any], ...], model: str) -> Picture:
    """In this process, from nothing but the file and the weights."""
    return read(sfumato.decode(path.read_bytes(), model=model, **dict(options)))  # grey becomes RGB


def _pillow(
    name: str, suffix: str, settings: tuple[float, ...], format: str, feature: str, options: dict[str, Any]
) -> Codec:
    if not features.check(feature):
        raise CodecMissing(f"{name}: this Pillow cannot write {format}")
    version = features.version(feature)
    how = ", ".join(f"{key} {value}" for key, value in options.items()) or "default options"
    description = f"Pillow {Image.__version__}, {feature} {version}: {how}; the setting is the quality"
    encode = partial(encode_pillow, format=format, options=options)
    return Codec(name, suffix, settings, encode, read, description)


def encode_pillow(
    picture: Picture, quality: float, path: Path, *, format: str, options: dict[str, Any]
) -> None:
    """Through Pillow; no metadata is written."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format, quality=int(quality), **options)
    write_bytes(path, buffer.getvalue())


def _jpeg2000() -> Codec:
    if not features.check("jpg_2000"):
        raise CodecMissing("jpeg2000: this Pillow cannot write JPEG 2000")
    description = (
        f"Pillow {Image.__version__}, OpenJPEG {features.version('jpg_2000')}: 9/7 wavelet, colour "
        "transform, one quality layer; the setting is the rate asked for in bits per pixel"
    )
    return Codec("jpeg2000", ".jp2", JPEG2000_BPP, encode_jpeg2000, read, description)


def encode_jpeg2000(picture: Picture, bpp: float, path: Path) -> None:
    """Through Pillow; the rate is that of the codestream, to which the file adds about 85 bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(
        buffer, "JPEG2000", quality_mode="rates", quality_layers=[24 / bpp], irreversible=True, mct=1
    )
    write_bytes(path, buffer.getvalue())


def _jxl() -> Codec:
    library = _library("jxl", "imagecodecs")
    if not library.JPEGXL.available:
        raise CodecMissing("jxl: this imagecodecs has no JPEG XL")
    version = f"imagecodecs {library.__version__}, {library.jpegxl_version()}"
    description = f"{version}: effort {JXL_EFFORT}, one thread; the setting is Butteraugli's distance"
    return Codec("jxl", ".jxl", JXL_DISTANCE, encode_jxl, decode_jxl, description)


def encode_jxl(picture: Picture, distance: float, path: Path) -> None:
    """Through imagecodecs: lossy in XYB, 4:4:4."""
    coded = _library("jxl", "imagecodecs").jpegxl_encode(
        picture, effort=JXL_EFFORT, distance=distance, lossless=False, numthreads=1
    )
    write_bytes(path, bytes(coded))


def decode_jxl(path: Path) -> Picture:
    """Through imagecodecs, to 8-bit sRGB."""
    picture = _library("jxl", "imagecodecs").jpegxl_decode(path.read_bytes(), numthreads=1)
    return np.ascontiguousarray(picture)


def _heic() -> Codec:
    library = _library("heic", "pillow_heif")
    encoder = library.libheif_info()["encoders"].get("x265")
    if encoder is None:
        raise CodecMissing("heic: this pillow-heif has no encoder x265")
    version = f"pillow-heif {library.__version__}, libheif {library.libheif_version()}, {encoder}"
    description = f"{version}: chroma 4:4:4; the setting is the quality"
    return Codec("heic", ".heic", HEIC_QUALITY, encode_heic, decode_heic, description)


def encode_heic(picture: Picture, quality: float, path: Path) -> None:
    """Through pillow-heif: x265, 8 bits, chroma at full resolution."""
    buffer = io.BytesIO()
    image = _library("heic", "pillow_heif").from_pillow(Image.fromarray(picture))
    image.save(buffer, quality=int(quality), **HEIC_OPTIONS)
    write_bytes(path, buffer.getvalue())


def decode_heic(path: Path) -> Picture:
    """Through pillow-heif, to 8-bit sRGB."""
    image = _library("heic", "pillow_heif").open_heif(path, convert_hdr_to_8bit=True)
    return np.array(image.to_pillow().convert("RGB"))


def _library(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.replace("_", "-")
        message = f"{name}: the package {package} is not installed (pip install {package})"
        raise CodecMissing(message) from None


BUILDERS: dict[str, Callable[[], Codec]] = {
    "jpeg": partial(_pillow, "jpeg", ".jpg", JPEG_QUALITY, "JPEG", "jpg", JPEG_OPTIONS),
    "webp": partial(_pillow, "webp", ".webp", WEBP_QUALITY, "WEBP", "webp", WEBP_OPTIONS),
    "avif": partial(_pillow, "avif", ".avif", AVIF_QUALITY, "AVIF", "avif", AVIF_OPTIONS),
    "jxl": _jxl,
    "jpeg2000": _jpeg2000,
    "heic": _heic,
    # as CompressAI measured it, to check this command against its published curve (`evaluation.anchors`)
    "jpeg-compressai": partial(
        _pillow, "jpeg-compressai", ".jpg", COMPRESSAI_QUALITY, "JPEG", "jpg", COMPRESSAI_OPTIONS
    ),
}
