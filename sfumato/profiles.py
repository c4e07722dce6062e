"""Colour that a file describes without an ICC profile in; the curve to sRGB's and a profile of our making
out.

    PNG           cICP, or gAMA and cHRM where there is no sRGB (PNG third edition, section 11.3.2)
    AVIF, HEIC    the box colr, type nclx (ISO 14496-12, 12.1.5)
    JPEG 2000     the box colr with an ICC profile (ISO 15444-1, I.5.3.3)
    JPEG, TIFF    EXIF's Adobe RGB (DCF 2.0, 4.5); primaries, white point and, in a TIFF, transfer function
    BMP           the header's end points and gamma, or its profile (BITMAPV4HEADER, BITMAPV5HEADER)
    QOI           linear samples

Code points are those of ITU-T H.273.  Samples get sRGB's curve with all the bits that they have, and
primaries that are not sRGB's go into a matrix profile, so no colour is lost.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from sfumato.errors import ImageError
from sfumato.tiles import METADATA_MAX

Chromaticities = tuple[tuple[float, float], ...]
"""x and y of red, green, blue and white (CIE 1931)."""

D65 = (0.3127, 0.3290)
SRGB: Chromaticities = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), D65)
ADOBE_RGB: Chromaticities = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060), D65)
PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), (0.310, 0.316)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), D65),
}
UNSPECIFIED = 2
HDR = {16: "PQ (HDR)", 18: "HLG (HDR)"}
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Curve = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Space:
    """What samples mean: how they become linear light (None: as in sRGB), of which primaries; and in
    words.
    """

    primaries: Chromaticities
    to_linear: Curve | None
    words: str

    def to_srgb(self, levels: int) -> np.ndarray | None:
        """uint8 [levels]: each level of a sample with sRGB's curve, in 8 bits; None if it has that
        already.
        """
        if self.to_linear is None:
            return None
        light = np.clip(self.to_linear(np.linspace(0, 1, levels)), 0, 1)
        low, high = 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
        return np.round(255 * np.where(light <= 0.0031308, low, high)).astype(np.uint8)

    def icc(self) -> bytes | None:
        """A profile of these primaries with sRGB's curve; None if they are sRGB's.  ImageError for
        nonsense.
        """
        if np.abs(np.array(self.primaries) - np.array(SRGB)).max() < 0.0015:
            return None
        return matrix_profile(self.primaries, f"sfumato: {self.words}")


def of_file(file: IO[bytes], kind: str | None, name: str) -> tuple[Space | None, bytes | None]:
    """(what a file says of its colour beside a profile that Pillow finds, or None; a profile that it does
    not).

    ImageError for high dynamic range, and for code points that nobody has defined.
    """
    start = file.tell()
    try:
        if kind == "PNG":
            return _png(file, name), None
        if kind in ("AVIF", "HEIF"):
            return _nclx(file, name), None
        if kind == "JPEG2000":
            return None, _jp2(file)
        if kind == "BMP":
            return _bmp(file, name)
        if kind == "QOI" and file.read(14)[13:] == b"\1":
            return Space(SRGB, _power(1.0), "QOI's mark of linear samples"), None
        return None, None
    finally:
        file.seek(start)


def of_exif(exif: Any, kind: str | None) -> Space | None:
    """Adobe RGB as cameras mark it; primaries, white point and curve in the tags of a TIFF or a JPEG."""
    inner = exif.get_ifd(0x8769)
    colour, index = inner.get(0xA001), exif.get_ifd(0xA005).get(1)
    if colour == 2 or (colour == 0xFFFF and str(index).startswith("R03")):
        return Space(ADOBE_RGB, _power(2.19921875), "Adobe RGB, by its EXIF")
    points, white = (exif.get(tag) or () for tag in (319, 318))
    table = np.array(exif.get(301) or (), np.float64) if kind == "TIFF" else np.empty(0)
    if colour == 1 or not (len(points) == 6 or len(white) == 2 or table.size >= 256):
        return None
    given = [*map(float, points)] if len(points) == 6 else [v for point in SRGB[:3] for v in point]
    given += map(float, white) if len(white) == 2 else D65
    primaries = tuple((given[i], given[i + 1]) for i in (0, 2, 4, 6))
    curve: Curve | None = None
    if table.size >= 256:
        size = table.size // 3 if table.size % 3 == 0 else table.size
        if (np.abs(table.reshape(-1, size) - table[:size]).max(1) > 0.01 * 65535).any():
            raise ImageError("its transfer function has another curve for each channel, which is not read")
        curve = lambda v: np.asarray(np.interp(v, np.linspace(0, 1, size), table[:size] / 65535))  # noqa: E731
    space = Space(primaries, curve, "tags of its TIFF header")
    levels = space.to_srgb(256)
    same = levels is None or np.abs(levels.astype(int) - np.arange(256)).max() <= 2
    return None if same and space.icc() is None else replace(space, to_linear=None if same else curve)


def cicp(primaries: int, transfer: int, name: str, full_range: bool = True) -> Space | None:
    """The space of two code points of H.273; None for what is sRGB or unspecified.  ImageError for others."""
    words = f"CICP primaries {primaries}, transfer {transfer}"
    if transfer in HDR:
        raise ImageError(f"{name}: {HDR[transfer]} samples ({words}); only standard dynamic range is read")
    curves: dict[int, Curve | None] = {0: None, 2: None, 3: None, 13: None, 4: _power(2.2), 5: _power(2.8)}
    curves |= {8: _power(1.0), 7: _smpte240, **dict.fromkeys((1, 6, 11, 12, 14, 15), _bt709)}
    known = primaries in PRIMARIES or primaries in (0, UNSPECIFIED, 3)
    if transfer not in curves or not known:
        raise ImageError(f"{name}: colours of {words}, which are not read; convert it to sRGB first")
    curve = curves[transfer]
    if not full_range:
        inner = curve or _srgb
        curve = lambda v: inner(np.clip((255 * v - 16) / 219, 0, 1))  # noqa: E731
    points = PRIMARIES.get(primaries, SRGB)
    return None if curve is None and points == SRGB else Space(points, curve, words)


def _power(gamma: float) -> Curve:
    return lambda v: v**gamma


def _srgb(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def _bt709(v: np.ndarray) -> np.ndarray:
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))


def _smpte240(v: np.ndarray) -> np.ndarray:
    return np.where(v < 0.0913, v / 4, ((v + 0.1115) / 1.1115) ** (1 / 0.45))


def _png(file: IO[bytes], name: str) -> Space | None:
    found = dict(_chunks(file))
    if len(code := found.get(b"cICP", b"")) == 4:
        return cicp(code[0], code[1], name, bool(code[3]))
    if b"iCCP" in found or b"sRGB" in found:
        return None
    gamma, points, words = 0.45455, SRGB, []
    if len(data := found.get(b"gAMA", b"")) == 4 and (raw := int.from_bytes(data, "big")):
        gamma = raw / 100_000
        words.append(f"gAMA {gamma:g}")
    if len(data := found.get(b"cHRM", b"")) == 32:
        white, *rest = (tuple(v / 100_000 for v in pair) for pair in struct.iter_unpack(">II", data))
        points = (*rest, white)
        words.append("cHRM")
    near = np.abs(np.array(points) - np.array(SRGB)).max() < 0.0015
    usual = abs(gamma - 0.45455) < 0.005  # what writers of sRGB put there, with sRGB's primaries
    if near and usual:
        return None
    has_gamma = b"gAMA" in found and not usual
    curve = _power(1 / gamma) if has_gamma else _power(2.2) if b"gAMA" in found else None
    return Space(SRGB if near else points, curve, " and ".join(words))


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG before its pixels, those of less than 64 bytes with their bytes."""
    file.seek(8, 1)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        size = int.from_bytes(head[:4], "big")
        yield head[4:], file.read(size) if size <= 64 else b""
        file.seek(4 if size <= 64 else size + 4, 1)


