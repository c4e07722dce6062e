"""python -m studies.flat_colours -o CSV: whether flat colours come back flat, inside and at the border.

A codec of patches, padding and learned biases can tint a flat field or give it a rim.  Images of one colour
are coded at each quality, by the networks alone and as by default, where a lossless stream is the smaller
file; the largest error of any sample is noted, inside and at the outermost pixels.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from sfumato import container
from sfumato.codec import load
from sfumato.decode_options import DecodeOptions
from sfumato.files import write_csv

COLUMNS = ("model", "file", "colour", "q", "steps", "bytes", "largest_inside", "largest_at_border")
SIDE = 256  # pixels
COLOURS = {
    "green": (0, 255, 0),
    "cyan": (0, 255, 255),
    "blue": (0, 0, 255),
    "red": (255, 0, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey 32": (32, 32, 32),
    "grey 128": (128, 128, 128),
    "grey 224": (224, 224, 224),
}


def errors(decoded: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Largest absolute error in grey levels (of the interior, of the outermost pixels)."""
    error = np.abs(decoded.astype(int) - np.array(colour)).max(-1)
    border = max(error[0].max(), error[-1].max(), error[:, 0].max(), error[:, -1].max())
    return int(error[1:-1, 1:-1].max()), int(border)


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    models: tuple[str, ...] = ("small",),
    qualities: tuple[float, ...] = (0.0, 0.5, 1.0),
    steps: tuple[int, ...] = (0, 1),
) -> None:
    """Code the flat images with each model.

    Args:
        output: the CSV file.
        models: weights by name, or paths.
        qualities: q of the files.
        steps: numbers of steps.
    """
    rows: list[list[object]] = []
    for model in models:
        codec = load(model)
        for name, colour in COLOURS.items():
            image = np.full((SIDE, SIDE, 3), colour, np.uint8)
            for few_colours, q in product((False, True), qualities):
                data = codec.encode(image, q=q, few_colours=few_colours)
                header = container.unpack(data).header
                kind = header.model_name if header.holds_pixels else "latent"
                for count in steps:
                    if count and not codec.denoiser_id:
                        continue
                    shown = codec.decode_image(data, DecodeOptions(steps=count))
                    inside, border = errors(shown.rgb, colour)
                    rows.append([f"{codec.model_id:08x}", kind, name, q, count, len(data), inside, border])
                    print(*rows[-1], sep="  ", flush=True)
    write_csv(output, COLUMNS, rows)


if __name__ == "__main__":
    tyro.cli(main)
