"""python -m benchmarks.rate_control DIR -o CSV: how close files come to a target, and at what cost.

Every image at five rates, at PSNRs and, with its weights, at LPIPS; the processor time over that
of a plain encode at the q that was found, both measured in turn.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.measure import images_in
from sfumato import image
from sfumato.codec import Codec, load
from sfumato.files import write_csv
from sfumato.lpips import ALEX_FEATURES, weights_folder
from sfumato.rate_control import Target, TargetBpp, TargetError, TargetLPIPS, TargetPSNR

RATES = (0.1, 0.2, 0.3, 0.4, 0.6)
DECIBELS = (27.0, 29.0, 31.0)
DISTANCES = (0.30, 0.20, 0.12)


def rows(codec: Codec, path: Path, perceptual: bool) -> list[list[object]]:
    """One row a goal: what was asked, what was got, the shortfall in percent, tries and times."""
    pixels = image.read(path)

    goals: list[tuple[str, float, Target]] = [("bpp", bpp, TargetBpp(bpp)) for bpp in RATES]
    goals += [("psnr_db", floor, TargetPSNR(floor)) for floor in DECIBELS]
    if perceptual:
        goals += [("lpips_alex", most, TargetLPIPS(most)) for most in DISTANCES]
    found: list[list[object]] = []
    for kind, asked, goal in goals:
        begun = time.process_time()
        try:
            fit = goal.search(codec, pixels)
        except TargetError as error:
            print(f"{path.name}: {error}")
            continue
        search = time.process_time() - begun
        begun = time.process_time()
        codec.encode(pixels, q=fit.q)
        plain = time.process_time() - begun
        off = 100 * abs(1 - fit.value / asked)
        times = [f"{search:.3f}", f"{plain:.3f}", f"{search / plain:.2f}"]
        figures = [f"{fit.value:.5f}", f"{off:.3f}", f"{fit.q:.4f}", fit.trials]
        found.append([path.stem, kind, asked, *figures, *times])
        wrong = fit.value > asked if kind != "psnr_db" else fit.value < asked
        if wrong:
            raise SystemExit(f"{path.name}: {fit.value} misses the target {asked} {kind}")
    return found


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    first: int | None = None,
) -> None:
    """Search q for each target on each image.

    Args:
        images: folder of images.
        output: the CSV file.
        model: weights by name, or a path.
        first: only so many images.
    """
    codec = load(model)
    perceptual = (weights_folder() / ALEX_FEATURES).is_file()
    paths = images_in(images)[:first]
    codec.encode(image.read(paths[0]))  # the first call is slow
    table: list[list[object]] = []
    for path in paths:
        table += rows(codec, path, perceptual)
    heading = ["image", "kind", "target", "reached", "off_percent", "q", "trials"]
    write_csv(output, [*heading, "search_s", "encode_s", "times_encode"], table)
    for kind in dict.fromkeys(row[1] for row in table):
        ends = [row for row in table if row[1] == kind and float(str(row[5])) in (0, 1)]
        chosen = [row for row in table if row[1] == kind and row not in ends]
        off, trials, times = ([float(str(row[i])) for row in chosen] for i in (4, 6, 9))
        print(
            f"{kind}: {len(chosen)} files, none misses; off by {statistics.mean(off):.2f} % on average, "
            f"{max(off):.2f} % at most; {statistics.mean(trials):.2f} trials on average, "
            f"{max(trials):.0f} at most; {statistics.median(times):.2f} plain encodes "
            f"(median), {max(times):.2f} at most; {len(ends)} more are at q = 0 or 1"
        )


if __name__ == "__main__":
    tyro.cli(main)
