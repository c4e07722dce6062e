"""sfumato.colour by way of `load`: every mode becomes grey or RGB of 8 bits, and says so."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from sfumato.colour import bit_depth
from sfumato.image import ImageError, load
from tests.test_image import chunk, png, raw_png

RNG = np.random.default_rng(0)
DEEP = "16-bit samples were reduced to 8 bits"
SRGB, LAB = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")


def eight(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def saved(image: Image.Image, name: str, **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer


def tiff(values: np.ndarray, photometric: int, order: str, *, deflate: bool) -> io.BytesIO:
    """A TIFF of one strip, written by hand: Pillow writes no 16-bit colour."""
    height, width, channels = values.shape
    data = values.astype(order + "u2").tobytes()
    data = zlib.compress(data) if deflate else data
    head = 8 + 2 + 12 * 10 + 4
    bits = struct.pack(f"{order}4H", *[16] * 4)
    shorts = {259: 8 if deflate else 1, 262: photometric, 277: channels, 338: 2}
    longs = {256: width, 257: height, 273: head + len(bits), 278: height, 279: len(data)}
    if channels != 4 or photometric != 2:
        del shorts[338]
    entries = {258: struct.pack(f"{order}HHII", 258, 3, channels, head)}
    entries |= {tag: struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in shorts.items()}
    entries |= {tag: struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in longs.items()}
    parts = [b"II*\0" if order == "<" else b"MM\0*", struct.pack(f"{order}IH", 8, len(entries))]
    parts += [entry for _, entry in sorted(entries.items())]
    return io.BytesIO(b"".join(parts).ljust(head, b"\0") + bits + data)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_deep_png_is_rounded_to_the_nearest(kind: int, channels: int) -> None:
    values = RNG.integers(0, 65536, (5, 7, channels), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    photo = load(io.BytesIO(raw_png(7, 5, 16, kind, rows)))
    assert np.array_equal(np.atleast_3d(photo.array), eight(values))
    assert photo.warnings == (DEEP,)


@pytest.mark.parametrize("kind", [0, 2])
def test_deep_colour_keys_compare_all_bits(kind: int) -> None:
    values = RNG.integers(0, 65536, (5, 7, kind + 1), np.uint16)
    values[0, 0] = values[2, 3] ^ 1
    data = raw_png(7, 5, 16, kind, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    key = chunk(b"tRNS", values[2, 3].astype(">u2").tobytes())
    photo = load(io.BytesIO(data[:33] + key + data[33:]))
    assert photo.alpha is not None and np.argwhere(photo.alpha == 0).tolist() == [[2, 3]]
    assert np.array_equal(np.atleast_3d(photo.pixels), eight(values))


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("channels", "photometric"), [(3, 2), (4, 2), (4, 5)])
def test_deep_tiff_is_rounded_to_the_nearest(
    channels: int, photometric: int, order: str, deflate: bool
) -> None:
    values = RNG.integers(0, 65536, (5, 7, channels), np.uint16)
    photo = load(tiff(values, photometric, order, deflate=deflate))
    right = eight(values)
    if photometric == 5:
        right = np.asarray(Image.frombytes("CMYK", (7, 5), right.tobytes()).convert("RGB"))
        assert photo.warnings[1:] == ("CMYK was converted to RGB without a colour profile",)
    assert np.array_equal(photo.array, right) and photo.warnings[0] == DEEP


def test_deep_ppm() -> None:
    values = RNG.integers(0, 65536, (5, 7, 3), np.uint16)
    for name, data in (("P6", values), ("P5", values[..., 0])):
        photo = load(io.BytesIO(f"{name} 7 5 65535\n".encode() + data.astype(">u2").tobytes()))
        assert np.abs(photo.array.astype(int) - data / 257).max() <= 0.51 and photo.warnings == (DEEP,)


def test_integers_without_a_known_range_are_refused() -> None:
    values = np.array([[0, 65535], [300, 7]], np.int32)
    assert load(Image.fromarray(values)).pixels.tolist() == [[0, 255], [1, 0]]
    values[0, 0] = 65536
    with pytest.raises(ImageError, match="samples from 7 to 65536; the range of more than 16 bits"):
        load(saved(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("value", [0.5, 200.0, np.nan])
def test_floating_point_is_refused(value: float) -> None:
    image = Image.fromarray(np.full((3, 4), value, np.float32))
    with pytest.raises(ImageError, match="mode F: the range of floating-point samples is not known"):
        load(saved(image, "TIFF"))


def test_bits_that_pillow_hides_are_reported() -> None:
    assert bit_depth(b"....av1C\x81\x04\x4c\x00") == 10 and bit_depth(b"av1C\x81\x04\x6c\x00") == 12
    assert bit_depth(b"av1C\x81\x04\x0c\x00") == bit_depth(b"av1C\x81") == bit_depth(b"") == 8
    deep = Image.fromarray(RNG.integers(0, 65536, (8, 9)).astype(np.uint16))
    assert load(saved(deep, "JPEG2000")).warnings == (DEEP,)
    plain = Image.fromarray(RNG.integers(0, 256, (8, 9, 3), np.uint8))
    assert load(saved(plain, "JPEG2000")).warnings == load(saved(plain, "AVIF")).warnings == ()
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs writes the 10-bit AVIF")
    data = imagecodecs.avif_encode(RNG.integers(0, 1024, (16, 16, 3), np.uint16), bitspersample=10)
    assert load(io.BytesIO(data)).warnings == ("10-bit samples were reduced to 8 bits",)


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(name: str) -> None:
    rgb = Image.new("RGB", (16, 16), (200, 100, 50))
    photo = load(saved(rgb.convert("CMYK"), name))
    assert np.abs(photo.pixels.astype(int) - (200, 100, 50)).max() <= 3
    assert photo.warnings == ("CMYK was converted to RGB without a colour profile",)
    broken = load(saved(rgb.convert("CMYK"), name, icc_profile=b"no profile"))
    assert broken.icc is None and broken.warnings == photo.warnings


def cmyk_profile() -> bytes:
    """A press whose cyan prints as the grey of L* = 50, black as black, others as nothing (lut8, ICC.1)."""
    levels = bytes(range(256))
    colours = [(0 if k else 128 if c else 255, 128, 128) for c in (0, 1) for _ in range(4) for k in (0, 1)]
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    lut = b"mft1\0\0\0\0\4\3\2\0" + matrix + levels * 4 + bytes(np.array(colours, np.uint8)) + levels * 3
    head = bytearray(128)
    head[8:12], head[12:24] = b"\x02\x10\0\0", b"prtrCMYKLab "
    head[36:40], head[68:80] = b"acsp", struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    data = bytes(head) + struct.pack(">I", 1) + b"A2B0" + struct.pack(">II", 144, len(lut)) + lut
    return struct.pack(">I", len(data)) + data[4:]


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(name: str) -> None:
    levels = {(0, 0, 0, 0): 255, (255, 0, 0, 0): 119, (0, 0, 0, 255): 0, (0, 255, 255, 0): 255}
    for ink, level in levels.items():
        page = Image.new("CMYK", (16, 16), ink)
        photo = load(saved(page, name, icc_profile=cmyk_profile()))
        assert np.abs(photo.pixels.astype(int) - level).max() <= 2, ink
        assert photo.warnings == ("CMYK was converted to sRGB through its ICC profile",)
        assert photo.icc is None


def test_lab_becomes_srgb() -> None:
    rgb = Image.fromarray(RNG.integers(60, 200, (8, 9, 3), np.uint8))
    lab = ImageCms.profileToProfile(rgb, SRGB, LAB, outputMode="LAB")
    assert lab is not None
    photo = load(saved(lab, "TIFF"))
    assert np.abs(photo.pixels.astype(int) - np.asarray(rgb)).max() <= 8, "a step of a* is up to 4 levels"
    assert photo.warnings == ("LAB was converted to sRGB",)


def grey_profile(gamma: float) -> bytes:
    """A grey profile of ICC version 2 with a gamma: header, white point, curve (ICC.1:2001-04)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    table = struct.pack(">I", 2)
    table += b"wtpt" + struct.pack(">II", 156, len(white)) + b"kTRC" + struct.pack(">II", 176, len(curve))
    head = bytearray(128)
    head[8:12], head[12:24] = b"\x02\x10\0\0", b"mntrGRAYXYZ "
    head[36:40], head[68:80] = b"acsp", struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    data = bytes(head) + table + white + curve
    return struct.pack(">I", len(data)) + data[4:]


