"""python -m studies.domains FOLDER ... -o CSV: images of other domains, against AVIF at no more bytes.

A folder is a set (`python -m studies.domain_images` fills some).  Of a large image the middle is taken, as it
is: scaling down would take away the noise and the grain that set a domain apart.  Files are real and decoded
by default; beside them, at one q, ideal bits with parts of the entropy model switched off (`knockouts`).
A run that was cut short goes on.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from evaluation.measure import images_in
from evaluation.metrics import METRICS, MetricSuite
from evaluation.plots import OTHERS
from evaluation.records import SECTIONS
from sfumato import container, image
from sfumato.codec import Codec
from sfumato.compare import BASELINES, _encode, largest_within
from sfumato.files import write_csv
from sfumato.lpips import weights_folder
from sfumato.weights import read_weights
from studies.intervals import half_interval
from studies.knockouts import variants, without
from studies.steps import save

QUALITIES = (0.2, 0.4, 0.6)
KNOCKED_OUT_AT = 0.4  # q
KNOCKOUTS = {"no_bias_percent": "Laplacian bias", "no_global_percent": "global context"}
NAMES = ("psnr_db", "lpips_alex", "dists")
SHARES = tuple(name.replace("bits_", "share_") for name in SECTIONS)
HEAD = (
    *("dataset", "image", "width", "height", "q", "q_written", "bytes", "bpp", *SHARES, *NAMES),
    *("avif_quality", "avif_bytes", *(f"avif_{name}" for name in NAMES), *KNOCKOUTS, "model"),
)
SUMMARISED = ("bpp", *SHARES, *NAMES, *(f"avif_{name}" for name in NAMES), *KNOCKOUTS)
DIFFERENCES = ("bytes_percent", *NAMES)
"""Ours minus AVIF's, by image."""

RGB = UInt8[np.ndarray, "h w 3"]
Row = dict[str, str]
"""A line of the table by column; empty: not measured."""


