"""python -m docs.figures: what was measured in; the tables of README.md and good-and-bad.md, and plots/ out.

A table stands between the lines `<!-- NAME, by python -m docs.figures -->` and `<!-- end -->`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from evaluation.curves import METRICS as SIGNS
from evaluation.curves import RATES, Curve, at_rate, at_rate_by_picture, bd_rate, mean_curves
from evaluation.plots import plots
from evaluation.rows import SetRow, read_rows, read_table
from sfumato.image import write_bytes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "0.1.0"  # the last full measurement, of all codecs by all metrics
RELEASES = ROOT / "results" / "0.2.0" / "releases.csv"  # the weights in the package against those of RESULTS
PLOTS = Path(__file__).with_name("plots")
PLOTTED = ("lpips_alex", "dists", "fd_efflite0", "psnr_db")
MARKED = re.compile(r"(<!-- ([\w ]+), by python -m docs\.figures -->\n)(.*?)(<!-- end -->)", re.S)

SETS = {"kodak": "Kodak, 24 photographs", "cid22": "CID22, 41 photographs", "text": "12 pictures with text"}
NAMES = {
    "sfumato": "sfumato",
    "avif": "AVIF",
    "webp": "WebP",
    "jxl": "JPEG XL",
    "jpeg2000": "JPEG 2000",
    "jpeg": "JPEG",
}
USUAL = ("sfumato", "avif", "webp", "jpeg")
METRICS = {
    "lpips_alex": "LPIPS",
    "dists": "DISTS",
    "fd_efflite0": "FD-EffLite0",
    "psnr_db": "PSNR, dB",
    "ms_ssim": "MS-SSIM",
    "ssimulacra2": "SSIMULACRA 2",
}
DIGITS = {"psnr_db": 2, "fd_efflite0": 0}  # 3 of the others
TOLD = ("lpips_alex", "ms_ssim", "psnr_db")  # picture by picture
AT = (0.1, 0.3)  # bits per pixel, for these
SHOWN = 3  # pictures at either end


def curves(dataset: str) -> dict[str, Curve]:
    """Codec -> its curve over one of SETS."""
    rows, sets = RESULTS / f"{dataset}.csv", RESULTS / f"{dataset}-sets.csv"
    return {curve.codec: curve for curve in mean_curves(read_rows(rows), read_table(sets, SetRow))}


def at_equal_rate() -> str:
    """Markdown: Kodak by LPIPS, DISTS, FD-EffLite0 and PSNR, the best of USUAL at each rate in bold."""
    kodak = curves("kodak")
    body = []
    for metric in PLOTTED:
        found = {name: [at_rate(kodak[name], metric, rate) for rate in RATES] for name in USUAL}
        best = np.nanmax(SIGNS[metric] * np.array(list(found.values())), 0) * SIGNS[metric]
        for name, values in found.items():
            texts = [_number(value, metric) for value in values]
            cells = [
                f"**{text}**" if v == top else text for text, v, top in zip(texts, values, best, strict=True)
            ]
            body.append([METRICS[metric] if name == "sfumato" else "", NAMES[name], *cells])
    return _markdown(["at bits per pixel", "", *map(str, RATES)], body)


def at_equal_quality() -> str:
    """Markdown: Bjontegaard delta rate of sfumato over the others; under zero, its files are smaller."""
    body = []
    for dataset, title in SETS.items():
        found = curves(dataset)
        for number_, name in enumerate(name for name in NAMES if name != "sfumato" and name in found):
            deltas = [bd_rate(found[name], found["sfumato"], metric) for metric in METRICS]
            cells = ["-" if delta.refused else f"{delta.percent:+.0f} %" for delta in deltas]
            body.append(["" if number_ else title, NAMES[name], *cells])
    return _markdown(["", "over", *(title.removesuffix(", dB") for title in METRICS.values())], body)


def by_steps() -> str:
    """Markdown: Kodak's files decoded with 0, 1, 4 and 8 steps."""
    with (RESULTS / "steps.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "kodak"]
    shown = ("psnr_db", "lpips_alex", "dists", "fd_efflite0")
    body = []
    for row in rows:
        rate = f"{float(row['bpp']):.2f}" if row["steps"] == "0" else ""
        cells = [_number(float(row[metric]), metric) for metric in shown]
        body.append([rate, row["steps"], *cells, f"{100 * float(row['energy_half']):.0f} %"])
    heads = ["Kodak at bits per pixel", "steps", *(METRICS[metric] for metric in shown)]
    return _markdown([*heads, "energy of the finest octave"], body)


def before_and_now() -> str:
    """Markdown: rate of the weights in the package at equal quality, over those that RESULTS are of."""
    with RELEASES.open(newline="") as file:
        rows = {(row["set"], row["metric"]): row["bd_rate_percent"] for row in csv.DictReader(file)}
    body = []
    for name, title in SETS.items():
        found = [rows.get((name, metric), "-") for metric in METRICS]
        cells = [f"{float(v):+.0f} %" if re.fullmatch(r"-?[\d.]+", v) else "-" for v in found]
        body.append([title, *cells])
    return _markdown(["", *(title.removesuffix(", dB") for title in METRICS.values())], body)


def against_avif() -> str:
    """Markdown: how many pictures sfumato renders better than AVIF by each metric, and which of them."""
    kodak = curves("kodak")
    body = []
    for metric in TOLD:
        for rate in AT:
            gains = ahead(kodak["sfumato"], kodak["avif"], metric, rate)
            digits = DIGITS.get(metric, 3)
            told = [f"{name} {SIGNS[metric] * gain:+.{digits}f}" for name, gain in gains.items()]
            count = f"{sum(gain > 0 for gain in gains.values())} of {len(gains)}"
            ends = ", ".join(told[:SHOWN]), ", ".join(reversed(told[-SHOWN:]))
            body.append([METRICS[metric], str(rate), count, *ends])
    return _markdown(["by", "at bpp", "better than AVIF", "furthest ahead", "furthest behind"], body)


def ahead(ours: Curve, theirs: Curve, metric: str, bpp: float) -> dict[str, float]:
    """Picture -> how much better ours is at this rate, best first, where both can make it so small."""
    mine, other = (at_rate_by_picture(curve, metric, bpp) for curve in (ours, theirs))
    gains = {name: SIGNS[metric] * (mine[name] - other[name]) for name in mine if name in other}
    gains = {name: gain for name, gain in gains.items() if not math.isnan(gain)}
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


TABLES: dict[str, Callable[[], str]] = {
    "at equal rate": at_equal_rate,
    "at equal quality": at_equal_quality,
    "by steps": by_steps,
    "against AVIF": against_avif,
    "before and now": before_and_now,
}
PAGES = {ROOT / "README.md": 4, Path(__file__).with_name("good-and-bad.md"): 1}
"""Page -> how many tables it has."""


def page(path: Path) -> str:
    """A page with its tables made anew; ValueError where one of them is missing or has no such name."""
    text = path.read_text(encoding="utf-8")
    names = [found[2] for found in MARKED.finditer(text)]
    if len(names) != PAGES[path] or not set(names) <= set(TABLES):
        raise ValueError(f"{path.name}: has the tables {names}, expected {PAGES[path]} of {list(TABLES)}")
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], text)


def write_plots() -> list[Path]:
    """PLOTS/METRIC.svg of Kodak, for the README."""
    made = plots(list(curves("kodak").values()))
    PLOTS.mkdir(exist_ok=True)
    for metric in PLOTTED:
        write_bytes(PLOTS / f"{metric}.svg", made[metric].encode())
    return [PLOTS / f"{metric}.svg" for metric in PLOTTED]


def _number(value: float, metric: str) -> str:
    return "-" if math.isnan(value) else f"{value:.{DIGITS.get(metric, 3)}f}"


def _markdown(heads: list[str], body: list[list[str]]) -> str:
    rule = "|" + "---|" * len(heads)
    return "\n".join([_row(heads), rule, *map(_row, body)]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    for path in PAGES:
        write_bytes(path, page(path).encode())
    written = [path.name for path in (*PAGES, *write_plots())]
    print(f"{', '.join(written)}: written")
