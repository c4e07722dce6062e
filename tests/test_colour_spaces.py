"""Colour that is described without an ICC profile is converted, carried or refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import sfumato
from sfumato import image, profiles
from sfumato.image import ImageData, ImageError, load, write
from tests.conftest import Call
from tests.test_image import chunk, png, raw_png

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 180, 20), (128, 128, 128), (90, 30, 160)]
PATCHES = np.repeat(np.repeat(np.array(COLOURS, np.uint8).reshape(2, 3, 3), 64, 0), 64, 1)
P3 = profiles.PRIMARIES[12]


def marked(chunks: list[tuple[bytes, bytes]], pixels: np.ndarray = PATCHES) -> io.BytesIO:
    data = png(Image.fromarray(pixels))
    return io.BytesIO(data[:33] + b"".join(chunk(*item) for item in chunks) + data[33:])


def reference(pixels: np.ndarray, primaries: profiles.Chromaticities, gamma: float | None) -> np.ndarray:
    """sRGB of colours, by the textbook: to light, to XYZ, to sRGB's light and curve; clipped to its gamut."""

    def to_xyz(points: profiles.Chromaticities) -> np.ndarray:
        xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in points]).T
        return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])

    v = pixels / 255
    light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4) if gamma is None else v**gamma
    light = np.clip(light @ (np.linalg.inv(to_xyz(profiles.SRGB)) @ to_xyz(primaries)).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


CHRM = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "gamma"),
    [
        ([(b"cICP", bytes([12, 13, 0, 1]))], None),
        ([(b"cICP", bytes([12, 4, 0, 1]))], 2.2),
        ([(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", CHRM)], 2.2),
        ([(b"cHRM", CHRM)], None),
    ],
)
def test_p3_without_a_profile_is_p3(chunks: list[tuple[bytes, bytes]], gamma: float | None) -> None:
    photo = load(marked(chunks))
    assert photo.icc is not None and "now have an ICC profile" in photo.warnings[0]
    shown = image.in_srgb(photo).pixels.astype(float)
    assert np.abs(shown - reference(PATCHES, P3, gamma)).max() <= 3
    back = sfumato.decode(sfumato.encode(photo, q=1.0)).astype(float)
    inside = np.s_[16:48, 16:48]
    assert np.abs(back[inside] - reference(PATCHES, P3, gamma)[inside]).mean() < 8


def test_the_same_in_avif() -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs writes AVIF with code points")
    options = {"level": 100, "matrix": 6, "pixelformat": "444"}
    data = imagecodecs.avif_encode(PATCHES, primaries=12, transfer=13, **options)
    shown = image.in_srgb(load(io.BytesIO(data))).pixels.astype(float)
    assert np.abs(shown - reference(PATCHES, P3, None)).mean() < 4
    assert load(io.BytesIO(imagecodecs.avif_encode(PATCHES, primaries=1, transfer=13, **options))).icc is None
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        data = imagecodecs.avif_encode(PATCHES, primaries=9, transfer=transfer, **options)
        with pytest.raises(
            ImageError, match=rf"{name} \(HDR\) samples \(CICP primaries 9, transfer {transfer}\)"
        ):
            load(io.BytesIO(data))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("how", ["cICP", "gAMA"])
def test_linear_samples_get_srgb_s_curve_with_all_their_bits(how: str, depth: int) -> None:
    """They came out much too dark; of 16 bits no step of sRGB may be lost in the shadows."""
    levels = np.arange(256)
    light = np.where(levels <= 10, levels / 255 / 12.92, ((levels / 255 + 0.055) / 1.055) ** 2.4)
    grey = np.round(light * (2**depth - 1)).astype(np.uint16 if depth == 16 else np.uint8)
    rows = b"\0" + np.repeat(grey[:, None], 3, 1).astype(f">u{depth // 8}").tobytes()
    body = bytes([1, 8, 0, 1]) if how == "cICP" else struct.pack(">I", 100_000)
    data = raw_png(256, 1, depth, 2, rows)
    photo = load(io.BytesIO(data[:33] + chunk(how.encode(), body) + data[33:]))
    assert photo.icc is None and "were converted to sRGB" in photo.warnings[-1]
    error = np.abs(photo.pixels[0, :, 0].astype(int) - levels)
    assert error.max() <= (0 if depth == 16 else 13) and error[128:].max() <= 1


def test_what_writers_of_srgb_put_there_is_srgb() -> None:
    srgb = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    for chunks in (
        [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", srgb)],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
        [(b"cICP", bytes([1, 13, 0, 1])), (b"cHRM", CHRM)],
    ):
        photo = load(marked(chunks))
        assert photo.icc is None and photo.warnings == () and np.array_equal(photo.pixels, PATCHES)


def test_narrow_range_is_stretched() -> None:
    video = np.round(16 + PATCHES * (219 / 255)).astype(np.uint8)
    photo = load(marked([(b"cICP", bytes([1, 13, 0, 0]))], video))
    assert np.abs(photo.pixels.astype(int) - PATCHES).max() <= 1


def test_high_dynamic_range_and_unknown_code_points_are_refused() -> None:
    for code, message in (((9, 16, 0, 1), "PQ"), ((9, 18, 0, 1), "HLG"), ((77, 13, 0, 1), "primaries 77")):
        with pytest.raises(ImageError, match=message):
            load(marked([(b"cICP", bytes(code))]))
    with pytest.raises(ImageError, match="span no colours"):
        load(marked([(b"cHRM", struct.pack(">8I", *[31270, 32900] * 4))]))


def test_adobe_rgb_as_cameras_mark_it() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0xA001] = 2
    buffer = io.BytesIO()
    Image.fromarray(PATCHES).save(buffer, "JPEG", quality=100, subsampling=0, exif=exif)
    photo = load(buffer)
    assert "Adobe RGB" in photo.warnings[-1]
    right = reference(PATCHES, profiles.ADOBE_RGB, 2.19921875)
    assert np.abs(image.in_srgb(photo).pixels - right).mean() < 3


def test_decode_gives_srgb_and_the_own_space_on_demand() -> None:
    photo = load(marked([(b"cICP", bytes([12, 13, 0, 1]))]))
    data = sfumato.encode(photo, q=0.8)
    own = sfumato.decode(data, keep_profile=True)
    assert np.array_equal(own, sfumato.decode_image(data).pixels)
    converted = sfumato.decode(data)
    assert np.abs(converted.astype(int) - own).max() > 15
    profile = sfumato.decode_image(data).icc
    assert profile is not None
    right = ImageCms.profileToProfile(
        Image.fromarray(own),
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    assert np.abs(converted.astype(int) - np.asarray(right)).max() <= 2


def test_formats_without_profiles_are_converted_on_output(tmp_path: Path) -> None:
    photo = load(marked([(b"cICP", bytes([12, 13, 0, 1]))]))
    for suffix in (".bmp", ".ppm"):
        notes = write(tmp_path / f"a{suffix}", photo)
        assert "colours were converted to sRGB" in notes
        back = load(tmp_path / f"a{suffix}")
        assert np.abs(back.pixels - reference(PATCHES, P3, None)).max() <= 3


def test_nearly_grey_images_stay_grey() -> None:
    """One pixel off by one made chroma of up to 20 at q = 0.3."""
    row, column = np.mgrid[0:128, 0:128]
    grey = ((np.sin(row / 9) + np.cos(column / 13)) * 60 + 128).astype(np.uint8)
    rgb = np.repeat(grey[:, :, None], 3, 2)
    rgb[3, 5, 0] += 1
    rgb[90:, 90:, 2] += 2
    icc = profiles.matrix_profile(P3, "P3")
    for source in (rgb, ImageData(rgb, icc=icc)):
        data = sfumato.encode(source, q=0.3)
        assert sfumato.decode(data).ndim == 2
    rgb[3, 5, 0] += 20  # that is colour
    assert sfumato.decode(sfumato.encode(rgb, q=0.3)).ndim == 3


def test_strip_on_decode(tmp_path: Path, call: Callable[..., Call]) -> None:
    """The reader too can leave out what came with an image."""
    photo = load(marked([(b"cICP", bytes([12, 13, 0, 1]))]))
    (tmp_path / "a.sfu").write_bytes(
        sfumato.encode(ImageData(photo.pixels, icc=photo.icc, xmp=b"<x/>"), q=0.8)
    )
    assert call("decode", tmp_path / "a.sfu", "-o", tmp_path / "a.png", "--strip").returncode == 0
    back = load(tmp_path / "a.png")
    assert back.icc is back.xmp is None
    assert np.abs(back.pixels[16:48, 16:48] - reference(PATCHES, P3, None)[16:48, 16:48]).mean() < 12


def bmp(
    size: int, kind: bytes, ends: tuple[float, ...] = (), gamma: float = 0, icc: bytes = b""
) -> io.BytesIO:
    """The patches as a BMP with a header of version 4 (108 bytes) or 5 (124)."""
    rows = PATCHES[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", size, 192, 128, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    head += bytes(16) + kind + struct.pack("<9i", *(round(v * 2**30) for v in ends or [0] * 9))
    head += struct.pack("<3I", *[round(gamma * 65536)] * 3)
    if size == 124:
        head += struct.pack("<IIII", 4, size + len(rows), len(icc), 0)
    start = struct.pack("<2sIHHI", b"BM", 14 + size + len(rows) + len(icc), 0, 0, 14 + size)
    return io.BytesIO(start + head + rows + icc)


P3_ENDS = tuple(v for x, y in P3[:3] for v in (x, y, 1 - x - y))


def p3_xyz() -> tuple[float, ...]:
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in P3]).T
    return tuple((xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])).T.flatten())


