"""evaluation.plots: the same curves give the same SVG, with every codec named and distinct."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from evaluation import plots
from evaluation.curves import Curve


def curve(codec: str, shift: float = 0.0, highest: float = 1.6) -> Curve:
    bpp = np.geomspace(0.05, highest, 6)
    psnr = 30 + 3 * np.log2(bpp) + shift
    values = {"psnr_db": psnr, "lpips_alex": 0.4 - psnr / 100, "kid": np.full(6, math.nan)}
    return Curve(codec, tuple(map(str, range(6))), bpp, values)


CODECS = ("own <codec> & co", "avif", "sfumato:steps=4,realism=0.5", "sfumato")
CURVES = [curve(codec, shift) for shift, codec in enumerate(CODECS)][::-1]
PUBLISHED = [Curve("VTM", (), np.array([0.1, 0.3]), {"psnr_db": np.array([25.0, 29.0])}, source="paper")]


def test_the_same_curves_give_the_same_file_without_a_date() -> None:
    svg = plots.plot(CURVES, "psnr_db", PUBLISHED)
    assert svg == plots.plot(CURVES, "psnr_db", PUBLISHED)
    assert "<dc:date>" not in svg and "atplotlib" not in svg.replace("matplotlib.axis", "")


def test_every_curve_carries_its_name_and_the_axes_have_titles() -> None:
    root = ElementTree.fromstring(plots.plot(CURVES, "psnr_db", PUBLISHED))
    texts = ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in [*(one.codec for one in CURVES), "VTM"]:
        assert name in texts
    assert "PSNR of RGB, dB, higher is better" in texts
    assert any(text.startswith("bits per pixel") for text in texts)
    assert {"0.1", "0.2", "0.5", "1"} <= set(texts) and "2" not in texts  # ends at 1 bit per pixel


def test_text_takes_the_colour_of_the_page() -> None:
    svg = plots.plot(CURVES, "lpips_alex")
    assert "fill: currentColor" in svg and "prefers-color-scheme:dark" in svg
    assert svg.count(plots.INK) == 1  # only where it is the default


def test_published_curves_are_dashed_and_others_are_not() -> None:
    assert plots.plot(CURVES, "psnr_db").count("stroke-dasharray") == 0
    assert plots.plot(CURVES, "psnr_db", PUBLISHED).count("stroke-dasharray") == 2  # curve and its swatch


def test_options_change_the_marker_and_not_the_colour() -> None:
    first, second = (plots.line_style(one, CURVES) for one in CURVES[:2])
    assert first["color"] == second["color"] == plots.colour("sfumato:4")
    assert first["marker"] != second["marker"]
    assert len({plots.colour(name) for name in plots.COLOURS}) == len(plots.COLOURS)
    assert plots.colour("unknown") == plots.colour("unknown:x=1")


@pytest.mark.parametrize("heights", [[], [0.5], [0.1, 0.11, 0.9], [0.0, 0.0, 0.0], [1, 1, 1, 1], [0.2, 0.5]])
def test_names_are_spread_apart_and_stay_inside(heights: list[float]) -> None:
    spread = plots.spread(heights, 0.05)
    assert len(spread) == len(heights)
    assert all(b - a >= 0.05 - 1e-9 for a, b in zip(spread, spread[1:], strict=False))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in spread)
    if all(b - a >= 0.05 for a, b in zip(heights, heights[1:], strict=False)):
        assert spread == pytest.approx(heights)


def test_the_plane_needs_two_rates_and_a_plot_a_value() -> None:
    assert "larger marks" in plots.plane(CURVES)
    short = Curve("c", ("1",), np.array([0.1]), {"psnr_db": np.array([30.0]), "lpips_alex": np.array([0.1])})
    with pytest.raises(ValueError, match="at two of"):
        plots.plane([short])
    with pytest.raises(ValueError, match="no codec has values of kid"):
        plots.plot(CURVES, "kid")
    assert list(plots.plots([short])) == ["psnr_db", "lpips_alex"]


def test_curves_beyond_the_shown_rates_are_still_drawn() -> None:
    far = Curve("far", ("1", "2"), np.array([2.0, 4.0]), {"psnr_db": np.array([40.0, 45.0])})
    x, y = plots.visible_points(far, "psnr_db")
    assert x.tolist() == [2, 4] and y.tolist() == [40, 45]
    x, _ = plots.visible_points(CURVES[0], "psnr_db")
    assert x[-1] == plots.HIGHEST_RATE and (np.diff(x) > 0).all()
