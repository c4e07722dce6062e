"""sfumato.image: what is read, what is refused and how, exact conversion, padding, whole files."""

from __future__ import annotations

import io
import math
import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from sfumato.image import (
    ImageData,
    ImageError,
    format_of,
    from_x,
    in_srgb,
    load,
    mean,
    pad,
    read,
    strip,
    to_x,
    write,
    write_bytes,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def raw_png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow cannot write."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    path = tmp_path / "a.png"
    image.save(path)
    with open(path, "rb") as file:
        sources = [path, str(path), io.BytesIO(path.read_bytes()), file, image, RGB, RGB[::-1][::-1]]
        for source in sources:
            photo = read(source)
            assert photo.dtype == np.uint8
            assert photo.flags.c_contiguous and photo.flags.writeable
            assert np.array_equal(photo, RGB)


def test_reading_leaves_the_caller_s_image_alone() -> None:
    array = RGB.copy()
    read(array)[:] = 0
    assert np.array_equal(array, RGB)
    image = Image.fromarray(RGB)
    read(image)
    assert image.mode == "RGB" and np.array_equal(np.asarray(image), RGB)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_grey_palettes_and_opaque_alpha_become_rgb(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(read(io.BytesIO(png(image))), np.asarray(image.convert("RGB")))
    assert np.array_equal(read(RGB[:, :, 0]), np.repeat(RGB[:, :, :1], 3, 2))


@pytest.mark.parametrize("shape", [(3,), (4, 4, 5), (4, 4, 1), (1, 4, 4, 3), (0, 4, 3), (4, 0, 3), (0, 0)])
def test_arrays_of_other_types_and_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="is empty" if 0 in shape else "array: expected uint8"):
        read(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="0x0 pixels is empty"):
        read(Image.new("RGB", (0, 0)))
    with pytest.raises(ImageError, match=r"array: expected uint8 .* got uint16 \[6, 9, 3\]"):
        read(RGB.astype(np.uint16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((8, 8, 3))}, r"pixels: expected uint8 .*, got float64 \[8, 8, 3\]"),
        ({"pixels": np.zeros((8, 8, 4), np.uint8)}, r"got uint8 \[8, 8, 4\]"),
        ({"pixels": np.zeros((0, 8), np.uint8)}, "an image of 8x0 pixels is empty"),
        (
            {"alpha": np.zeros((4, 4), np.uint8)},
            r"alpha: expected uint8 \[8, 8\], as the pixels, got uint8 \[4, 4\]",
        ),
        ({"dpi": (1e6, 1e6)}, r"dpi is \(1000000.0, 1000000.0\)"),
        ({"dpi": (math.nan, 1.0)}, "dpi is"),
    ],
)
def test_image_data_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    good = ImageData(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), dpi=(72.0, 72.0))
    assert load(good) is good
    with pytest.raises(ImageError, match=message):
        load(replace(good, **change))


def test_transparency_is_kept_by_load_and_refused_by_read() -> None:
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert load(rgba).alpha is None and np.array_equal(read(rgba), RGB)
    rgba[0, 0, 3] = 254
    photo = load(rgba)
    assert np.array_equal(photo.array, rgba) and photo.pixels.flags.c_contiguous
    with pytest.raises(ImageError, match="array: transparent pixels"):
        read(rgba)
    with_alpha = rgba[:, :, 2:]
    assert np.array_equal(load(with_alpha).array, with_alpha) and load(with_alpha).pixels.ndim == 2


def test_colour_keys_and_palettes_become_alpha() -> None:
    grey = Image.fromarray(RGB).convert("L")
    used = grey.getpixel((0, 0))
    for image, key in ((grey, used), (Image.fromarray(RGB), tuple(RGB[0, 0].tolist()))):
        photo = load(io.BytesIO(png(image, transparency=key)))
        assert photo.alpha is not None and photo.pixels.ndim == np.asarray(image).ndim
        equal = (np.atleast_3d(np.asarray(image)) == np.array(key)).all(2)
        assert np.array_equal(photo.alpha, np.where(equal, 0, 255))
    palette = Image.fromarray(RGB).quantize(8)
    photo = load(io.BytesIO(png(palette, transparency=palette.getpixel((0, 0)))))
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha == 0, np.asarray(palette) == palette.getpixel((0, 0)))
    assert np.array_equal(photo.pixels, np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    stored = {  # how a camera stores the upright image RGB under each value of the tag
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, 1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read(io.BytesIO(data)), RGB)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"junk" * 5])
def test_damaged_exif_does_not_hide_the_image(exif: bytes) -> None:
    data = png(Image.fromarray(RGB))
    at = 8 + 25
    assert np.array_equal(read(io.BytesIO(data[:at] + chunk(b"eXIf", exif) + data[at:])), RGB)


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for suffix in ("png", "gif", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match=rf"a\.{suffix}: has 3 frames"):
            read(path)
    frames[0].save(tmp_path / "still.gif")
    assert read(tmp_path / "still.gif")[0, 0].tolist() == [255, 0, 0]