@pytest.mark.parametrize(
    ("source", "gamma"),
    [
        (bmp(108, bytes(4), P3_ENDS, 2.2), None),
        (bmp(124, bytes(4), P3_ENDS, 1.8), 1.8),
        (bmp(108, bytes(4), p3_xyz(), 0), None),
        (bmp(124, b"DEBM", icc=profiles.matrix_profile(P3, "P3")), None),
    ],
)
def test_what_a_bmp_says_of_its_colour(source: io.BytesIO, gamma: float | None) -> None:
    photo = load(source)
    assert photo.icc is not None
    shown = image.in_srgb(photo).pixels.astype(float)
    assert np.abs(shown - reference(PATCHES, P3, gamma)).max() <= 3


@pytest.mark.parametrize("kind", [b"BGRs", b" niW", bytes(4), b"KNIL"])
def test_a_bmp_that_says_srgb_or_nothing_stays(kind: bytes) -> None:
    for size in (108, 124):
        photo = load(bmp(size, kind))
        assert photo.icc is None and not photo.warnings and np.array_equal(photo.pixels, PATCHES)


def test_nonsense_in_a_bmp_is_refused() -> None:
    with pytest.raises(ImageError, match="span no colours"):
        load(bmp(108, bytes(4), (-0.5, 0.1, 0.1) * 3))


