"""Lossless files: pixels come back as they were, through every entry point; damaged ones are FormatErrors."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
import sfumato.pillow
from sfumato import container, lossless
from sfumato.container import Header, Section
from sfumato.errors import FormatError
from sfumato.image import ImageData, load
from sfumato.rate_control import TargetBpp, TargetBytes, TargetError, TargetPSNR
from tests.conftest import Call
from tests.test_codec import photo

PAGE = np.full((200, 300, 3), 255, np.uint8)
PAGE[20:180:20, 10:290] = (10, 20, 30)
PAGE[100:150, 40:60] = (250, 128, 3)
VEIL = np.dstack([PAGE, np.repeat(np.linspace(0, 255, 300).astype(np.uint8)[None], 200, 0)])
IMAGES = {"colour": PAGE, "grey": PAGE[..., 0], "alpha": VEIL, "grey with alpha": VEIL[..., [0, 3]]}


def encode(pixels: np.ndarray, q: float = 1.0, **options: Any) -> bytes:
    return sfumato.encode(pixels, q=q, lossless_if_smaller=True, **options)


def seen(pixels: np.ndarray) -> np.ndarray:
    """The image with black where nothing is visible."""
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return pixels
    return np.where(pixels[..., -1:] > 0, pixels, 0)


@pytest.mark.parametrize("name", IMAGES)
def test_no_pixel_changes(name: str) -> None:
    pixels = IMAGES[name]
    data = encode(pixels)
    assert container.unpack(data).header.holds_pixels and len(data) < len(
        sfumato.encode(pixels, q=1.0, few_colours=False)
    )
    assert np.array_equal(sfumato.decode(data), seen(pixels))
    assert np.array_equal(sfumato.load().decode(data), seen(pixels))
    crop = sfumato.decode(data, crop=(30, 90, 40, 50), steps=2, chunks=3)
    assert np.array_equal(crop, seen(pixels)[90:140, 30:70])


@pytest.mark.parametrize("name", IMAGES)
def test_the_reader_and_the_plugin_read_it(name: str, tmp_path: Path) -> None:
    pixels = IMAGES[name]
    data = encode(pixels)
    reader = sfumato.ProgressiveDecoder()
    for at in range(0, len(data), 16):
        reader.feed(data[at : at + 16])
        assert reader.complete or reader.image() is None or pixels.ndim == 3 and pixels.shape[2] != 3
    reader.close()
    shown = reader.image()
    assert shown is not None and np.array_equal(shown, seen(pixels))
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["model"] == "lossless"
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), seen(pixels))
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((30, 30))
        assert image.size == (30, 20)
    saved = io.BytesIO()
    Image.fromarray(pixels).save(saved, "SFU", quality=100, lossless_if_smaller=True)
    assert container.unpack(saved.getvalue()).header.holds_pixels


def test_the_command_writes_tells_and_reads_it(tmp_path: Path, call: Call) -> None:
    Image.fromarray(VEIL).save(tmp_path / "page.png")
    path = tmp_path / "page.sfu"
    done = call("encode", tmp_path / "page.png", "-q", 1, "--lossless-if-smaller", "--json")
    printed = json.loads(done.stdout)
    assert printed["model"] == "lossless" and printed["quality"] == 1 and printed["warnings"] == []
    done = call("info", path)
    assert "lossless: a WebP of its pixels" in done.stdout and done.returncode == 0
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    sizes = {row[0].strip(): int(row[1]) for row in rows}
    assert sizes["file"] == path.stat().st_size == sum(sizes.values()) - sizes["file"]
    assert json.loads(call("info", path, "--json").stdout)["model"] == "lossless"
    assert call("decode", path, "-o", tmp_path / "back.png").returncode == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), seen(VEIL))


def test_photographs_stay_lossy_and_what_comes_with_an_image_stays() -> None:
    shown = photo(128, 192)
    assert encode(shown, q=0.5) == sfumato.encode(shown, q=0.5)
    given = ImageData(PAGE, None, None, None, b"<x/>", (), (300.0, 300.0), {"Title": "a page"})
    shown = sfumato.decode_image(sfumato.encode(given, q=1.0, lossless_if_smaller=True))
    assert np.array_equal(shown.pixels, PAGE) and shown.xmp == b"<x/>"
    assert shown.dpi == (300, 300) and shown.text == {"Title": "a page"}


def test_nearly_grey_is_not_made_grey() -> None:
    pixels = PAGE.copy()
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = PAGE[..., 0], PAGE[..., 0], PAGE[..., 0]
    pixels[3, 3] = (253, 255, 254)
    data = encode(pixels)
    assert container.unpack(data).header.holds_pixels
    assert np.array_equal(sfumato.decode(data), pixels)


def test_targets_take_it_where_it_meets_them() -> None:
    size = len(encode(PAGE))
    for goal in (TargetBytes(size), TargetBpp(8 * size / PAGE[..., 0].size), TargetPSNR(90)):
        data = sfumato.encode_to(PAGE, goal, lossless_if_smaller=True)
        assert np.array_equal(sfumato.decode(data), PAGE), goal
    for unmet in (TargetBytes(size), TargetPSNR(90)):
        with pytest.raises(TargetError):
            sfumato.encode_to(PAGE, unmet, few_colours=False)


def test_sides_that_no_webp_has_are_a_png() -> None:
    pixels = np.zeros((2, 20000, 3), np.uint8)
    pixels[:, ::7] = (200, 100, 3)
    data = lossless.file(load(pixels), 1 << 20)
    assert data is not None and container.unpack(data).sections[0].payload[:4] == b"\x89PNG"
    assert np.array_equal(sfumato.decode(data), pixels)


def forged(payload: bytes, width: int = 300, height: int = 200, grey: bool = False) -> bytes:
    header = Header(width, height, 255, 0, grey=grey, chunks=0)
    return container.pack(header, [Section(payload, container.image_check(header, payload))])


def stream(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (forged(b""), "image: starts with b''"),
        (forged(stream(PAGE, "JPEG")), "image: starts with"),
        (forged(stream(PAGE, "WEBP", lossless=False)), "neither lossless WebP nor RGB PNG"),
        (forged(stream(PAGE[..., 0], "PNG")), "neither lossless WebP nor RGB PNG"),
        (forged(stream(PAGE, "PNG"), grey=True), "neither lossless WebP nor grey PNG"),
        (forged(stream(VEIL, "PNG")), "neither lossless WebP nor RGB PNG"),
        (forged(stream(VEIL, "WEBP", lossless=True, exact=True)), "image: mode RGBA"),
        (forged(stream(PAGE, "PNG"), 200, 300), "image: 300x200 pixels, the header says 200x300"),
        (forged(stream(PAGE, "PNG")[:-40]), "image: PNG cannot be decoded"),
        (forged(stream(PAGE, "WEBP", lossless=True)[:-20]), "image: WEBP cannot be decoded"),
        (forged(stream(PAGE, "PNG"))[:-1], "0 of 1 sections are whole"),
        (forged(stream(PAGE, "PNG")) + b"\0", "1 bytes follow the end"),
    ],
)
def test_bad_images_are_named(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        sfumato.decode(data)


def test_every_changed_byte_and_every_prefix_is_refused() -> None:
    small = lossless.file(load(PAGE[::10, ::10].copy()), 1 << 20)
    assert small is not None
    for at in range(len(small)):
        for value in {small[at] ^ 1, small[at] ^ 128, 0, 255} - {small[at]}:
            with pytest.raises(FormatError):
                sfumato.decode(small[:at] + bytes([value]) + small[at + 1 :])
        for partial in (False, True):
            with pytest.raises(FormatError):
                sfumato.decode(small[:at], partial=partial)


def test_max_pixels_holds_for_it() -> None:
    data = encode(PAGE)
    for choices in ({}, {"crop": (0, 0, 1, 1)}):
        with pytest.raises(FormatError, match="max_pixels = 4096"):
            sfumato.decode(data, max_pixels=4096, **choices)
    with pytest.raises(FormatError, match="max_pixels = 4096"):
        sfumato.ProgressiveDecoder(max_pixels=4096).feed(data)


def test_example_in_the_standard() -> None:
    text = (Path(container.__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")
    found = re.search(r"^    lossless ((?:[0-9a-f]{2}\s+)+)$", text, re.MULTILINE)
    assert found is not None
    data = bytes.fromhex(found[1])
    assert sfumato.decode(data).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    file = container.unpack(data)
    assert container.pack(file.header, file.sections) == data
