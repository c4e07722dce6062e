"""The table of codecs: each writes an image as a file on disk and reads it back.

    parse_names("sfumato:steps=4,jpeg,avif") -> ["sfumato:steps=4", "jpeg", "avif"] -> codec(name) -> Codec

To add a codec, add a line to CODECS: a function that returns a Codec, or raises CodecMissing.
"""

from __future__ import annotations

import importlib
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
from sfumato.files import write_bytes
from sfumato.image import read

RGB = UInt8[np.ndarray, "h w 3"]
SFUMATO_Q = tuple(i / 8 for i in range(9))
JXL_EFFORT = 7


@dataclass(frozen=True)
class Codec:
    """`encode(image, setting, path)` writes a file and `decode(path)` reads it back."""

    name: str
    suffix: str
    settings: tuple[float, ...]  # from the smallest files to about 1.2 bits per pixel
    encode: Callable[[RGB, float, Path], Any]
    decode: Callable[[Path], RGB]
    description: str = ""  # the library with its version, and the options that all settings share


class CodecMissing(ValueError):
    """A codec whose library is not installed; the message says what to install."""


def parse_names(text: str) -> list[str]:
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
    """A codec by its name: of CODECS, or sfumato[:OPTION=VALUE,...].

    Options are steps (whole number), realism (0..1) and model (name or path; `model` if not given); sfumato:N
    is sfumato:steps=N.  Without options the decoder uses its defaults.

    Raises ValueError for an unknown name or option, and CodecMissing (a ValueError) where a library is not
    installed.
    """
    base, _, options = name.partition(":")
    if base == "sfumato" and not name.endswith(":"):
        return _sfumato(name, options, model)
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}; known are sfumato[:OPTIONS], {', '.join(CODECS)}")
    return CODECS[name]()


def _sfumato(name: str, text: str, model: str) -> Codec:
    text = f"steps={text}" if text.isdecimal() else text
    options: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        key, _, value = part.partition("=")
        try:
            options[key] = {"steps": int, "realism": float, "model": str}[key](value)
        except (KeyError, ValueError):
            known = "steps=NUMBER, realism=0..1 and model=NAME"
            raise ValueError(f"unknown codec {name!r}: {part!r} is none of the options {known}") from None
    model = options.pop("model", model)
    weights = sfumato.load(model)
    if options.get("steps") and not weights.denoiser_id:
        raise CodecMissing(f"{name}: the {weights.preset} weights hold no trained denoiser, only steps=0")
    how = [f"weights {weights.preset} {weights.model_id:08x}", *(f"{k} {v}" for k, v in options.items())]
    if weights.denoiser_id and options.get("steps") != 0:  # files do not depend on it, but images do
        how.append(f"denoiser {weights.denoiser_id}")
    description = f"sfumato {sfumato.__version__}, {', '.join(how)}; the setting is q"
    encode = partial(_encode_sfumato, model=model)
    decode = partial(_decode_sfumato, options=tuple(options.items()), model=model)
    return Codec(name, ".sfu", SFUMATO_Q, encode, decode, description)


def _encode_sfumato(image: RGB, q: float, path: Path, *, model: str) -> None:
    write_bytes(path, sfumato.encode(image, q=q, model=model))


def _decode_sfumato(path: Path, *, options: tuple[tuple[str, Any], ...], model: str) -> RGB:
    return read(sfumato.decode(path.read_bytes(), model=model, **dict(options)))  # grey becomes RGB


def pillow_codec(
    name: str, suffix: str, settings: tuple[float, ...], format: str, feature: str, options: dict[str, Any]
) -> Codec:
    """A codec of Pillow whose setting is the quality."""
    if not features.check(feature):
        raise CodecMissing(f"{name}: this Pillow cannot write {format}")
    how = ", ".join(f"{key} {value}" for key, value in options.items())
    library = f"Pillow {Image.__version__}, {feature} {features.version(feature)}"
    encode = partial(_save, format=format, options=options)
    return Codec(name, suffix, settings, encode, read, f"{library}: {how}; the setting is the quality")


def _save(image: RGB, quality: float, path: Path, *, format: str, options: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, quality=int(quality), **options)
    write_bytes(path, buffer.getvalue())


