"""python -m studies.seeds DIR -o CSV: how much of what the steps change is drawn from the noise.

Files that differ by their seed alone are decoded, and compared with each other, with their mean, and with
the base reconstruction, which has no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import Float

from evaluation.measure import images_in
from sfumato.codec import Codec
from sfumato.decode_options import DecodeOptions
from sfumato.distortion import psnr
from sfumato.files import write_csv
from sfumato.image import read
from sfumato.weights import read_weights
from studies.denoisers import middle

HEADING = ("model", "image", "q", "seeds", "two_seeds_db", "sample_base_db", "mean_base_db", "sample_mean_db")

Image = Float[np.ndarray, "c h w"]


def spread(base: Image, samples: Sequence[Image]) -> tuple[float, float, float, float]:
    """PSNR in dB of images in [-1, 1], as `HEADING` has them; the samples are at least two."""
    mean = np.mean(samples, 0)
    pairs = ((samples[0], samples[1]), (samples[0], base), (mean, base), (samples[0], mean))
    one, two, three, four = (psnr(127.5 * a, 127.5 * b) for a, b in pairs)
    return one, two, three, four


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    qualities: tuple[float, ...] = (0.2, 0.5),
    seeds: int = 8,
) -> None:
    """Encode the middle of each image with several seeds, and compare what is decoded.

    Args:
        images: folder of images, sides of at least 384 pixels.
        output: the CSV file, a row for each image and quality.
        model: weights by name, or a path.
        qualities: q of the files.
        seeds: as many files of each image.
    """
    if seeds < 2:
        raise SystemExit(f"seeds is {seeds}; at least two are compared")
    weights = read_weights(model)
    codec, name = Codec(weights), f"{weights.model_id:08x}-{weights.denoiser_id}"
    rows: list[list[object]] = []
    for q in qualities:
        found = []
        for path in images_in(images):
            image = middle(read(path))
            files = [codec.encode(image, q=q, seed=seed) for seed in range(1, seeds + 1)]
            samples = [codec.decode_float(data) for data in files]
            found.append(spread(codec.decode_float(files[0], DecodeOptions(steps=0)), samples))
            rows.append([name, path.stem, f"{q:g}", seeds, *(f"{value:.2f}" for value in found[-1])])
        means = ", ".join(f"{key} {v:.1f}" for key, v in zip(HEADING[4:], np.mean(found, 0), strict=True))
        print(f"q {q:g}: {means}", flush=True)
        write_csv(output, HEADING, rows)


if __name__ == "__main__":
    tyro.cli(main)
