"""Where tiles meet in a smooth image nothing shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import sfumato
from sfumato import seams, tiles
from sfumato.decode_options import Crop

HEIGHT, WIDTH, BORDER = 1984, 2176, 1024


def dusk() -> np.ndarray:
    """A sky of a little over 4 megapixels, which is coded in tiles, with the noise of a camera."""
    row = np.arange(HEIGHT)[:, None] * np.ones(WIDTH)
    glow = np.exp(-((row - HEIGHT * 0.7) ** 2) / (2 * (HEIGHT * 0.5) ** 2))
    sky = np.stack([90 + 120 * glow, 70 + 70 * glow, 110 - 30 * glow], -1)
    noise = np.random.default_rng(0).normal(0, 1, sky.shape)
    return (sky + noise).clip(0, 255).round().astype(np.uint8)


def haze() -> np.ndarray:
    """Smooth light around a sun, without noise."""
    row, column = np.arange(HEIGHT)[:, None] / HEIGHT, np.arange(WIDTH) / WIDTH
    sun = np.exp(-4 * np.hypot(row - 0.3, column - 0.6))
    return np.stack([150 + 100 * sun, 170 + 70 * sun, 200 + 40 * sun], -1).round().astype(np.uint8)


@pytest.mark.parametrize(("sky", "q"), [(dusk, 0.3), (haze, 0.3)])
def test_the_error_across_a_border_is_no_larger_than_elsewhere(
    sky: Callable[[], np.ndarray], q: float
) -> None:
    """It was 1.9 to 2.2 times the largest elsewhere in the dusk, and 1.1 in the haze; now 0.5."""
    original = sky()
    assert len(tiles.grid(HEIGHT, WIDTH)) == 6
    crop = Crop(BORDER - 128, 200, 256, 600)
    decoded = sfumato.decode(sfumato.encode(original, q=q), crop=crop).astype(float)
    error = (decoded - original[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]).mean(0)

    def step(column: int) -> float:
        """How far 8 columns are off from those 20 to 40 pixels beside them."""
        beside = np.concatenate([error[column - 40 : column - 20], error[column + 20 : column + 40]])
        return float(np.abs(error[column - 4 : column + 4].mean(0) - beside.mean(0)).max())

    elsewhere = max(step(column) for column in range(44, 212, 4) if abs(column - 128) >= 24)
    assert step(128) <= 0.9 * elsewhere


def test_only_the_rims_change_and_by_no_more_than_half_a_step() -> None:
    codec = sfumato.load()
    coder = codec._latent_coder
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(0, 2, (1, coder.channels, 16, 32))).astype(np.float32)
    z = np.zeros((1, coder.z_channels, 4, 8))
    pair = [tiles.Tile(0, 0, 0, 4, 4), tiles.Tile(1, 0, 4, 4, 4)]
    after, alone = y.copy(), y.copy()
    seams.smooth(coder.prior, 0.5, after, z, pair)
    seams.smooth(coder.prior, 0.5, alone, z, pair[:1])
    changed = np.flatnonzero((after != y).any((0, 1, 2)))
    assert changed.min() >= 16 - seams.RIM and changed.max() < 16 + seams.RIM
    assert 0 < np.abs(after - y).max() <= seams.HALF
    assert np.array_equal(alone, y)


def test_where_four_tiles_meet_all_four_are_looked_at() -> None:
    """The means there came from two of the four, and the last of two passes undid the first."""
    codec = sfumato.load()
    coder = codec._latent_coder
    rng = np.random.default_rng(0)
    y = np.round(rng.normal(0, 2, (1, coder.channels, 32, 32))).astype(np.float32)
    z = np.zeros((1, coder.z_channels, 8, 8))
    four = [tiles.Tile(n, 4 * (n // 2), 4 * (n % 2), 4, 4) for n in range(4)]
    corner = slice(16 - seams.RIM, 16 + seams.RIM)
    changed, other = y.copy(), y.copy()
    other[..., 18:22, 18:22] += 0.25  # of the last tile alone: seen from the first one's corner
    start = other.copy()
    seams.smooth(coder.prior, 0.5, changed, z, four)
    seams.smooth(coder.prior, 0.5, other, z, four)
    assert np.abs(changed - y)[..., corner, corner].max() <= seams.HALF
    assert np.abs(other - start)[..., corner, corner].max() <= seams.HALF
    assert not np.array_equal(changed[..., 12:16, 12:16], other[..., 12:16, 12:16])
    three = y.copy()
    seams.smooth(coder.prior, 0.5, three, z, four[:3])
    assert np.abs(three - y).max() > 0
