"""python -m studies.scaling DIR -o CSV: rate by resolution, time and memory by size.

Two looks at the shipped codec.  Rate: images as they are and reduced, in ideal bits of each section a pixel,
and what the global context saves of them (switched off, not trained anew: an upper bound).  Cost: real files
of a tiling of the same images at several sizes, each encoded and decoded in a process of its own, by one
thread: CPU seconds and peak memory a megapixel, less what a process takes that has only loaded the weights.
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.large import tiled_image
from evaluation.measure import images_in
from evaluation.plots import OTHERS
from sfumato import image
from sfumato.codec import Codec
from sfumato.files import write_csv
from sfumato.weights import read_weights
from studies.intervals import half_interval
from studies.knockouts import QUALITIES, context_off, without
from studies.steps import save

SCALES = (0.25, 0.5, 1.0)
SIZES = ((512, 768), (1024, 1536), (1536, 2048), (3000, 4000))  # 0.4, 1.6, 3.1 and 12 megapixels
Q = 0.5  # of the files whose cost is measured
ENCODE, STEPS = "encode", {"decode, no step": 0, "decode": None}
HEADING = ("what", "unit", "scale", "megapixels", "q", "section", "value", "interval", "images", "model")
RATE, SAVED = "rate", "more bits without the global context"
TIME, MEMORY, PEAK = "time", "memory", "peak memory"

RGB = UInt8[np.ndarray, "h w 3"]
Row = list[object]


def reduced(rgb: RGB, scale: float) -> RGB:
    """An image at a part of its resolution, by Lanczos with antialiasing; itself at 1."""
    if scale == 1:
        return rgb
    height, width = (round(scale * side) for side in rgb.shape[:2])
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS))


def rates(model: str, images: Sequence[RGB], scales: Sequence[float]) -> list[Row]:
    """Bits a pixel of each section, over all images; mean saving of the global context, with its interval."""
    weights = read_weights(model)
    whole = Codec(weights)
    bare = without(weights, context_off("global", weights.config.chunks))
    rows: list[Row] = []
    for scale in scales:
        pixels = 0
        bits: dict[float, np.ndarray] = {q: np.zeros(len(whole.sections)) for q in QUALITIES}
        saved: defaultdict[float, list[float]] = defaultdict(list)
        for original in images:
            rgb = reduced(original, scale)
            pixels += rgb.shape[0] * rgb.shape[1]
            for q in QUALITIES:
                found = whole.estimate_bits(rgb, q=q)
                bits[q] += found
                saved[q].append(100 * (sum(bare.estimate_bits(rgb, q=q)) / sum(found) - 1))
        megapixels = f"{pixels / len(images) / 1e6:.3f}"
        for q in QUALITIES:
            at: Row = [f"{scale:g}", megapixels, f"{q:g}"]
            for name, value in zip(whole.sections, bits[q] / pixels, strict=True):
                rows.append([RATE, "bpp", *at, name, f"{value:.5f}", "", len(images)])
            rows.append([RATE, "bpp", *at, "all", f"{bits[q].sum() / pixels:.5f}", "", len(images)])
            figures = f"{np.mean(saved[q]):.2f}", f"{half_interval(saved[q]):.2f}"
            rows.append([SAVED, "%", *at, "all", *figures, len(images)])
            print(f"scale {scale:g}, q {q:g}: {rows[-2][6]} bpp, {figures[0]} +- {figures[1]} %", flush=True)
    return rows


class Cost(NamedTuple):
    """Of one piece of work, in a process of its own."""

    seconds: float  # of CPU
    peak: float  # of resident memory, MB
    idle: float  # MB resident before it, with the weights loaded


def resident(what: str) -> float:
    """MB of this process's resident memory: "VmRSS", or its peak "VmHWM".

    Not `getrusage`, whose peak a process takes over from the one that started it.
    """
    found = re.search(rf"^{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError(f"the kernel does not say {what}")
    return int(found[1]) * 1024 / 1e6


def work(what: str, folder: Path, model: str) -> Cost:
    """Encode `image.npy` of the folder to `image.sfu`, or decode that."""
    codec = Codec(read_weights(model), threads=1)
    pixels = np.load(folder / "image.npy", mmap_mode="r") if what == ENCODE else None
    idle, begun = resident("VmRSS"), time.process_time()
    if pixels is not None:
        (folder / "image.sfu").write_bytes(codec.encode(np.array(pixels), q=Q))
    else:
        codec.decode((folder / "image.sfu").read_bytes(), steps=STEPS[what])
    return Cost(time.process_time() - begun, resident("VmHWM"), idle)


def costs(
    model: str, paths: list[Path], sizes: Sequence[tuple[int, int]], repeats: Mapping[int, int]
) -> list[Row]:
    """CPU seconds and MB a megapixel of encoding and decoding.

    repeats  number of pixels -> processes of which the median is taken, one where it says nothing
    """
    tiling = tiled_image(paths)
    spawn = multiprocessing.get_context("spawn")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for height, width in sizes:
            np.save(folder / "image.npy", tiling[:height, :width])
            area = height * width / 1e6
            for what in (ENCODE, *STEPS):
                found = []
                for _ in range(repeats.get(height * width, 1)):
                    with ProcessPoolExecutor(1, spawn) as pool:
                        found.append(pool.submit(work, what, folder, model).result())
                seconds = statistics.median(cost.seconds for cost in found)
                peak = statistics.median(cost.peak for cost in found)
                grown = statistics.median(cost.peak - cost.idle for cost in found)
                at: Row = ["", f"{area:.1f}", f"{Q:g}", what]
                rows.append([TIME, "CPU s a megapixel", *at, f"{seconds / area:.3f}", "", len(found)])
                rows.append([MEMORY, "MB a megapixel", *at, f"{grown / area:.1f}", "", len(found)])
                rows.append([PEAK, "MB", *at, f"{peak:.0f}", "", len(found)])
                print(f"{area:.1f} MP, {what}: {seconds:.2f} s, {peak:.0f} MB", flush=True)
    return rows


def draw(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Share of the sections and gain of the global context by scale; time and memory by size."""
    table = [dict(zip(HEADING, row, strict=False)) for row in rows]
    figure = Figure(figsize=(6.4, 7.6), layout="constrained")
    (sections, gain), (seconds, memory) = figure.subplots(2, 2)

    def points(by: str, **wanted: object) -> tuple[list[float], list[float], list[float]]:
        chosen = [row for row in table if all(row[key] == value for key, value in wanted.items())]
        halves = [float(str(row["interval"] or 0)) for row in chosen]
        return [float(str(row[by])) for row in chosen], [float(str(row["value"])) for row in chosen], halves

    q = f"{QUALITIES[1]:g}"
    scales, total, _ = points("scale", what=RATE, q=q, section="all")
    below = np.zeros(len(scales))
    names = dict.fromkeys(str(row["section"]) for row in table if row["what"] == RATE)
    for number, name in enumerate(n for n in names if n != "all"):
        share = np.array(points("scale", what=RATE, q=q, section=name)[1]) / total
        colour = ("#7a7a7a", "#94760b", *OTHERS)[number % 6]
        sections.bar([f"{s:g}" for s in scales], share, bottom=below, color=colour, label=name)
        below += share
    sections.set(xlabel="scale", ylabel=f"share of the bits, q {q}")
    for number, at in enumerate(QUALITIES):
        found = points("scale", what=SAVED, q=f"{at:g}")
        gain.errorbar(*found, marker="o", markersize=4, capsize=2, color=OTHERS[number], label=f"q {at:g}")
    gain.set(xlabel="scale", ylabel="% more bits without g_gs", ylim=(0, None))
    for number, what in enumerate((ENCODE, *STEPS)):
        for axes, kind in ((seconds, TIME), (memory, MEMORY)):
            found = points("megapixels", what=kind, section=what)
            axes.plot(*found[:2], "o-", markersize=4, color=OTHERS[number], label=what)
    seconds.set(xlabel="megapixels", ylabel="CPU seconds a megapixel", xscale="log", ylim=(0, None))
    memory.set(xlabel="megapixels", ylabel="MB a megapixel", xscale="log", ylim=(0, None))
    for axes in (sections, gain, seconds, memory):
        axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    first: int | None = None,
    scales: tuple[float, ...] = SCALES,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    repeats: int = 3,
) -> None:
    """Measure rate and cost, and write the table and, beside it, a figure.

    Args:
        images: folder of images, of at least 768x512 pixels where cost is measured.
        output: the CSV file: means, and halves of 95 % intervals over images.
        model: weights by name, or a path.
        first: rates of only so many images.
        scales: of the images whose rate is measured, 1 at most.
        sizes: height and width of the tilings whose cost is measured.
        repeats: processes of which the median is taken; one from 10 megapixels on.
    """
    paths = images_in(images)
    rows = rates(model, [image.read(path) for path in paths[:first]], scales)
    counts = {h * w: repeats if h * w < 10_000_000 else 1 for h, w in sizes}
    rows += costs(model, paths, sizes, counts)
    number = f"{read_weights(model).model_id:08x}"
    write_csv(output, HEADING, ([*row, number] for row in rows))
    draw(output.with_suffix(".svg"), rows)


if __name__ == "__main__":
    tyro.cli(main)
