"""python -m benchmarks.seams -o CSV: does anything show where tiles meet in smooth images of 12 megapixels?

Three skies are coded at every q of .1 .. .9.  Of the error, the mean over 8 pixels across and 64 or 512 along
is compared with the same 20 to 40 pixels beside it: at every border of tiles, where four tiles meet, and at
all other places.  The largest difference across borders should be no more than twice that elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from sfumato.codec import load
from sfumato.files import write_csv
from sfumato.tiles import CELL, SIDE

TILE = CELL * SIDE
COLUMNS = ("image", "q", "bytes", "along", "at_borders", "at_corners", "elsewhere", "ratio")


def skies(height: int, width: int) -> dict[str, NDArray[np.uint8]]:
    """Smooth images: a dusk with the noise of a camera, a clear gradient, a haze around the sun."""
    row, column = np.mgrid[0:height, 0:width].astype(np.float32)
    row, column = row / height, column / width
    glow = np.exp(-((row - 0.7) ** 2) / 0.5)
    sun = np.exp(-4 * np.hypot(row - 0.3, column - 0.6))
    noise = np.random.default_rng(0).normal(0, 1, (height, width, 3)).astype(np.float32)
    both = 100 * (row + column)
    images = {
        "dusk": np.stack([90 + 120 * glow, 70 + 70 * glow, 110 - 30 * glow], -1) + noise,
        "gradient": np.stack([0.3 * both + 66, 0.45 * both + 89, 0.4 * both + 148], -1),
        "haze": np.stack([150 + 100 * sun, 170 + 70 * sun, 200 + 40 * sun], -1),
    }
    return {name: pixels.clip(0, 255).round().astype(np.uint8) for name, pixels in images.items()}


def steps(error: NDArray[np.float32], along: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """[bands, columns]: how far 8 columns are off from those beside, the largest of R, G and B; and which
    bands touch a border of rows.
    """
    height = error.shape[0] // along * along
    bands = error[:height].reshape(-1, along, *error.shape[1:]).mean(1)
    total = np.cumsum(np.pad(bands, ((0, 0), (1, 0), (0, 0))), 1, dtype=np.float64)

    def mean(first: int, last: int) -> NDArray[np.float64]:
        """Over the columns c + first .. c + last, for c from 40 to the width less 40."""
        count = bands.shape[1] - 80
        start, end = 40 + first, 40 + last
        return (total[:, end : end + count] - total[:, start : start + count]) / (last - first)

    off = np.abs(mean(-4, 4) - (mean(-40, -20) + mean(20, 40)) / 2).max(2)
    first = np.arange(len(bands)) * along
    touches = (first // TILE != (first + along) // TILE) | (first % TILE == 0)
    touches[0] = False
    return off, touches


def measure(error: NDArray[np.float32], along: int) -> tuple[float, float, float]:
    """The largest difference (at borders, at corners, elsewhere), levels, over columns and rows."""
    found = []
    for turned in (error, error.transpose(1, 0, 2)):
        off, touches = steps(turned, along)
        column = np.arange(off.shape[1]) + 40
        near = np.abs((column + TILE // 2) % TILE - TILE // 2)  # to the next border
        at = (near == 0) & (column >= TILE // 2)
        corners = off[touches][:, at].max() if touches.any() else 0.0
        found.append((off[:, at].max(), corners, off[~touches][:, near > 48].max()))
    borders, corners, elsewhere = zip(*found, strict=True)
    return max(borders), max(corners), max(elsewhere)


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    height: int = 3000,
    width: int = 4000,
    qualities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> None:
    """Measure; exit code 1 where a ratio is over 2.

    Args:
        output: CSV file, a row for each image, q and length.
        height: of the images, pixels.
        width: of the images, pixels.
        qualities: q to try.
    """
    codec, rows, worst = load(), [], 0.0
    for name, pixels in skies(height, width).items():
        latent = codec.analyze(pixels)
        for q in qualities:
            data = codec.encode(latent, q=q)
            error = codec.decode(data).astype(np.float32) - pixels
            for along in (64, 512):
                border, corner, elsewhere = measure(error, along)
                ratio = max(border, corner) / elsewhere
                worst = max(worst, ratio)
                figures = (f"{value:.3f}" for value in (border, corner, elsewhere, ratio))
                rows.append((name, q, len(data), along, *figures))
                print(*rows[-1], sep=",", flush=True)
    if output is not None:
        write_csv(output, COLUMNS, rows)
    sys.exit(1 if worst > 2 else 0)


if __name__ == "__main__":
    tyro.cli(main)