def _jpeg2000() -> Codec:
    if not features.check("jpg_2000"):
        raise CodecMissing("jpeg2000: this Pillow cannot write JPEG 2000")
    description = (
        f"Pillow {Image.__version__}, OpenJPEG {features.version('jpg_2000')}: 9/7 wavelet, colour "
        "transform, one quality layer; the setting is the rate asked for in bits per pixel"
    )
    settings = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1.2)
    return Codec("jpeg2000", ".jp2", settings, _encode_jpeg2000, read, description)


def _encode_jpeg2000(image: RGB, bpp: float, path: Path) -> None:
    """The rate is that of the codestream, to which the file adds about 85 bytes."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality_mode": "rates", "quality_layers": [24 / bpp]}
    Image.fromarray(image).save(buffer, "JPEG2000", irreversible=True, mct=1, **options)
    write_bytes(path, buffer.getvalue())


def _jxl() -> Codec:
    library = _library("jxl", "imagecodecs")
    if not library.JPEGXL.available:
        raise CodecMissing("jxl: this imagecodecs has no JPEG XL")
    version = f"imagecodecs {library.__version__}, {library.jpegxl_version()}"
    description = f"{version}: effort {JXL_EFFORT}, one thread; the setting is Butteraugli's distance"
    return Codec("jxl", ".jxl", (25, 12, 8, 6, 4.5, 3, 2), encode_jxl, decode_jxl, description)


def encode_jxl(image: RGB, distance: float, path: Path) -> None:
    """Through imagecodecs: lossy in XYB, 4:4:4."""
    options = {"effort": JXL_EFFORT, "distance": distance, "lossless": False, "numthreads": 1}
    write_bytes(path, bytes(_library("jxl", "imagecodecs").jpegxl_encode(image, **options)))


def decode_jxl(path: Path) -> RGB:
    """Through imagecodecs, to 8-bit sRGB."""
    decode = _library("jxl", "imagecodecs").jpegxl_decode
    return np.ascontiguousarray(decode(path.read_bytes(), numthreads=1))


def _heic() -> Codec:
    library = _library("heic", "pillow_heif")
    encoder = library.libheif_info()["encoders"].get("x265")
    if encoder is None:
        raise CodecMissing("heic: this pillow-heif has no encoder x265")
    version = f"pillow-heif {library.__version__}, libheif {library.libheif_version()}, {encoder}"
    description = f"{version}: chroma 4:4:4; the setting is the quality"
    return Codec("heic", ".heic", (5, 15, 20, 25, 30, 40, 50), _encode_heic, _decode_heic, description)


def _encode_heic(image: RGB, quality: float, path: Path) -> None:
    """x265, 8 bits, chroma at full resolution."""
    buffer = io.BytesIO()
    heif = _library("heic", "pillow_heif").from_pillow(Image.fromarray(image))
    heif.save(buffer, quality=int(quality), chroma="444")
    write_bytes(path, buffer.getvalue())


def _decode_heic(path: Path) -> RGB:
    image = _library("heic", "pillow_heif").open_heif(path, convert_hdr_to_8bit=True)
    return np.array(image.to_pillow().convert("RGB"))


def _library(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.replace("_", "-")
        raise CodecMissing(
            f"{name}: the package {package} is not installed (pip install {package})"
        ) from None


# JPEG with 4:2:0 chroma, its default; WebP has no other.  Slow settings: the smallest files.
_JPEG = {"optimize": True, "progressive": True, "subsampling": "4:2:0"}
_WEBP = {"method": 6}
# AVIF in one thread: with several, its bytes depend on the machine's number of cores.
_AVIF = {"subsampling": "4:4:4", "speed": 4, "max_threads": 1}
CODECS: dict[str, Callable[[], Codec]] = {
    "jpeg": partial(pillow_codec, "jpeg", ".jpg", (5, 10, 15, 20, 30, 40, 60), "JPEG", "jpg", _JPEG),
    "webp": partial(pillow_codec, "webp", ".webp", (0, 5, 10, 20, 30, 50, 80), "WEBP", "webp", _WEBP),
    "avif": partial(pillow_codec, "avif", ".avif", (5, 10, 20, 30, 40, 50, 60), "AVIF", "avif", _AVIF),
    "jxl": _jxl,
    "jpeg2000": _jpeg2000,
    "heic": _heic,
}
