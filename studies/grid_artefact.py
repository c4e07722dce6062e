"""python -m studies.grid_artefact DIR -o CSV: whether all decoded images have one pattern of 8 x 8 pixels.

Transforms that work on patches can.  Two looks at it: the mean error at each place of the patch, over all
patches of all images, and the power at multiples of 1/8 cycle a pixel, as a share of the originals'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float, UInt8

from evaluation.measure import images_in
from sfumato.codec import load
from sfumato.decode_options import DecodeOptions
from sfumato.files import write_csv
from sfumato.image import read

COLUMNS = ("model", "q", "steps", "bpp", "tile_rms_levels", "highest_peak", "median_peak")
PERIOD = 8  # pixels
SIDE = 512  # pixels of the part that is transformed, from the middle
LUMA = np.array([0.299, 0.587, 0.114])  # BT.601

RGB = UInt8[np.ndarray, "h w 3"]


def tile(original: RGB, decoded: RGB) -> Float[np.ndarray, "8 8 3"]:
    """Mean error at each place of the patch, in grey levels, less that of the image."""
    height, width = (side // PERIOD * PERIOD for side in original.shape[:2])
    error = decoded[:height, :width].astype(np.float64) - original[:height, :width]
    mean = error.reshape(height // PERIOD, PERIOD, width // PERIOD, PERIOD, 3).mean((0, 2))
    return mean - mean.mean((0, 1))


def peaks(rgb: RGB) -> Float[np.ndarray, " n"]:
    """Power of the luma at the multiples of 1/8 cycle a pixel, a half of the plane, without its mean."""
    top, left = ((side - SIDE) // 2 for side in rgb.shape[:2])
    luma = rgb[top : top + SIDE, left : left + SIDE] @ LUMA
    window = np.hanning(SIDE)
    power = np.abs(np.fft.rfft2((luma - luma.mean()) * np.outer(window, window))) ** 2
    return power[:: SIDE // PERIOD, :: SIDE // PERIOD].ravel()[1:]


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    models: tuple[str, ...] = ("small",),
    qualities: tuple[float, ...] = (0.2, 0.5),
    steps: tuple[int, ...] = (0, 1),
) -> None:
    """Look for the pattern in the files of each model.

    Args:
        images: folder of images, sides of 512 pixels at least.
        output: the CSV file.
        models: weights by name, or paths.
        qualities: q of the files.
        steps: numbers of steps.
    """
    originals = [read(path) for path in images_in(images)]
    expected = np.sum([peaks(original) for original in originals], 0)
    rows: list[list[object]] = []
    for name in models:
        codec = load(name)
        for q in qualities:
            files = [codec.encode(original, q=q) for original in originals]
            bpp = np.mean([8 * len(d) / o[..., 0].size for d, o in zip(files, originals, strict=True)])
            for count in steps:
                decoded = [codec.decode_image(data, DecodeOptions(steps=count)).rgb for data in files]
                mean = np.mean([tile(o, d) for o, d in zip(originals, decoded, strict=True)], 0)
                ratio = np.sum([peaks(rgb) for rgb in decoded], 0) / expected
                figures = f"{bpp:.4f}", f"{np.sqrt((mean**2).mean()):.3f}"
                shares = f"{ratio.max():.2f}", f"{np.median(ratio):.2f}"
                rows.append([f"{codec.model_id:08x}", q, count, *figures, *shares])
                print(*rows[-1], sep="  ", flush=True)
    write_csv(output, COLUMNS, rows)


if __name__ == "__main__":
    tyro.cli(main)
