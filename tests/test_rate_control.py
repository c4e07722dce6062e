"""Goals are met by files that were tried: never over a size, never under a quality, or one clear error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sfumato
from sfumato import container, lpips
from sfumato.codec import Codec
from sfumato.rate_control import (
    Target,
    TargetBpp,
    TargetBytes,
    TargetDistance,
    TargetError,
    TargetLPIPS,
    TargetPSNR,
    bisect,
    encode_to,
    psnr,
)
from tests.conftest import random_metric
from tests.test_codec import photo


@pytest.fixture(scope="module")
def original() -> np.ndarray:
    return photo(96, 128)


@pytest.fixture(scope="module")
def sizes(codec: Codec, original: np.ndarray) -> list[int]:
    """Bytes of the file at every fifth q, both ends among them."""
    latent = codec.analyze(original)
    return [len(codec.encode(latent, q=q / 255)) for q in range(0, 256, 5)]


def test_a_latent_gives_the_file_of_its_image(codec: Codec, original: np.ndarray) -> None:
    latent = codec.analyze(original)
    assert codec.encode(latent, q=0.3, seed=5) == codec.encode(original, q=0.3, seed=5)
    data, decoded = codec.encode_with_reconstruction(latent, q=0.7)
    assert data == codec.encode(original, q=0.7) and np.array_equal(decoded, codec.decode(data))
    assert codec.estimate_bits(latent, q=0.5) == codec.estimate_bits(original, q=0.5)
    other = replace(latent, model=1)
    with pytest.raises(ValueError, match="latent of model 00000001"):
        codec.encode(other)


def test_bytes_are_never_passed_and_nearly_reached(
    codec: Codec, original: np.ndarray, sizes: list[int]
) -> None:
    for limit in range(min(sizes), max(sizes) + 200, 97):
        fit = TargetBytes(limit).search(codec, original, seed=None)
        best = max(size for size in sizes if size <= limit)
        assert len(fit.data) == fit.value <= limit
        assert fit.value > 0.97 * best, "two steps of q below what was possible"
        assert fit.trials <= 9, "bisection of 256 values of q, and both ends"
        assert container.unpack(fit.data).header.q == round(255 * fit.q)


def test_the_public_function_and_the_rate(original: np.ndarray) -> None:
    reported: list[tuple[str, float]] = []
    progress = lambda what, part: reported.append((what, part))  # noqa: E731
    data = encode_to(original, TargetBpp(0.8), seed=3, progress=progress)
    assert reported[0] == ("analysis", 0.0) and reported[-1][0].startswith("try ") and 0 < reported[-1][1] < 1
    assert container.unpack(data).header.seed == 3
    assert 0.7 < 8 * len(data) / (96 * 128) <= 0.8
    again = sfumato.encode_to(original, sfumato.TargetBytes(len(data)), seed=3)
    assert 0.97 * len(data) < len(again) <= len(data)


def test_quality_is_reached_by_a_file_that_is_not_much_too_large(codec: Codec, original: np.ndarray) -> None:
    low, high = (psnr(original, codec.decode(codec.encode(original, q=q))) for q in (0.1, 0.9))
    floor = (low + high) / 2
    fit = TargetPSNR(floor).search(codec, original)
    assert psnr(original, codec.decode(fit.data)) == fit.value >= floor
    below = codec.encode(original, q=fit.q - 8 / 255)  # neighbours may be equal to .01 dB
    assert psnr(original, codec.decode(below)) < floor
    assert TargetPSNR(low / 2).search(codec, original).q == 0


def test_any_distance_can_be_a_goal(codec: Codec, original: np.ndarray) -> None:
    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a.astype(float) - b).mean())

    ends = [difference(original, codec.decode(codec.encode(original, q=q))) for q in (0, 1)]
    ceiling = math.sqrt(ends[0] * ends[1])
    fit = TargetDistance(ceiling, difference).search(codec, original)
    assert 0.96 * ceiling < fit.value <= ceiling
    assert difference(original, codec.decode(fit.data)) == fit.value
    with pytest.raises(ValueError, match="not a number"):
        TargetDistance(ceiling, lambda a, b: math.nan).search(codec, original)


def test_what_cannot_be_met_names_what_can(codec: Codec, original: np.ndarray, sizes: list[int]) -> None:
    span = rf"has {sizes[0]} bytes \(q = 0\) to {sizes[-1]} bytes \(q = 1\)"
    with pytest.raises(TargetError, match=rf"{sizes[0] - 1} bytes cannot be met.*{span}"):
        TargetBytes(sizes[0] - 1).search(codec, original)
    with pytest.raises(TargetError, match=r"0\.001 bits per pixel cannot be met.*bits per pixel \(q = 1\)"):
        TargetBpp(0.001).search(codec, original)
    with pytest.raises(TargetError, match=r"PSNR of 90 dB cannot be met.* dB \(q = 1\)"):
        TargetPSNR(90).search(codec, original)
    assert TargetBytes(min(sizes)).search(codec, original).value == min(sizes)
    assert TargetBytes(10**9).search(codec, original).q == 1, "a limit above the largest file is met by it"


@pytest.mark.parametrize(
    "goal",
    [lambda: TargetBytes(0), lambda: TargetBpp(0), lambda: TargetBpp(math.inf), lambda: TargetPSNR(math.nan)],
)
def test_goals_that_cannot_be_meant(goal: Callable[[], Target]) -> None:
    with pytest.raises(ValueError, match="a target"):
        goal()


@given(
    st.lists(st.floats(-3, 3), min_size=256, max_size=256),
    st.floats(-1, 1),
    st.booleans(),
)
def test_the_bracket_holds_for_any_heights(heights: list[float], tilt: float, wanted_below: bool) -> None:
    """Also where they rise and fall at random, and the expected curve has nothing to do with them."""
    tried: list[int] = []

    def height(q: int) -> float:
        tried.append(q)
        return heights[q]

    low, high = bisect(height, lambda q: tilt * (q - 100) / 50, wanted_below)
    assert low < high and len(tried) <= 16 and len(tried) == len(set(tried))
    assert low == -1 or (low in tried and heights[low] < 0)
    assert high == 256 or (high in tried and heights[high] >= 0)
    assert not wanted_below or low >= 0 or 0 in tried
    assert wanted_below or high <= 255 or 255 in tried


@given(st.integers(-1, 255), st.floats(0.5, 2), st.booleans())
def test_the_bracket_is_exact_for_a_curve_of_the_expected_kind(
    last: int, factor: float, wanted_below: bool
) -> None:
    """Heights that rise by another factor than expected, and pass 0 after `last`."""
    low, high = bisect(lambda q: factor * (q - last - 0.5), lambda q: q - 128.0, wanted_below)
    miss = last - low if wanted_below else high - last - 1
    assert miss == 0 if factor >= 1 else 0 <= miss <= 1 / factor, "a flatter curve hides a better q or two"


def test_lpips_is_reached_with_weights_from_the_folder(
    codec: Codec, original: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFUMATO_METRICS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="alexnet_features.safetensors: no such file"):
        TargetLPIPS(0.1).search(codec, original)
    random_metric(tmp_path, "alex")
    ends = [lpips.distance(original, codec.decode(codec.encode(original, q=q))) for q in (0.1, 0.9)]
    ceiling = sum(ends) / 2
    fit = TargetLPIPS(ceiling).search(codec, original)
    below = codec.encode(original, q=fit.q - 8 / 255)
    assert fit.value <= ceiling < lpips.distance(original, codec.decode(below))
    assert fit.value == pytest.approx(lpips.distance(original, codec.decode(fit.data)))
    with pytest.raises(ValueError, match="sides of at least 31 pixels are needed, got 40x20"):
        TargetLPIPS(0.1).search(codec, original[:20, :40])
    with pytest.raises(TargetError, match="an LPIPS of 1e-06 cannot be met: this image has an LPIPS of"):
        TargetLPIPS(1e-6).search(codec, original)


def test_lpips_of_large_images_is_that_of_their_bands(
    original: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFUMATO_METRICS", str(random_metric(tmp_path, "alex")))
    other = (original // 2).astype(np.uint8)
    parts = [lpips.distance(original[rows], other[rows]) for rows in (slice(0, 48), slice(48, 96))]
    monkeypatch.setattr(lpips, "STRIP_PIXELS", original[..., 0].size // 2)
    assert lpips.distance(original, other) == pytest.approx(sum(parts) / 2)


def test_a_tint_that_is_taken_out_counts_as_an_error(codec: Codec) -> None:
    row, column = np.mgrid[:96, :128]
    grey = (60 + row + 20 * np.sin(column / 9)).astype(np.uint8)
    tinted = np.dstack([grey, grey + 2, grey])
    result = TargetPSNR(38.0).search(codec, tinted, few_colours=False)
    decoded = codec.decode_image(result.data)
    assert decoded.pixels.ndim == 2 and result.value >= 38
    assert result.value == pytest.approx(psnr(tinted, decoded.rgb))


def test_of_a_grey_file_the_image_that_is_decoded_is_measured(codec: Codec, original: np.ndarray) -> None:
    grey = original[..., 1]
    result = TargetPSNR(33.0).search(codec, grey)
    assert result.value == pytest.approx(psnr(grey, codec.decode(result.data)))
