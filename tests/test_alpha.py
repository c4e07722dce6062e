"""sfumato.alpha: planes come back as they were, bad streams are FormatErrors, the unseen is smooth."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato import alpha, lossless
from sfumato.errors import FormatError

RNG = np.random.default_rng(0)
PLANE = RNG.integers(0, 256, (11, 13), np.uint8)


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(1, 1), (11, 13), (1, 16383), (16384, 1), (70, 65)])
def test_planes_come_back(shape: tuple[int, int]) -> None:
    plane = RNG.integers(0, 256, shape, np.uint8)
    data = lossless.pack(plane)
    assert data.startswith(b"RIFF" if max(shape) < 16384 else b"\x89PNG")
    assert np.array_equal(lossless.unpack(data, *shape), plane)


def test_another_size_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [lossless.pack(PLANE), saved(Image.fromarray(PLANE), "PNG")]
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded"))
    for data in streams:
        with pytest.raises(FormatError, match="alpha: 13x11 pixels, the header says 11x13"):
            lossless.unpack(data, 13, 11)


def animation() -> bytes:
    frames = [Image.fromarray(PLANE), Image.fromarray(255 - PLANE)]
    return saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        saved(Image.fromarray(PLANE), "WEBP", lossless=False),
        saved(Image.fromarray(PLANE).convert("RGB"), "PNG"),
        saved(Image.fromarray(PLANE).convert("1"), "PNG"),
        lossless.pack(PLANE)[:-20],
        lossless.pack(PLANE)[:30],
        saved(Image.fromarray(PLANE), "PNG")[:60],
        animation(),
    ],
)
def test_bad_streams_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError, match="alpha: "):
        lossless.unpack(data, *PLANE.shape)


def test_a_bomb_in_a_chunk_of_text_does_not_escape() -> None:
    data = saved(Image.fromarray(PLANE), "PNG")
    body = b"zTXt" + b"a\0\0" + zlib.compress(bytes(200_000_000), 9)
    bomb = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    try:
        assert np.array_equal(lossless.unpack(data[:33] + bomb + data[33:], *PLANE.shape), PLANE)
    except FormatError as error:
        assert "alpha: PNG cannot be decoded" in str(error)


@settings(max_examples=200)
@given(st.data())
def test_damaged_streams_are_planes_or_format_errors(data: st.DataObject) -> None:
    streams = [lossless.pack(PLANE), saved(Image.fromarray(PLANE), "PNG")]
    stream = bytearray(data.draw(st.sampled_from(streams)))
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert lossless.unpack(bytes(stream), *PLANE.shape).shape == PLANE.shape
    except FormatError as error:
        assert str(error).startswith("alpha: ")


@pytest.mark.parametrize("shape", [(37, 50, 3), (37, 50), (1, 9, 3), (8, 8)])
def test_fill_touches_only_what_is_invisible(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, np.uint8)
    plane = RNG.integers(0, 3, shape[:2], np.uint8)
    filled = alpha.fill(pixels, plane)
    assert filled.shape == shape and filled.dtype == np.uint8
    assert np.array_equal(filled[plane > 0], pixels[plane > 0])
    assert alpha.fill(pixels, np.ones(shape[:2], np.uint8)) is pixels
    assert (alpha.fill(pixels, np.zeros(shape[:2], np.uint8)) == 0).all()


def test_fill_is_flat_beside_one_colour_and_smooth_between_two() -> None:
    pixels = RNG.integers(0, 256, (64, 96, 3), np.uint8)
    plane = np.zeros((64, 96), np.uint8)
    plane[20:30, 10:20] = 1
    pixels[plane > 0] = (10, 200, 30)
    assert (alpha.fill(pixels, plane) == (10, 200, 30)).all()
    pixels, plane = np.zeros((64, 96), np.uint8), np.zeros((64, 96), np.uint8)
    plane[:, :8] = plane[:, -8:] = 255
    pixels[:, -8:] = 240
    row = alpha.fill(pixels, plane)[32].astype(int)
    assert row[0] == 0 and row[-1] == 240 and np.abs(np.diff(row)).max() < 40 and (np.diff(row) >= 0).all()
