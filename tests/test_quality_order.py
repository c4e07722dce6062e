"""A larger q gives no larger and worse file, also of a nearly flat image; photographs are left alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from sfumato import codec as codec_module
from sfumato import container
from sfumato.codec import Codec
from sfumato.distortion import psnr
from tests.test_codec import photo as noise

HEIGHT, WIDTH = 96, 128
STEPS = [step / 10 for step in range(11)]
ROW, COLUMN = np.mgrid[0:HEIGHT, 0:WIDTH]
RNG = np.random.default_rng(0)


def colours(*channels: np.ndarray | float) -> np.ndarray:
    stacked = np.stack([np.broadcast_to(channel, (HEIGHT, WIDTH)) for channel in channels], -1)
    return stacked.clip(0, 255).round().astype(np.uint8)


IMAGES = {
    "black": colours(0, 0, 0),
    "white": colours(255, 255, 255),
    "skin": colours(220, 180, 150),
    "gradient": colours(COLUMN * 1.5 + 20, ROW * 2, 120),
    "dark": colours(*(12 + RNG.normal(0, 1, (HEIGHT, WIDTH)) for _ in range(3))),
}


class Point(NamedTuple):
    bytes: int
    decibels: float


def reversed_pairs(points: list[Point]) -> list[tuple[Point, Point]]:
    """Pairs of which the one of the higher q is larger and worse."""
    return [
        (low, high)
        for number, high in enumerate(points)
        for low in points[:number]
        if high.bytes > low.bytes and high.decibels < low.decibels
    ]


@pytest.mark.parametrize("name", IMAGES)
def test_no_higher_q_is_larger_and_worse(codec: Codec, name: str) -> None:
    pixels = IMAGES[name]
    latent = codec.analyze(pixels)
    exact, points = [], []
    for q in STEPS:
        for source, found in ((latent, exact), (pixels, points)):
            data = codec.encode(source, q=q)
            found.append(Point(len(data), psnr(latent.pixels, codec.decode_image(data).rgb)))
    assert not reversed_pairs(points)
    assert [p.decibels for p in points] == sorted(p.decibels for p in points)
    if name == "white":
        assert reversed_pairs(exact)  # what `analyze` returned is coded with the very q


def test_between_two_steps_the_lower_one_is_taken(codec: Codec) -> None:
    pixels = IMAGES["skin"]
    assert codec.encode(pixels, q=0.37) == codec.encode(pixels, q=0.3)
    assert codec.encode(pixels, q=0.7) == codec.encode(pixels, q=round(0.7 * 255) / 255)


def test_photographs_are_coded_once_with_the_very_q(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = noise(128, 192)
    latent = codec.analyze(photo)
    monkeypatch.setattr(Codec, "encode_with_reconstruction", lambda *_, **__: pytest.fail("tried other q"))
    assert codec.encode(photo, q=0.37) == codec.encode(latent, q=0.37)


def test_large_images_are_judged_by_a_part(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    latent = codec.analyze(np.repeat(IMAGES["gradient"], 5, 0)[:400])
    assert latent.pixels.shape == (400, 128, 3)
    parts = list(latent.parts(64 * 128 * 2))
    assert [part.pixels.shape for part in parts] == [(128, 128, 3)] * 3 + [(80, 128, 3)]
    assert {part.y.shape[2:] for part in parts} == {(8, 8)}
    assert np.array_equal(parts[1].pixels, latent.pixels[128:256])
    assert np.array_equal(parts[3].pixels, latent.pixels[320:]), "the last one overlaps"
    (whole,) = latent.parts(1 << 30)
    assert whole.y.shape == latent.y.shape
    monkeypatch.setattr(codec_module, "PART", 64 * 128 * 2)
    assert codec.encode(latent.pixels, q=0.2)


def test_a_photograph_on_a_plain_ground_keeps_the_q_that_was_asked_for(codec: Codec) -> None:
    pixels = np.zeros((640, 768, 3), np.uint8)
    pixels[:128, :256] = noise(128, 256)
    data = codec.encode(pixels, q=0.6, few_colours=False)
    assert container.unpack(data).header.q == round(0.6 * 255)
