"""A Pillow image of any mode in; grey or RGB with 8 bits a sample out, and what was changed in words."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

from sfumato.errors import ImageError
from sfumato.profiles import Space

if TYPE_CHECKING:
    from jaxtyping import UInt8

CONVERTED = "colours were converted to sRGB"


def raw_mode(image: Image.Image) -> tuple[str, int]:
    """(Pillow's raw mode, the largest value of a sample) of a file that is not yet decoded."""
    for tile in getattr(image, "tile", ()):
        args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if image.format == "PPM" and len(args) == 2 and isinstance(args[1], int):
            return "", args[1]
        if args and isinstance(args[0], str):
            deep = re.search(r";(12|16)", args[0])
            return args[0], (1 << int(deep[1])) - 1 if deep else 65535 if image.mode[0] == "I" else 255
    return "", 65535 if image.mode[0] == "I" else 255


def bit_depth(head: bytes) -> int:
    """Bits a sample of an AVIF (AV1-ISOBMFF, section 2.3.3) or JPEG 2000 (ISO 15444-1, A.5.1), read as 8."""
    if (at := head.find(b"av1C")) >= 0 and len(head) > at + 6:
        return {0x40: 10, 0x60: 12}.get(head[at + 6] & 0x60, 8)
    if (at := head.find(b"\xff\x4f\xff\x51")) >= 0 and len(head) > at + 42:
        return (head[at + 42] & 127) + 1
    return 8


def to_uint8(
    image: Image.Image,
    name: str,
    raw: str,
    top: int,
    again: Callable[[str], np.ndarray] | None,
    space: Space | None = None,
) -> tuple[Image.Image, bool]:
    """(the decoded image with samples of 8 bits, whether they have sRGB's curve in place of that of
    `space`).

    Rounded to the nearest where all bits can be had.
    """
    mode, key = image.mode, image.info.get("transparency")
    deep = re.fullmatch(r"(LA|RGB|RGBA|RGBX|CMYK);16([BLN])", raw)
    if mode[0] == "I":
        values = np.asarray(image)[..., None]
        low, high = values.min(), values.max()
        if low < 0 or high > 65535:
            message = f"samples from {low} to {high}; the range of more than 16 bits is not known"
            raise ImageError(f"{name}: {message}")
        top = 4095 if raw.endswith(";12") else 65535
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
            values = top - np.minimum(values, top)  # white is zero: Pillow inverts no more than 8 bits
    elif deep and again is not None:
        if deep[1] == "LA":
            values = again("RGBA").view(">u2")
        else:  # the raw mode of the other byte order takes the low byte for the high one
            other = "L" if deep[2] == "B" or (deep[2] == "N" and sys.byteorder == "big") else "B"
            values = np.asarray(image).astype(np.uint16) << 8 | again(f"{deep[1]};16{other}")
    else:
        return image, False
    bytes8 = ((values.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
    if mode == "CMYK":
        return Image.frombytes(mode, image.size, bytes8.tobytes()), False
    table = None if space is None else space.to_srgb(top + 1)
    if table is not None:
        colours = values.shape[2] - (values.shape[2] in (2, 4))
        bytes8[..., :colours] = table[np.minimum(values[..., :colours], top)]
    if key is not None and values.shape[2] in (1, 3):
        bytes8 = np.dstack([bytes8, np.where((values == key).all(2), 0, 255).astype(np.uint8)])
    return Image.fromarray(bytes8[..., 0] if bytes8.shape[2] == 1 else bytes8), table is not None


def from_described_space(
    image: Image.Image, space: Space, curved: bool
) -> tuple[Image.Image, str, bytes | None]:
    """(grey or RGB with sRGB's curve, what was done in words, a profile of its primaries or None)."""
    table = None if curved else space.to_srgb(256)
    if table is not None:
        same = list(range(256)) if image.mode in ("LA", "RGBA") else []
        colours = len(image.getbands()) - bool(same)
        image = image.point(table.tolist() * colours + same)
    icc = space.icc() if image.mode[0] == "R" else None
    done = "now have an ICC profile" if icc else "were converted to sRGB"
    return image, f"colours described by {space.words} {done}", icc


def srgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, list[str], bytes | None]:
    """(grey, grey with alpha, RGB or RGBA; warnings; the profile that still holds)."""
    mode, space = image.mode, (icc or b"")[16:20]
    if mode in ("CMYK", "LAB"):
        try:
            lab = ImageCms.createProfile("LAB") if mode == "LAB" else None
            source = lab or ImageCms.ImageCmsProfile(io.BytesIO(icc or b""))
            image = _through(image, source)
        except (ImageCms.PyCMSError, OSError):
            return image.convert("RGB"), [f"{mode} was converted to RGB without a colour profile"], None
        return image, [f"{mode} was converted to sRGB{'' if lab else ' through its ICC profile'}"], None
    if image.has_transparency_data:
        image = image.convert("LA" if mode in ("L", "LA") else "RGBA")
    elif mode != "L":
        image = image.convert("L" if mode == "1" else "RGB")
    if icc is None or (space == b"RGB " and image.mode[0] == "R"):
        return image, [], icc
    note = f"a colour profile that does not fit {image.mode} was left out"
    if space == b"GRAY" and image.mode[0] == "L":
        try:
            ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            curve = np.asarray(_through(ramp, profile, ImageCms.Flags.NOOPTIMIZE))[0, :, 1]
        except (ImageCms.PyCMSError, OSError):
            return image, [note], None
        if np.abs(curve.astype(int) - np.arange(256)).max() <= 1:
            return image, [], None
        same = list(range(256)) if image.mode == "LA" else []
        note = "grey was converted to sRGB through its ICC profile"
        return image.point([*curve.tolist(), *same]), [note], None
    return image, [note], None


def apply_icc(pixels: UInt8[np.ndarray, "h w 3"], icc: bytes) -> tuple[UInt8[np.ndarray, "h w 3"], str]:
    """(RGB pixels converted to sRGB, what was done in words); unchanged where the profile is of no use."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return np.array(_through(Image.fromarray(pixels), profile)), CONVERTED
    except (ImageCms.PyCMSError, OSError):
        return pixels, "a damaged colour profile was left out"


@lru_cache(maxsize=16)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile of RGB says sRGB: it moves no colour of a grid by more than one level."""
    level = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(level, level, level), -1).reshape(-1, 18, 3)
    converted, note = apply_icc(grid, icc)
    return note == CONVERTED and int(np.abs(converted.astype(int) - grid).max()) <= 1


def _through(
    image: Image.Image, profile: Any, flags: ImageCms.Flags = ImageCms.Flags.HIGHRESPRECALC
) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    made = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB", flags=flags)
    assert made is not None  # only when asked to work in place
    return made