def tiff(tags: dict[int, tuple[float, ...]], kinds: dict[int, int]) -> io.BytesIO:
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, values in tags.items():
        directory.tagtype[tag] = kinds[tag]
        directory[tag] = values
    buffer = io.BytesIO()
    Image.fromarray(PATCHES).save(buffer, "TIFF", tiffinfo=directory)
    return io.BytesIO(buffer.getvalue())


POINTS = tuple(v for point in P3[:3] for v in point)
RATIONAL, SHORT = 5, 3


def test_primaries_white_point_and_curve_of_a_tiff() -> None:
    ramp = np.round(65535 * np.linspace(0, 1, 256) ** 1.8).astype(int)
    for tags, primaries, gamma in (
        ({319: POINTS, 318: P3[3]}, P3, None),
        ({319: POINTS}, P3, None),
        ({318: (0.3457, 0.3585)}, (*profiles.SRGB[:3], (0.3457, 0.3585)), None),
        ({301: tuple(ramp)}, profiles.SRGB, 1.8),
        ({301: tuple(ramp) * 3, 319: POINTS}, P3, 1.8),
    ):
        photo = load(tiff(tags, {319: RATIONAL, 318: RATIONAL, 301: SHORT}))
        assert any("tags of its TIFF header" in warning for warning in photo.warnings), tags.keys()
        shown = image.in_srgb(photo).pixels.astype(float)
        if primaries[3] == P3[3]:
            assert np.abs(shown - reference(PATCHES, primaries, gamma)).max() <= 3, tags.keys()
        else:  # a white that is not D65 is adapted: white stays white
            assert np.ptp(shown[64:128, 64:128]) <= 2


def test_tags_that_say_srgb_change_nothing_and_three_curves_are_refused() -> None:
    points = tuple(v for point in profiles.SRGB[:3] for v in point)
    ramp = np.linspace(0, 1, 256)
    curve = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    table = tuple(np.round(65535 * curve).astype(int))
    kinds = {319: RATIONAL, 318: RATIONAL, 301: SHORT}
    photo = load(tiff({319: points, 318: profiles.D65, 301: table}, kinds))
    assert photo.icc is None and np.array_equal(photo.pixels, PATCHES)
    three = (*table, *np.round(65535 * ramp).astype(int), *np.round(65535 * ramp**3).astype(int))
    with pytest.raises(ImageError, match="another curve for each channel"):
        load(tiff({301: three}, kinds))


def test_linear_samples_of_a_qoi() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PATCHES).save(buffer, "QOI")
    data = bytearray(buffer.getvalue())
    data[13] = 1
    shown = load(io.BytesIO(bytes(data))).pixels.astype(float)
    assert np.abs(shown - reference(PATCHES, profiles.SRGB, 1.0)).max() <= 1
    data[13] = 0
    assert np.array_equal(load(io.BytesIO(bytes(data))).pixels, PATCHES)
