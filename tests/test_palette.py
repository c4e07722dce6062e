"""Rendered images in fewer colours: taken where they are closer and no larger, and never of a photograph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import sfumato
import sfumato.pillow
from sfumato import container, palette
from sfumato.image import ImageData, load
from sfumato.rate_control import TargetBytes, TargetPSNR
from tests.conftest import Call
from tests.test_codec import photo


def window() -> np.ndarray:
    """Text in 24 sizes and colours over two panels, 192 x 256: hundreds of colours by its smooth edges."""
    image = Image.new("RGB", (256, 192), (236, 236, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 80, 192), fill=(40, 44, 60))
    for row in range(12):
        draw.text((8, 16 * row + 2), f"Item {row}", fill=(200 + 4 * row, 210, 220 - 5 * row))
        draw.text((90, 16 * row + 2), "the quick brown fox " + "o" * row, fill=(10 * row, 30, 90))
    return np.array(image)


WINDOW = window()
RGBA = np.dstack([WINDOW, np.full(WINDOW.shape[:2], 200, np.uint8)])
KINDS = {"colour": WINDOW, "grey": WINDOW[..., 1], "alpha": RGBA, "grey with alpha": RGBA[..., [1, 3]]}


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("q", [0.4, 0.8])
def test_the_file_is_closer_than_that_of_the_networks_and_not_much_larger(q: float) -> None:
    few, latent = sfumato.encode(WINDOW, q=q), sfumato.encode(WINDOW, q=q, few_colours=False)
    header = container.unpack(few).header
    assert header.holds_pixels and not container.unpack(latent).header.holds_pixels
    ratios = [error(sfumato.decode(data, steps=0), WINDOW) for data in (few, latent)]
    assert len(few) / len(latent) + ratios[0] / ratios[1] < 2 and ratios[0] < ratios[1]


@pytest.mark.parametrize("size", [800, 1500, 3000, 6000])
@pytest.mark.parametrize("squared", [0.01, 20, 100, 2000])
def test_the_best_sum_of_shares_is_taken(size: int, squared: float) -> None:
    given = load(WINDOW)
    tried = [palette.reduced(given, number, 128) for number in palette.NUMBERS]
    exact = palette.largest(given, 1 << 20, 128)
    assert exact is not None and exact.error == 0
    costs = {
        len(found.data) / size + found.error / squared: found.data
        for found in (*tried, exact)
        if found.error < squared and not palette.loses_colours(found.choice)
    }
    found = palette.better(given, size, squared, 128)
    assert (found.data if found else None) == (costs[min(costs)] if min(costs, default=2) < 2 else None)


def test_an_image_of_few_colours_is_called_lossless() -> None:
    pixels = np.array([(200, 30, 30), (250, 250, 250), (20, 20, 90)], np.uint8)[WINDOW[..., 0] % 3]
    found = palette.better(load(pixels), 4000, 500.0, 128)
    assert found is not None and (found.error, found.q) == (0, 255)
    assert container.unpack(found.data).header.model_name == "lossless"


def test_where_the_networks_are_closer_their_file_is_taken() -> None:
    data = sfumato.encode(WINDOW, q=0.0)
    assert data == sfumato.encode(WINDOW, q=0.0, few_colours=False)


def test_a_photograph_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palette, "better", None)
    assert not container.unpack(sfumato.encode(photo(70, 90), q=0.3)).header.holds_pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [2500, 100_000])
def test_the_most_colours_that_fit(kind: str, limit: int) -> None:
    given = load(KINDS[kind])
    found = palette.largest(given, limit, 128)
    assert found is not None and len(found.data) <= limit
    shown = sfumato.decode(found.data)
    assert np.array_equal(shown, ImageData(found.pixels, given.alpha).array)
    assert found.error == pytest.approx(error(found.pixels, given.pixels), rel=1e-4)
    sizes = [len(palette.reduced(given, number, 128).data) for number in palette.NUMBERS]
    if limit == 100_000 or found.error == 0:
        assert found.error == 0 and container.unpack(found.data).header.model_name == "lossless"
    else:
        assert len(found.data) == max(size for size in sizes if size <= limit)
        header = container.unpack(found.data).header
        assert (header.q, header.model_name) == (128, "palette")


def test_a_palette_that_loses_a_colour_is_refused() -> None:
    marked = np.full((200, 200, 3), (40, 44, 60), np.uint8)
    marked[::2, ::8] = np.random.default_rng(0).integers(190, 230, (100, 25, 1))
    marked[20:28, 20:28] = (220, 40, 40)
    given = load(marked)
    sizes = {colours: palette.reduced(given, colours, 9) for colours in (2, 16)}
    assert palette.loses_colours(sizes[2].choice) and not palette.loses_colours(sizes[16].choice)
    assert palette.largest(given, len(sizes[2].data), 9) is None
    assert palette.largest(given, len(sizes[16].data), 9) is not None


def test_no_file_of_two_colours_fits() -> None:
    assert palette.largest(load(WINDOW), 100, 128) is None


def test_the_fewest_colours_that_are_close_enough() -> None:
    given = load(WINDOW)
    found = palette.smallest(given, 1 << 20, 255, lambda pixels: error(pixels, WINDOW) < 20)
    assert found is not None and found.error < 20 and found.q == palette.LARGEST_Q
    colours = len(np.unique(found.pixels.reshape(-1, 3), axis=0))
    fewer = palette.NUMBERS[max(0, np.searchsorted(palette.NUMBERS, colours) - 1)]
    assert palette.reduced(given, fewer, 255).error >= 20
    assert palette.smallest(given, 100, 255, lambda pixels: error(pixels, WINDOW) < 20) is None
    exact = palette.smallest(given, 1 << 20, 9, lambda pixels: np.array_equal(pixels, WINDOW))
    assert exact is not None and exact.error == 0 and exact.q == 255


def test_targets_take_it() -> None:
    size = len(sfumato.encode(WINDOW, q=0.6, few_colours=False))
    for few_colours in (True, False):
        data = sfumato.encode_to(WINDOW, TargetBytes(size), few_colours=few_colours)
        assert len(data) <= size and container.unpack(data).header.holds_pixels == few_colours
    for goal, is_latent in ((22, True), (60, False)):  # no latent has the second
        data = sfumato.encode_to(WINDOW, TargetPSNR(goal), few_colours=not is_latent)
        assert error(sfumato.decode(data), WINDOW) <= 255**2 / 10 ** (goal / 10)
        assert container.unpack(data).header.holds_pixels != is_latent


def test_command_and_plugin(tmp_path: Path, call: Callable[..., Call]) -> None:
    source, out = tmp_path / "window.png", tmp_path / "window.sfu"
    Image.fromarray(WINDOW).save(source)
    printed = json.loads(call("encode", source, "-q", 0.5, "--json").stdout)
    assert printed["model"] in ("palette", "lossless") and printed["warnings"] == []
    assert "a WebP of" in call("info", out).stdout
    with Image.open(out) as image:
        assert image.info["model"] == printed["model"]
        image.load()
    printed = json.loads(call("encode", source, "--latent-only", "--overwrite", "--json").stdout)
    assert printed["model"] == f"{sfumato.load().model_id:08x}"
    Image.fromarray(WINDOW).save(out, quality=50, few_colours=False)
    assert not sfumato.open(out).header.holds_pixels
    Image.fromarray(WINDOW).save(out, quality=50)
    assert sfumato.open(out).header.holds_pixels


def test_colours_that_nobody_sees_change_nothing() -> None:
    plane = np.full(WINDOW.shape[:2], 255, np.uint8)
    plane[:, 160:] = 0
    hidden = np.random.default_rng(0).integers(0, 256, WINDOW.shape, np.uint8)
    files = [
        sfumato.encode(np.dstack([np.where(plane[..., None] > 0, WINDOW, under), plane]), q=0.4)
        for under in (np.zeros_like(WINDOW), hidden)
    ]
    assert files[0] == files[1] and container.unpack(files[0]).header.holds_pixels
