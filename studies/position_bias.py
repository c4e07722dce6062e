"""python -m studies.position_bias DIR -o CSV: width of the Laplacian bias and share of the bits by chunk.

The paper's claim: early chunks, which have the least context of other channels, look wider around them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from evaluation.measure import images_in
from sfumato import image
from sfumato.codec import Codec
from sfumato.files import write_csv
from sfumato.weights import read_weights

QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
) -> None:
    """Measure ideal bits of every section over a folder, and print them beside A_j and sigma_j.

    Args:
        images: folder of images.
        output: the CSV file.
        model: weights by name, or a path.
    """
    weights = read_weights(model)
    config, reach = weights.config, weights.position_bias
    codec = Codec(weights)
    bits = np.zeros((len(QUALITIES), len(codec.sections)))
    pixels = 0
    for path in images_in(images):
        rgb = image.read(path)
        pixels += rgb.shape[0] * rgb.shape[1]
        bits += [codec.estimate_bits(rgb, q=q) for q in QUALITIES]
    names = [f"bpp_at_q{q:g}" for q in QUALITIES] + [f"share_at_q{q:g}" for q in QUALITIES]
    rows = []
    for section, name in enumerate(codec.sections):
        a, sigma = (f"{v:.3f}" for v in reach[section - 1]) if section else ("", "")
        channels = config.chunks[section - 1] if section else config.z_channels
        rates = [f"{b / pixels:.4f}" for b in bits[:, section]]
        rows.append([name, channels, a, sigma, *rates, *(f"{s:.3f}" for s in bits[:, section] / bits.sum(1))])
    heading = ["section", "channels", "A", "sigma", *names]
    write_csv(output, heading, rows)
    shown = [0, 1, 2, 3, *range(len(heading) - len(QUALITIES), len(heading))]
    table = Table(*(heading[i].replace("share_at_", "") for i in shown), title="share of the bits")
    for row in rows:
        table.add_row(*(str(row[i]) for i in shown))
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
