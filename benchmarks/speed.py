"""python -m benchmarks.speed PICTURE -o results/X/speed.csv: medians of encode and decode, beside AVIF's.

All rows come from one run on one machine, so the ratios mean something where the seconds do not.
"""

from __future__ import annotations

import csv
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image

from sfumato import image
from sfumato.codec import Codec
from sfumato.model import load_weights


def main(
    picture: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    runs: int = 7,
    threads: int = 2,
    model: str = "small",
    quality: float = 0.5,
) -> None:
    """Time the codec on one picture.

    Args:
        picture: the picture.
        output: the CSV file.
        runs: of each kind; the median counts.
        threads: of torch.  AVIF chooses its own.
        model: name of weights.
        quality: of the file.
    """
    torch.set_num_threads(threads)
    pixels = image.read(picture)
    weights = load_weights(model)
    note = "" if weights.denoiser_id else " (untrained denoiser)"  # which takes as long as a trained one
    codec = Codec(replace(weights, denoiser_id=weights.denoiser_id or "untrained"))
    data = codec.encode(pixels, quality)
    pillow = Image.fromarray(pixels)
    avif = io.BytesIO()

    def write_avif() -> None:
        avif.seek(0)
        pillow.save(avif, "AVIF", quality=50, speed=4, subsampling="4:4:4")

    def read_avif() -> None:
        avif.seek(0)
        with Image.open(avif) as opened:
            opened.load()

    kinds: dict[str, Callable[[], object]] = {
        "AVIF encode (Pillow, speed 4, 4:4:4)": write_avif,
        "AVIF decode": read_avif,
        "load weights": lambda: Codec(load_weights(model)),
        "encode": lambda: codec.encode(pixels, quality),
        "decode, steps 0": lambda: codec.decode(data, steps=0),
        f"decode, steps 1{note}": lambda: codec.decode(data, steps=1),
        f"decode, steps 4{note}": lambda: codec.decode(data, steps=4),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(runs):  # in turn, so that a busy minute hits all kinds alike
        for name, function in kinds.items():
            begun = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    anchor = next(iter(medians.values()))
    height, width = pixels.shape[:2]
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "width", "height", "threads", "runs", "median_s", "times_avif_encode"])
        for name, median in medians.items():
            ratio = f"{median / anchor:.2f}"
            writer.writerow([name, width, height, threads, runs, f"{median:.3f}", ratio])
            print(f"{name:45} {median:7.3f} s  {ratio:>6} x AVIF encode  ({threads} threads, {runs} runs)")


if __name__ == "__main__":
    tyro.cli(main)
