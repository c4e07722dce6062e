"""A picture in, a one-frame YUV4MPEG2 file out; and back: what video encoders read and their decoders write.

RGB <-> Y'CbCr is BT.709 (ITU-R BT.709-6, items 3.2 and 3.3) in 10 bits at narrow range, rounded to the
nearest. With 4:2:0, chroma is the mean of each 2x2 square and comes back by bilinear interpolation between
the centres of the squares, so a codec of that kind is not charged for a filter that shifts colours.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from sfumato.image import write_bytes

Picture = UInt8[np.ndarray, "h w 3"]

KR, KB = 0.2126, 0.0722
LUMA_LOW, LUMA_RANGE = 64, 876  # 10-bit code values
CHROMA_MID, CHROMA_RANGE = 512, 896
LIMIT = 1 << 26  # pixels


def write_y4m(path: Path, picture: Picture, subsampled: bool) -> None:
    """One frame, 10 bits, 4:2:0 if `subsampled`, else 4:4:4."""
    height, width = picture.shape[:2]
    rgb = picture.astype(np.float64) / 255
    luma = rgb @ np.array([KR, 1 - KR - KB, KB])
    blue, red = (rgb[..., 2] - luma) / (2 * (1 - KB)), (rgb[..., 0] - luma) / (2 * (1 - KR))
    if subsampled:
        blue, red = _halved(blue), _halved(red)
    planes = [_codes(luma, LUMA_LOW, LUMA_RANGE)]
    planes += [_codes(plane, CHROMA_MID, CHROMA_RANGE) for plane in (blue, red)]
    kind = "420p10" if subsampled else "444p10"
    header = f"YUV4MPEG2 W{width} H{height} F1:1 Ip A1:1 C{kind}\nFRAME\n".encode()
    write_bytes(path, header + b"".join(plane.astype("<u2").tobytes() for plane in planes))


def read_y4m(path: Path) -> Picture:
    """The first frame of a file of narrow range with 8 or 10 bits, 4:2:0 or 4:4:4.  ValueError for others."""
    data = path.read_bytes()
    header, _, rest = data.partition(b"\n")
    frame, _, samples = rest.partition(b"\n")
    fields = re.fullmatch(rb"YUV4MPEG2(?: [^ ]+)*", header)
    size = {tag: re.search(rb" " + tag + rb"(\d{1,6})(?: |$)", header) for tag in (b"W", b"H")}
    colour = re.search(rb" C(420(?:jpeg|mpeg2|paldv)?|444)(p10)?(?: |$)", header)
    if fields is None or not all(size.values()) or colour is None or not frame.startswith(b"FRAME"):
        raise ValueError(f"{path}: not a YUV4MPEG2 file of 8 or 10 bits, 4:2:0 or 4:4:4: {header[:80]!r}")
    if b" XCOLORRANGE=FULL" in header:
        raise ValueError(f"{path}: samples of full range are not read")
    width, height = (int(size[tag][1]) for tag in (b"W", b"H"))  # type: ignore[index]
    if not 0 < width * height <= LIMIT:
        raise ValueError(f"{path}: {width}x{height} pixels; from 1 to {LIMIT} can be read")
    subsampled, deep = colour[1] != b"444", colour[2] is not None
    c_height, c_width = (-(-height // 2), -(-width // 2)) if subsampled else (height, width)
    counts = (height * width, c_height * c_width, c_height * c_width)
    if len(samples) < sum(counts) * (2 if deep else 1):
        raise ValueError(
            f"{path}: {len(samples)} bytes of samples, {sum(counts) * (2 if deep else 1)} needed"
        )
    flat = np.frombuffer(samples, "<u2" if deep else np.uint8, sum(counts)).astype(np.float64)
    scale = 1 if deep else 4
    y, blue, red = np.split(flat * scale, np.cumsum(counts)[:2])
    luma = ((y - LUMA_LOW) / LUMA_RANGE).reshape(height, width)
    chroma = [((plane - CHROMA_MID) / CHROMA_RANGE).reshape(c_height, c_width) for plane in (blue, red)]
    if subsampled:
        chroma = [_doubled(plane)[:height, :width] for plane in chroma]
    b, r = luma + 2 * (1 - KB) * chroma[0], luma + 2 * (1 - KR) * chroma[1]
    g = (luma - KR * r - KB * b) / (1 - KR - KB)
    return np.rint(np.clip(np.stack([r, g, b], -1), 0, 1) * 255).astype(np.uint8)


def _codes(plane: Float[np.ndarray, "h w"], low: int, extent: int) -> np.ndarray:
    return np.clip(np.rint(plane * extent + low), 4, 1019)


def _halved(plane: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    even = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3))


def _doubled(plane: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h2 w2"]:
    picture = Image.fromarray(plane.astype(np.float32))
    size = (2 * plane.shape[1], 2 * plane.shape[0])
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float64)