def middle(pixels: RGB, largest: int) -> RGB:
    """The middle of an image, of at most `largest` pixels a side."""
    height, width = pixels.shape[:2]
    top, left = (max(0, side - largest) // 2 for side in (height, width))
    return np.ascontiguousarray(pixels[top : top + largest, left : left + largest])


def measured(codec: Codec, knocked_out: dict[str, Codec], suite: MetricSuite, pixels: RGB) -> Iterator[Row]:
    """The row of each of `QUALITIES`, without the columns that name the image and the model."""
    reference = suite.reference(pixels)
    avif = lru_cache(maxsize=None)(partial(_encode, pixels, BASELINES["avif"]))  # bisections begin alike
    analyzed = codec.analyze(pixels)  # which is coded with the very q, and never as a palette
    for q in QUALITIES:
        data = codec.encode(analyzed, q=q)
        file = container.unpack(data)
        lengths = [len(section.payload) for section in file.sections]
        setting, theirs = largest_within(avif, 100, len(data))
        with Image.open(io.BytesIO(theirs)) as opened:
            x_avif = np.asarray(opened.convert("RGB"))
        grey = codec.decode(data)
        x_hat = np.repeat(grey[..., None], 3, 2) if grey.ndim == 2 else grey
        row: dict[str, float | int] = {"width": pixels.shape[1], "height": pixels.shape[0], "q": q}
        row |= {
            "q_written": file.header.q / 255,
            "bytes": len(data),
            "bpp": 8 * len(data) / x_hat[..., 0].size,
        }
        row |= dict(zip(SHARES, (n / max(1, sum(lengths)) for n in lengths), strict=False))
        row |= suite.compute(reference, x_hat) | {"avif_quality": setting, "avif_bytes": len(theirs)}
        row |= {f"avif_{name}": value for name, value in suite.compute(reference, x_avif).items()}
        if q == KNOCKED_OUT_AT:
            bits = sum(codec.estimate_bits(pixels, q=q))
            for name, other in knocked_out.items():
                row[name] = 100 * (sum(other.estimate_bits(pixels, q=q)) / bits - 1)
        yield {name: f"{value:.6g}" for name, value in row.items() if math.isfinite(value)}


def read(path: Path) -> list[Row]:
    """The rows of a table; none where there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(rows: Sequence[Row]) -> list[list[str]]:
    """[set, q, images, figure, mean, half of its 95 % t-interval over images]; no interval for one image."""
    out = []
    for dataset, q in dict.fromkeys((row["dataset"], row["q"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["q"]) == (dataset, q)]
        figures = {name: [float(row[name]) for row in own if row.get(name)] for name in SUMMARISED}
        figures |= {f"{name}_difference": differences(own, name) for name in DIFFERENCES}
        for name, values in figures.items():
            if values:
                half = half_interval(values)
                shown = "" if math.isnan(half) else f"{half:.4g}"
                out.append([dataset, q, str(len(values)), name, f"{statistics.mean(values):.4g}", shown])
    return out


def differences(rows: Sequence[Row], name: str) -> list[float]:
    """Ours minus AVIF's of every image that has both."""
    if name == "bytes_percent":
        return [100 * (float(row["bytes"]) / float(row["avif_bytes"]) - 1) for row in rows]
    both = [(row.get(name), row.get(f"avif_{name}")) for row in rows]
    return [float(ours) - float(theirs) for ours, theirs in both if ours and theirs]


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Differences to AVIF by set: a dot for each image, a bar for the mean and its interval.  SVG."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    for number, name in enumerate(NAMES):
        axes = figure.add_subplot(1, len(NAMES), number + 1, title=f"{METRICS[name].title}, ours - AVIF")
        for index, q in enumerate(QUALITIES):
            for place, dataset in enumerate(sets):
                own = [row for row in rows if row["dataset"] == dataset and float(row["q"]) == q]
                values = differences(own, name)
                if not values:
                    continue
                y, colour = place + 0.24 * (index - 1), OTHERS[index]
                axes.plot(values, [y] * len(values), ".", color=colour, alpha=0.35, markersize=4)
                half = half_interval(values)
                axes.errorbar(
                    statistics.mean(values), y, xerr=0.0 if math.isnan(half) else half, fmt="o", color=colour,
                    markersize=4, capsize=2, label=f"q {q:g}" if place == 0 else None,
                )  # fmt: skip
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(range(len(sets)), sets if number == 0 else [""] * len(sets))
        axes.set_ylim(len(sets) - 0.5, -0.5)
    figure.axes[0].legend(frameon=False, fontsize="small")
    save(figure, path)


def main(
    folders: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    largest: int = 512,
    weights: Path | None = None,
) -> None:
    """Measure what is missing of the table, and write its summary and figure beside it.

    Args:
        folders: of images, a set each.
        output: the CSV file: a row for each image and q.
        model: weights by name, or a path.
        largest: side of the part of an image that is taken, pixels at most.
        weights: folder with the weights of the metrics; without it as for the evaluation.
    """
    shipped = read_weights(model)
    codec = Codec(shipped)
    found = variants(shipped)
    knocked_out = {name: without(shipped, found[part]) for name, part in KNOCKOUTS.items()}
    suite = MetricSuite(NAMES, weights or weights_folder())
    print(*suite.warnings, sep="\n", end="\n" if suite.warnings else "")
    rows, model_id = read(output), f"{codec.model_id:08x}"
    if other := {row["model"] for row in rows} - {model_id}:
        raise SystemExit(f"{output} has rows of the model {other.pop()}, not {model_id}")
    done = {(row["dataset"], row["image"]) for row in rows}
    for folder in folders:
        for path in images_in(folder):
            names = {"dataset": folder.resolve().name, "image": path.stem, "model": model_id}
            if (names["dataset"], names["image"]) in done:
                continue
            pixels = middle(image.read(path), largest)
            rows += [names | row for row in measured(codec, knocked_out, suite, pixels)]
            write_csv(output, HEAD, ([row.get(name, "") for name in HEAD] for row in rows))
            print(f"{names['dataset']}: {path.stem}", flush=True)
    lines = summary(rows)
    for dataset, q, images, name, mean, half in lines:
        print(f"{dataset}, q {q}: {name} {mean}" + (f" +- {half}" if half else "") + f" ({images})")
    heading = ["dataset", "q", "images", "figure", "mean", "interval"]
    write_csv(output.with_name(f"{output.stem}-summary.csv"), heading, lines)
    draw(output.with_suffix(".svg"), rows)


if __name__ == "__main__":
    tyro.cli(main)
