"""python -m studies.previews DIR -o results/X/preview.csv: what the first chunks of a file are worth.

For each image, quality and number of chunks: the share of the file that is needed, the quality of the
image, that of its thumbnail of an eighth of the size against the thumbnail of the whole file, and the time
to decode.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image

from evaluation.measure import images_in
from metrics.distortion import psnr
from metrics.lpips import load_lpips
from metrics.perceptual import LPIPS
from sfumato import container, image
from sfumato.codec import Codec, load
from sfumato.errors import FormatError
from sfumato.files import write_csv

REDUCTION = 8


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """The mean of every 8 x 8 pixels."""
    return np.asarray(Image.fromarray(pixels).reduce(REDUCTION))


def prefix(data: bytes, chunks: int) -> int:
    """How many bytes of the file hold its header, z and so many chunks."""
    low, high = 0, len(data)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            enough = len(container.unpack(data[:middle], partial=True).sections) > chunks
        except FormatError:
            enough = False
        low, high = (low, middle) if enough else (middle, high)
    return high


def rows(codec: Codec, path: Path, quality: float, lpips: LPIPS | None, runs: int) -> list[list[object]]:
    """One row for each number of chunks."""
    pixels = image.read(path)
    data = codec.encode(pixels, q=quality)
    seconds: dict[int, list[float]] = {chunks: [] for chunks in range(1, len(codec.sections))}
    images: dict[int, np.ndarray] = {}
    for _ in range(runs):  # in turn, so that a busy minute hits all alike
        for chunks in seconds:
            begun = time.perf_counter()
            images[chunks] = codec.decode(data, chunks=chunks)
            seconds[chunks].append(time.perf_counter() - begun)
    whole = statistics.median(seconds[max(seconds)])
    found: list[list[object]] = []
    for chunks, rgb in images.items():
        needed = prefix(data, chunks)
        x, x_hat = (torch.from_numpy(image.to_x(p)) for p in (pixels, rgb))
        distance = None if lpips is None else float(lpips(x, x_hat))
        small = f"{psnr(thumbnail(images[max(images)]), thumbnail(rgb)):.2f}"
        median = statistics.median(seconds[chunks])
        figures = [f"{needed / len(data):.3f}", f"{psnr(pixels, rgb):.3f}"]
        figures += ["" if distance is None else f"{distance:.4f}", small]
        figures += [f"{median:.3f}", f"{median / whole:.2f}"]
        found.append([path.stem, quality, chunks, needed, *figures])
    return found


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    metrics: Path | None = None,
    model: str = "small",
    first: int | None = None,
    qualities: tuple[float, ...] = (0.25, 0.5, 0.75),
    runs: int = 3,
) -> None:
    """Decode the first chunks of files.

    Args:
        images: folder of images.
        output: the CSV file.
        metrics: folder with the LPIPS weights; without it that column stays empty.
        model: weights by name, or a path.
        first: only so many images.
        qualities: of the files.
        runs: of each decode; the median counts.
    """
    codec = load(model)
    lpips = None if metrics is None else load_lpips("alex", metrics)
    table: list[list[object]] = []
    for path in images_in(images)[:first]:
        for quality in qualities:
            table += rows(codec, path, quality, lpips, runs)
    heading = ["image", "q", "chunks", "bytes", "share", "psnr_db", "lpips_alex", "thumbnail_db"]
    write_csv(output, [*heading, "decode_s", "times_whole"], table)
    for quality in qualities:
        for chunks in range(1, len(codec.sections)):
            chosen = [row for row in table if row[1] == quality and row[2] == chunks]
            columns = ([float(str(row[i]) or "nan") for row in chosen] for i in (4, 5, 6, 7, 9))
            share, decibels, distance, small, times = (sum(column) / len(chosen) for column in columns)
            print(
                f"q {quality}, chunks {chunks}: {100 * share:5.1f} % of the bytes, {times:.2f} of the time, "
                f"PSNR {decibels:.2f}, LPIPS {distance:.3f}, thumbnail {small:.1f} dB from the whole file's"
            )


if __name__ == "__main__":
    tyro.cli(main)
