"""What g_s cannot give back is shown to g_a once more: how much of it, and that it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import sfumato
from sfumato import analysis
from sfumato.codec import load
from sfumato.distortion import psnr

CHELSEA = np.asarray(Image.open(Path(__file__).parents[1] / "examples" / "chelsea.png").convert("RGB"))


def page() -> np.ndarray:
    """A rendered image: lines of letters and a flat box, on white."""
    image = Image.new("RGB", (256, 192), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((150, 10, 240, 80), fill=(0, 90, 200))
    for row in range(12):
        draw.text((8, 8 + 15 * row), "Pack my box with jugs 0123", fill=(20, 20, 20))
    return np.asarray(image)


def test_high_qualities_and_rendered_images_get_more() -> None:
    qualities = np.linspace(0, 1, 256)
    weights = [analysis.weight(q, 0.1, 0.3) for q in qualities]
    assert weights == sorted(weights) and weights[0] == analysis.weight(0.5, 0.6, 0.5) == 0
    assert weights[-1] == pytest.approx(analysis.FIDELITY[1])
    rendered = [analysis.weight(q, 0.9, 0.95) for q in qualities]
    assert rendered == sorted(rendered) and rendered[0] == 0 and rendered[128] == rendered[-1] == 1
    assert 0 < analysis.weight(0.5, 0.7, 0.7) < 1
    smooth = [analysis.weight(q, 0.3, 0.8) for q in qualities]
    assert max(smooth) == analysis.SMOOTH_SHARE and all(
        0 <= s <= r for s, r in zip(smooth, rendered, strict=True)
    )


def test_flatness_tells_rendered_images_from_photographs() -> None:
    assert analysis.flatness(page()) > 0.8 and analysis.flatness(CHELSEA) < 0.3
    assert analysis.flatness(CHELSEA[:, :1]) == 0, "a column has no right neighbours"


@pytest.mark.parametrize(("image", "q"), [(page(), 0.3), (page(), 0.7), (CHELSEA, 1.0)])
def test_the_correction_pays(image: np.ndarray, q: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The squared error falls, and by more than a plain file of as many bytes would have it fall."""
    codec = load()
    corrected = codec.encode(codec.analyze(image), q=q)
    monkeypatch.setattr(analysis, "weight", lambda q, flatness, smoothness: 0.0)
    plain = {trial: codec.encode(codec.analyze(image), q=trial) for trial in (q, q - 0.1)}
    assert corrected != plain[q]
    decibels = [psnr(image, sfumato.decode(data, steps=0)) for data in (corrected, *plain.values())]
    assert decibels[0] > decibels[1]
    sizes = [len(data) for data in (corrected, *plain.values())]
    slope = (decibels[1] - decibels[2]) / np.log(sizes[1] / sizes[2])
    assert decibels[0] > decibels[1] + slope * np.log(sizes[0] / sizes[1])


def test_a_correction_of_no_weight_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as the rest of an encode."""
    asked: list[int] = []
    correction = analysis.correction

    def counted(*arguments: Any) -> np.ndarray:
        asked.append(1)
        return correction(*arguments)

    monkeypatch.setattr(analysis, "correction", counted)
    analyzed = load().analyze(np.ascontiguousarray(CHELSEA[:128, :192]))
    load().encode(analyzed, q=0.5)
    assert not asked
    load().encode(analyzed, q=0.6)
    load().encode(analyzed, q=0.9)
    assert len(asked) == 1, "once for all qualities"