def boxes(file: IO[bytes], end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, first byte, end) of the boxes from here to `end` (ISO 14496-12, 4.2)."""
    at = file.tell()
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        first = at + 8
        if size == 1:
            size, first = int.from_bytes(file.read(8), "big"), at + 16
        last = end if size == 0 else at + size
        if last <= at or last > end:
            return
        yield kind, first, last
        at = last


def _inside(file: IO[bytes], path: tuple[bytes, ...]) -> Iterator[bytes]:
    """The contents, up to 4 MiB, of all boxes at this path from here on."""

    def walk(end: int, path: tuple[bytes, ...]) -> Iterator[bytes]:
        for kind, first, last in list(boxes(file, end)):
            if kind != path[0]:
                continue
            file.seek(first + (4 if kind == b"meta" else 0))  # meta has a version and flags
            if len(path) > 1:
                yield from walk(last, path[1:])
            else:
                yield file.read(min(last - first, 1 << 22))

    at = file.tell()
    end = file.seek(0, 2)
    file.seek(at)
    with contextlib.suppress(struct.error):
        yield from walk(end, path)


def meta_box(file: IO[bytes]) -> bytes:
    """The box meta of an AVIF or HEIC, up to 4 MiB; empty if there is none."""
    start = file.tell()
    try:
        return next(_inside(file, (b"meta",)), b"")
    finally:
        file.seek(start)


def _nclx(file: IO[bytes], name: str) -> Space | None:
    codes: list[tuple[int, int]] = []
    for data in _inside(file, (b"meta", b"iprp", b"ipco", b"colr")):
        if data[:4] in (b"prof", b"rICC"):
            return None  # a profile says more, and Pillow has found it
        if data[:4] == b"nclx" and len(data) >= 10:
            codes.append((int.from_bytes(data[4:6], "big"), int.from_bytes(data[6:8], "big")))
    return cicp(*codes[0], name) if codes else None


def _bmp(file: IO[bytes], name: str) -> tuple[Space | None, bytes | None]:
    head = file.read(14 + 124)
    size = int.from_bytes(head[14:18], "little")
    if size < 108 or len(head) < 14 + min(size, 124):
        return None, None
    kind = head[70:74][::-1]
    if kind == b"MBED" and size >= 124:
        at, length = struct.unpack_from("<II", head, 14 + 112)
        file.seek(14 + at)
        return None, file.read(min(length, METADATA_MAX)) or None
    if kind != bytes(4) or not any(head[74:122]):  # sRGB, the system's, or nothing filled in
        return None, None
    points = np.array(struct.unpack_from("<9i", head, 74), np.float64).reshape(3, 3) / 2**30
    sums = points.sum(1)
    if not points.any():
        primaries = SRGB
    elif (sums <= 0).any():
        raise ImageError(f"{name}: the end points of its BMP header span no colours")
    else:  # XYZ, of which white is the sum, or chromaticities
        white = points.sum(0)
        x, y = D65 if np.abs(sums - 1).max() < 0.01 else (white[:2] / white.sum()).tolist()
        primaries = (*((point[:2] / point.sum()).tolist() for point in points), (x, y))
    gammas = np.array(struct.unpack_from("<3I", head, 110)) / 65536
    gamma = float(gammas.mean())
    if gamma and np.abs(gammas - gamma).max() > 0.01 * gamma:
        raise ImageError(f"{name}: its BMP header has another gamma for each channel, which is not read")
    curve = _power(gamma) if gamma and abs(gamma - 2.2) > 0.025 else None
    space = Space(primaries, curve, "end points and gamma of its BMP header")
    return (None if curve is None and space.icc() is None else space), None


def _jp2(file: IO[bytes]) -> bytes | None:
    for data in _inside(file, (b"jp2h", b"colr")):
        if data[:1] == b"\x02" and data[19:23] == b"RGB ":
            return data[3:]
    return None


def matrix_profile(primaries: Chromaticities, words: str) -> bytes:
    """An ICC profile, version 4, of these primaries with sRGB's curve (ICC.1:2022, 8.3.3)."""
    try:
        xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        to_xyz = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
        cone = (BRADFORD @ D50) / (BRADFORD @ xyz[:, 3])
    except (ZeroDivisionError, np.linalg.LinAlgError) as error:
        raise ImageError(f"colours of {words}: {primaries} span no colours") from error
    adapt = np.linalg.inv(BRADFORD) @ np.diag(cone) @ BRADFORD
    columns = adapt @ to_xyz
    if not np.isfinite(columns).all() or np.abs(columns).max() > 100:
        raise ImageError(f"colours of {words}: {primaries} span no colours")
    curve = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {b"desc": _text(words), b"cprt": _text("No copyright"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(*D50)}
    tags[b"chad"] = b"sf32\0\0\0\0" + _fixed(*adapt.flatten())
    for i, letter in enumerate(b"rgb"):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(*columns[:, i])
        tags[bytes([letter]) + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = bytearray(128)
    head[8:12], head[12:24], head[24:36] = (
        b"\4\x40\0\0",
        b"mntrRGB XYZ ",
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0),
    )
    head[36:40], head[68:80] = b"acsp", _fixed(*D50)
    head[:4] = struct.pack(">I", 128 + len(table) + len(body))
    return bytes(head) + table + body


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(65536 * float(v)) for v in values))


def _text(words: str) -> bytes:
    data = words.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data
