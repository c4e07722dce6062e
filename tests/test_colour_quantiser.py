"""Few colours for many: close to them, with a colour for small marks, and grounds unmoved."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sfumato import colour_quantiser
from sfumato.colour_quantiser import Colours
from tests.test_palette import WINDOW


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("pixels", [WINDOW, WINDOW[..., 0], WINDOW[..., :1]], ids=["colour", "grey", "plane"])
@pytest.mark.parametrize("most", [2, 7, 64])
def test_a_choice_says_what_it_makes_of_the_image(pixels: np.ndarray, most: int) -> None:
    counted = Colours(pixels)
    choice = counted.few(most)
    shown = counted.shown(choice)
    assert shown.shape == pixels.shape and len(choice.colours) == most
    assert choice.error == pytest.approx(error(shown, pixels), rel=1e-9)
    samples, by_channel = np.atleast_3d(pixels), np.atleast_3d(shown)
    distances = np.square(samples[..., None, :].astype(int) - choice.colours).sum(-1)
    own = np.square(samples.astype(int) - by_channel).sum(-1)
    assert np.array_equal(own, distances.min(-1)), "each pixel has the nearest of the colours"


def test_small_marks_keep_their_colours_where_median_cut_takes_them() -> None:
    marked = WINDOW.copy()
    marks = {(20, 20): (220, 40, 40), (20, 30): (240, 190, 40), (20, 40): (40, 200, 60)}
    for (top, left), colour in marks.items():
        marked[top : top + 8, left : left + 8] = colour
    cut = Image.fromarray(marked).quantize(8, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    counted = Colours(marked)
    shown = counted.shown(counted.few(8))
    assert error(shown, marked) < 1.1 * error(np.array(cut.convert("RGB")), marked)

    def off(image: np.ndarray) -> int:
        return max(np.abs(image[y + 4, x + 4].astype(int) - colour).max() for (y, x), colour in marks.items())

    assert off(shown) < 20 < off(np.array(cut.convert("RGB")))


def test_an_image_of_few_colours_is_kept() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 3), np.uint8)[np.arange(700).reshape(20, 35) % 9]
    counted = Colours(pixels)
    choice = counted.few(12)
    assert len(counted) == len(choice.colours) == 9 and (choice.error, choice.strayed) == (0, 0)
    assert np.array_equal(counted.shown(choice), pixels)


def test_a_ground_is_not_moved_by_the_shades_around_it() -> None:
    pixels = np.full((100, 100), 255, np.uint8)
    pixels[::10, ::2] = np.linspace(0, 250, 500).reshape(10, 50).astype(np.uint8)
    counted = Colours(pixels)
    shown = counted.shown(counted.few(4))
    assert (shown[pixels == 255] == 255).all()


def test_marks_count_fully_and_antialiasing_a_tenth() -> None:
    marked, speckled = np.full((2, 100, 100, 3), 30, np.uint8)
    marked[:50], speckled[:50] = 220, 220
    marked[20:24, 20:24] = speckled[20:36:4, 20:36:4] = (220, 40, 40)
    for pixels, expected in ((marked, 16e-4), (speckled, 1.6e-4)):
        assert Colours(pixels).few(2).strayed == pytest.approx(expected)
        assert Colours(pixels).few(3).strayed == 0


def test_photographs_colours_are_put_together_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)
    counted = Colours(pixels)
    assert len(counted) > colour_quantiser.CELLS
    choice = counted.few(64)
    assert choice.error == pytest.approx(error(counted.shown(choice), pixels), rel=1e-9)
    monkeypatch.setattr(colour_quantiser, "CELLS", 1 << 20)
    assert choice.error < 1.05 * Colours(pixels).few(64).error


def test_of_a_single_pixel() -> None:
    counted = Colours(np.array([[7]], np.uint8))
    assert counted.shown(counted.few(2)).tolist() == [[7]]


def test_a_shade_in_bands_is_shifted() -> None:
    shade = np.broadcast_to(np.arange(256, dtype=np.uint8), (64, 256))
    counted = Colours(shade)
    few, many = counted.few(8), counted.few(32)
    off = [
        np.abs(counted.shown(choice).astype(int) - shade) > colour_quantiser.SHIFTED for choice in (few, many)
    ]
    assert [few.shifted, many.shifted] == [
        found.mean() for found in off
    ] and few.shifted > 0.4 > many.shifted == 0