def test_grey_with_a_profile_is_converted() -> None:
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    photo = load(io.BytesIO(png(levels, icc_profile=grey_profile(1.0))))
    assert photo.warnings == ("grey was converted to sRGB through its ICC profile",) and photo.icc is None
    light = np.arange(256) / 255  # gamma 1: sRGB's own curve is what remains (IEC 61966-2-1)
    right = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert photo.pixels.shape == (1, 256) and np.abs(photo.pixels[0] - right).max() <= 1.5
    with_alpha = levels.convert("LA")
    with_alpha.putalpha(levels)
    assert np.array_equal(
        load(io.BytesIO(png(with_alpha, icc_profile=grey_profile(1.0)))).array,
        np.dstack([photo.pixels, np.asarray(levels)]),
    )


def test_profiles_of_rgb_stay_and_others_go() -> None:
    rgb, icc = Image.new("RGB", (4, 4), "red"), ImageCms.ImageCmsProfile(SRGB).tobytes()
    assert load(io.BytesIO(png(rgb, icc_profile=icc))).icc is None, "sRGB is taken for granted"
    swapped = icc.replace(b"rXYZ", b"....", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"....", b"gXYZ", 1)
    assert load(io.BytesIO(png(rgb, icc_profile=swapped))).icc == swapped
    for image, profile in ((rgb, grey_profile(1.0)), (rgb.convert("L"), icc), (rgb, b"no profile")):
        photo = load(io.BytesIO(png(image, icc_profile=profile)))
        assert photo.icc is None and "does not fit" in photo.warnings[0]
