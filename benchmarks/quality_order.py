"""python -m benchmarks.quality_order -o CSV: does a larger q ever give a larger and worse file?

Flat, smooth and dark images, at q = 0, 0.1 .. 1: coded with the very q, and as `encode` does, which tries
several for nearly flat images.  PSNR is that of the default decoding.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray

from sfumato.codec import load
from sfumato.distortion import psnr
from sfumato.files import write_csv

COLUMNS = ("image", "rate_proxy_per_pixel", "coding", "q", "bytes", "psnr_db", "lower_q_smaller_and_better")
FLATS = {
    "grey": (128, 128, 128), "green": (0, 255, 0), "black": (0, 0, 0), "white": (255, 255, 255),
    "blue": (20, 40, 200), "skin": (220, 180, 150),
}  # fmt: skip


def images(height: int, width: int) -> dict[str, NDArray[np.uint8]]:
    """uint8 [height, width, 3] by name."""
    row, column = np.mgrid[0:height, 0:width]
    down, right = row / height, column / width
    rng = np.random.default_rng(0)
    away = np.hypot(down - 0.5, 1.5 * (right - 0.5))

    def colours(*channels: NDArray | float) -> NDArray[np.uint8]:
        stacked = np.stack([np.broadcast_to(channel, (height, width)) for channel in channels], -1)
        return stacked.clip(0, 255).round().astype(np.uint8)

    def noise(mean: NDArray | float, sigma: float) -> NDArray[np.uint8]:
        return colours(*(mean + rng.normal(0, sigma, (height, width)) for _ in range(3)))

    return {
        **{f"flat {name}": colours(*channels) for name, channels in FLATS.items()},
        "gradient": colours(right * 255, right * 255, right * 255),
        "gradient of colours": colours(right * 200 + 20, down * 200 + 30, 120),
        "dark gradient": colours(right * 20, right * 18 + 2, down * 25),
        "sky": colours(90 + down * 51, 130 + down * 64, 210 + down * 26),
        "flat with noise": noise(128, 1),
        "dark with noise": noise(12, 1),
        "dark with more noise": noise(20, 3),
        "night": noise(8 + 30 * np.exp(-20 * away**2), 2),
        "halves": colours(np.where(right < 0.5, 40, 200), 90, 120),
        "disc": colours(*(np.where(away < 0.3, a, b) for a, b in ((220, 30), (30, 60), (40, 90)))),
        "glow": colours(255 - 200 * away, 255 - 230 * away, 255 - 255 * away),
    }


def main(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None, height: int = 256, width: int = 384
) -> None:
    """Code all images at all q; exit code 1 where `encode` gives a larger and worse file for a larger q.

    Args:
        output: CSV file, a row for each image, coding and q.
        height: of the images, pixels.
        width: of the images, pixels.
    """
    codec, rows = load(), []
    counts = {"the very q": 0, "encode": 0}
    for name, pixels in images(height, width).items():
        latent = codec.analyze(pixels)
        share = codec.rate_proxy(latent, 0.5) / pixels[..., 0].size
        for coding, source in (("the very q", latent), ("encode", pixels)):
            seen: list[tuple[int, float]] = []
            for step in range(11):
                data = codec.encode(source, q=step / 10)
                point = len(data), psnr(pixels, codec.decode_image(data).rgb)
                worse = sum(size < point[0] and decibels > point[1] for size, decibels in seen)
                seen.append(point)
                counts[coding] += worse
                rows.append((name, f"{share:.4f}", coding, step / 10, point[0], f"{point[1]:.3f}", worse))
                print(*rows[-1], sep=",", flush=True)
    print(", ".join(f"{coding}: {count} pairs" for coding, count in counts.items()))
    if output is not None:
        write_csv(output, COLUMNS, rows)
    sys.exit(1 if counts["encode"] else 0)


if __name__ == "__main__":
    tyro.cli(main)