def test_photograph_with_a_second_view_is_a_still_image() -> None:
    buffer = io.BytesIO()
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("white", "black"))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert (read(buffer) == 255).all()


def test_missing_file_and_folder_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        read(tmp_path / "no.png")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0" + bytes(20)])
def test_what_is_not_an_image_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"bad\.png: "):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tif", "ppm"])
def test_truncated_files_are_refused(suffix: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 40, 3), np.uint8)).save(
        buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    )
    data = buffer.getvalue()
    for part in range(1, 10):
        with pytest.raises(ImageError):
            read(io.BytesIO(data[: len(data) * part // 10]))


@given(data=st.data())
def test_damaged_png_gives_an_image_or_an_image_error(data: st.DataObject) -> None:
    good = bytearray(png(Image.fromarray(RGB)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        photo = read(io.BytesIO(bytes(good)))
    except ImageError:
        return
    assert photo.ndim == 3 and photo.shape[2] == 3


def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(raw_png(100_000, 100_000, 8, 2, b""))
    with pytest.raises(ImageError, match=r"bomb\.png: more pixels than Pillow opens"):
        read(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_format_s_limits_hold_before_decoding() -> None:
    for width, height in ((11586, 11585), (65536, 1), (1, 65536)):
        message = f"{width}x{height} pixels, over 65535 a side or 134217728 in all"
        with pytest.raises(ImageError, match=message):
            load(io.BytesIO(raw_png(width, height, 8, 0, b"")), max_pixels=None)
    with pytest.raises(ImageError, match=r"cannot be read: "):
        load(
            io.BytesIO(raw_png(16384, 8192, 1, 0, b"")), max_pixels=None
        )  # 134217728 pixels, but none is there


def test_x_and_back_is_exact_for_every_level() -> None:
    image = np.arange(768, dtype=np.int64).astype(np.uint8).reshape(16, 16, 3)
    x = to_x(image)
    assert x.shape == (1, 3, 16, 16) and x.dtype == np.float32
    assert x.min() == -1 and x.max() == 1
    assert np.array_equal(from_x(x), image)
    assert np.array_equal(from_x(to_x(image[::-1, ::-1])), image[::-1, ::-1])


def test_from_x_clamps_and_rounds_halves_to_even() -> None:
    levels = np.array([-40.0, 0.4, 100.4, 100.6, 254.6, 300.0], np.float32)
    x = np.broadcast_to(levels / np.float32(127.5) - 1, (1, 3, 1, 6))
    assert from_x(x)[0, :, 0].tolist() == [0, 0, 100, 101, 255, 255]
    assert from_x(np.zeros((1, 3, 1, 1), np.float32)).tolist() == [[[128, 128, 128]]]  # 127.5


@given(h=st.integers(1, 70), w=st.integers(1, 70), multiple=st.sampled_from([1, 8, 64]))
def test_pad_repeats_the_border(h: int, w: int, multiple: int) -> None:
    x = np.arange(float(h * w), dtype=np.float32).reshape(1, 1, h, w)
    padded = pad(x, multiple)
    height, width = padded.shape[-2:]
    assert height % multiple == width % multiple == 0
    assert height - h < multiple and width - w < multiple
    assert np.array_equal(padded[..., :h, :w], x)
    rows, columns = np.minimum(np.arange(height), h - 1), np.minimum(np.arange(width), w - 1)
    assert np.array_equal(padded[0, 0], x[0, 0][rows][:, columns])


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a", "a.ppm", "a.bmp", "a.tif", "a.tiff", "a.webp"])
def test_written_images_read_back(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, RGB)
    assert np.array_equal(read(tmp_path / name), RGB)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_unknown_suffix_is_named(tmp_path: Path) -> None:
    assert format_of("a/b.WebP") == "WEBP"
    assert format_of("nameless") == "PNG"
    with pytest.raises(ImageError, match=r"a\.xyz: unknown suffix '\.xyz'; known are \.png, "):
        format_of("a.xyz")
    with pytest.raises(ImageError, match="unknown suffix"):
        write(tmp_path / "a.xyz", RGB)
    assert not list(tmp_path.iterdir())


def test_bad_images_are_not_written(tmp_path: Path) -> None:
    for bad in (RGB.astype(np.float32), RGB[:, :, :1], RGB[:0]):
        with pytest.raises(ImageError, match=r"a\.png: (expected uint8 \[H, W\]|.* is empty)"):
            write(tmp_path / "a.png", bad)
    with pytest.raises(ImageError, match=r"a\.webp: 20000x1 pixels do not go into WEBP"):
        write(tmp_path / "a.webp", np.zeros((1, 20000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = (
    SRGB.replace(b"rXYZ", b"....", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"....", b"gXYZ", 1)
)  # red is green
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ALPHA = RNG.integers(0, 256, RGB.shape[:2], np.uint8)


def photograph() -> ImageData:
    """RGB as a camera would store it, lying on its side, with all that may come along."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "Maker", {0x829A: 0.5}
    image = Image.fromarray(np.ascontiguousarray(np.rot90(RGB)))
    return load(io.BytesIO(png(image, exif=exif, icc_profile=SWAPPED)))


def test_exif_is_carried_upright() -> None:
    photo = photograph()
    assert np.array_equal(photo.pixels, RGB) and photo.icc == SWAPPED and photo.warnings == ()
    exif = Image.Exif()
    exif.load(photo.exif)
    assert exif[0x0112] == 1 and exif[0x010F] == "Maker" and exif.get_ifd(0x8769)[0x829A] == 0.5


def test_orientation_in_xmp_does_not_turn_the_image_twice(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(RGB))).save(buffer, "WEBP", lossless=True, xmp=XMP)
    photo = load(buffer)
    assert np.array_equal(photo.pixels, RGB)
    assert photo.xmp == XMP.replace(b'Orientation="6"', b'Orientation="1"')
    write(tmp_path / "a.webp", photo)
    assert np.array_equal(load(tmp_path / "a.webp").pixels, RGB)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [None, ALPHA])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".bmp", ".ppm"])
def test_what_a_format_holds_comes_back(
    suffix: str, alpha: np.ndarray | None, grey: bool, tmp_path: Path
) -> None:
    photo = replace(photograph(), alpha=alpha, xmp=XMP.replace(b'"6"', b'"1"'))
    if grey:
        photo = replace(photo, pixels=RGB[..., 0].copy(), icc=None)
    path = tmp_path / f"a{suffix}"
    if alpha is not None and suffix in (".jpg", ".bmp", ".ppm"):
        with pytest.raises(ImageError, match="has no alpha, and some pixels are transparent"):
            write(path, photo)
        assert not list(tmp_path.iterdir())
        return
    notes = write(path, photo)
    back = load(path)
    if suffix in (".bmp", ".ppm"):
        photo = in_srgb(photo)  # they hold no profile
    if suffix != ".jpg":
        assert np.array_equal(back.rgb, photo.rgb) and np.array_equal(back.alpha, alpha)
    if suffix in (".bmp", ".ppm"):
        kinds = "EXIF and XMP" if grey else "ICC and EXIF and XMP"
        converted = () if grey else ("colours were converted to sRGB",)
        assert notes == (f"{suffix[1:].upper()} holds no {kinds}: left out", *converted)
    else:
        assert notes == () and back.icc == photo.icc and back.xmp == photo.xmp
        exif = Image.Exif()
        exif.load(back.exif)
        assert exif[0x010F] == "Maker" and exif.get_ifd(0x8769)[0x829A] == 0.5


def test_opaque_alpha_and_too_much_exif_for_jpeg(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]))
    notes = write(tmp_path / "a.jpg", ImageData(RGB, exif=b"II*\0" + bytes(69996)))
    assert notes == ("EXIF of 70000 bytes is over JPEG's 65527: left out",)
    assert load(tmp_path / "a.jpg").exif is None


def test_strip_leaves_pixels_only() -> None:
    photo = strip(photograph())
    assert photo.icc is photo.exif is photo.xmp is None
    assert np.abs(photo.pixels.astype(int) - RGB[..., [1, 0, 2]]).max() <= 1 and "sRGB" in photo.warnings[0]
    damaged = strip(ImageData(RGB, icc=b"no profile"))
    assert np.array_equal(damaged.pixels, RGB) and "damaged" in damaged.warnings[0]


def test_mean_of_three_is_rounded() -> None:
    assert mean(np.array([[[0, 0, 1], [0, 1, 1], [255, 255, 255]]], np.uint8)).tolist() == [[0, 1, 255]]


def test_write_bytes_replaces_follows_links_and_keeps_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    (tmp_path / "plain").write_bytes(b"")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    write_bytes(os.devnull, b"gone")
    with pytest.raises(FileNotFoundError, match="no such folder: .*missing"):
        write_bytes(tmp_path / "missing" / "a", b"")
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path, b"")
