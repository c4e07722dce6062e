"""python -m docs.figures: writes the tables of README.md and good-and-bad.md, and plots/, from results/.

A table stands between the lines `<!-- NAME, by python -m docs.figures -->` and `<!-- end -->`.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path

import tyro

from evaluation.curves import RATES, Curve, at_rate, bd_rate, mean_curves
from evaluation.metrics import METRICS
from evaluation.plots import plots
from evaluation.published import published_curves
from evaluation.records import DatasetRecord, Record, read_records, read_table
from evaluation.summary import best_of, image_gains
from evaluation.tables import Cell, Table, to_markdown
from sfumato.files import write_bytes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "0.2.0"  # the weights in the package
OTHERS = ROOT / "results" / "0.1.0"  # the other codecs, and our weights before
RELEASES = RESULTS / "releases.csv"  # the weights in the package against those before
OBJECTIVES = ROOT / "results" / "studies" / "objectives.csv"
BEGINNINGS = {"steps 0": "x_base, without a denoiser", "start": "denoiser that all start from"}
STEPS = RESULTS / "steps.csv"
PLOTS = Path(__file__).with_name("plots")
PLOTTED = ("lpips_alex", "dists", "fd_efflite0", "psnr_db")
MARKED = re.compile(r"(<!-- ([\w ]+), by python -m docs\.figures -->\n)(.*?)(<!-- end -->)", re.S)
PAGES = {
    ROOT / "README.md": 1,
    Path(__file__).with_name("results.md"): 4,
    Path(__file__).with_name("good-and-bad.md"): 1,
    Path(__file__).with_name("paper.md"): 1,
}
"""Page -> how many tables it has."""

SETS = {"kodak": "Kodak, 24 photographs", "cid22": "CID22, 41 photographs", "text": "12 images with text"}
NAMES = {
    "sfumato": "sfumato",
    "avif": "AVIF",
    "webp": "WebP",
    "jxl": "JPEG XL",
    "jpeg2000": "JPEG 2000",
    "jpeg": "JPEG",
}
USUAL = ("sfumato", "avif", "webp", "jpeg")
TITLES = {
    "lpips_alex": "LPIPS",
    "dists": "DISTS",
    "fd_efflite0": "FD-EffLite0",
    "psnr_db": "PSNR, dB",
    "ms_ssim": "MS-SSIM",
    "ssimulacra2": "SSIMULACRA 2",
}
HEADS = [title.removesuffix(", dB") for title in TITLES.values()]
DIGITS = {"psnr_db": 2, "fd_efflite0": 0}  # 3 of the others
BESIDE = ("lpips_alex", "ms_ssim", "psnr_db")  # which those publish that the README compares with
PUBLISHED = ("VTM", "MS-ILLM", "HiFiC")
BY_IMAGE = ("lpips_alex", "ms_ssim", "psnr_db")
AT = (0.1, 0.3)  # bits per pixel, for these
SHOWN = 3  # images at either end


def curves(dataset: str) -> dict[str, Curve]:
    """Codec -> its curve over one of SETS."""
    records: list[Record] = []
    sets: list[DatasetRecord] = []
    for folder in (RESULTS, OTHERS):
        ours = folder == RESULTS
        rows = read_records(folder / f"{dataset}.csv")
        records += [row for row in rows if (row.codec == "sfumato") == ours]
        path = folder / f"{dataset}-sets.csv"
        known = read_table(path, DatasetRecord) if path.exists() else []
        sets += [row for row in known if (row.codec == "sfumato") == ours]
    return {curve.codec: curve for curve in mean_curves(records, sets)}


def beside_others() -> Table:
    """Kodak: the weights in the package, AVIF as measured here, and published curves, the best in bold."""
    here = curves("kodak")
    theirs = {curve.codec: curve for curve in published_curves("kodak")}
    shown = {"sfumato": here["sfumato"], "AVIF": here["avif"]} | {name: theirs[name] for name in PUBLISHED}
    rows: list[list[Cell | str]] = []
    for metric in BESIDE:
        found = {name: [at_rate(curve, metric, rate) for rate in RATES] for name, curve in shown.items()}
        best = [best_of(metric, column) for column in zip(*found.values(), strict=True)]
        for name, values in found.items():
            cells = [Cell(_number(v, metric), best=v == top) for v, top in zip(values, best, strict=True)]
            rows.append([TITLES[metric] if name == "sfumato" else "", name, *cells])
    return Table("", ["at bits per pixel", "", *map(str, RATES)], rows)


def at_equal_rate() -> Table:
    """Kodak by LPIPS, DISTS, FD-EffLite0 and PSNR, the best of USUAL at each rate in bold."""
    kodak = curves("kodak")
    rows: list[list[Cell | str]] = []
    for metric in PLOTTED:
        found = {name: [at_rate(kodak[name], metric, rate) for rate in RATES] for name in USUAL}
        best = [best_of(metric, column) for column in zip(*found.values(), strict=True)]
        for name, values in found.items():
            cells = [Cell(_number(v, metric), best=v == top) for v, top in zip(values, best, strict=True)]
            rows.append([TITLES[metric] if name == "sfumato" else "", NAMES[name], *cells])
    return Table("", ["at bits per pixel", "", *map(str, RATES)], rows)


def at_equal_quality() -> Table:
    """Bjontegaard delta rate of sfumato over the others; under zero, its files are smaller."""
    rows = []
    for dataset, title in SETS.items():
        found = curves(dataset)
        for index, name in enumerate(name for name in NAMES if name != "sfumato" and name in found):
            deltas = [bd_rate(found[name], found["sfumato"], metric) for metric in TITLES]
            cells = ["-" if delta.refused else f"{delta.percent:+.0f} %" for delta in deltas]
            rows.append(["" if index else title, NAMES[name], *cells])
    return Table("", ["", "over", *HEADS], rows)


def by_steps() -> Table:
    """The same files, decoded with several numbers of steps."""
    shown = ("psnr_db", "lpips_alex", "lpips_vgg", "dists", "fd_efflite0")
    rows = []
    for line in _read(STEPS):
        if line["dataset"] in SETS:
            first = line["steps"] == "0"
            rate = f"{SETS[line['dataset']].split(',')[0]}, {float(line['bpp']):.2f}" if first else ""
            steps = line["steps"] + (f", eta {line['eta']}" if float(line["eta"]) else "")
            cells = [_number(float(line[metric] or "nan"), metric) for metric in shown]
            rows.append([rate, steps, *cells, f"{100 * float(line['energy_half']):.0f} %"])
    titles = [(TITLES | {"lpips_vgg": "LPIPS, VGG"})[metric] for metric in shown]
    return Table("", ["bits per pixel", "steps", *titles, "energy of the finest octave"], rows)


def before_and_now() -> Table:
    """Rate of the weights in the package at equal quality, over those of 0.1.0."""
    found = {(line["set"], line["metric"]): line["bd_rate_percent"] for line in _read(RELEASES)}
    rows = []
    for name, title in SETS.items():
        values = [found.get((name, metric), "-") for metric in TITLES]
        rows.append([title, *(f"{float(v):+.0f} %" if re.fullmatch(r"-?[\d.]+", v) else "-" for v in values)])
    return Table("", ["", *HEADS], rows)


def against_avif() -> Table:
    """How many images sfumato renders better than AVIF by each metric, and which of them."""
    kodak = curves("kodak")
    rows = []
    for metric in BY_IMAGE:
        for rate in AT:
            pairs = image_gains(kodak["sfumato"], kodak["avif"], metric, rate)
            gains = {name: ours - theirs for name, (ours, theirs) in pairs.items()}
            texts = [f"{name} {gain:+.{DIGITS.get(metric, 3)}f}" for name, gain in gains.items()]
            better = sum(METRICS[metric].sign * gain > 0 for gain in gains.values())
            ends = ", ".join(texts[:SHOWN]), ", ".join(reversed(texts[-SHOWN:]))
            rows.append([TITLES[metric], str(rate), f"{better} of {len(gains)}", *ends])
    return Table("", ["by", "at bpp", "better than AVIF", "furthest ahead", "furthest behind"], rows)


def by_objective() -> Table:
    """What a denoiser gives by what it was trained for, at two qualities."""
    lines = _read(OBJECTIVES)
    names = list(dict.fromkeys(line["variant"] for line in lines))
    shown = ("psnr_db", "lpips_alex", "lpips_vgg", "dists", "fd_efflite0", "seed_psnr_db", "energy_half")
    rows = []
    for name in names:
        found = [line for line in lines if line["variant"] == name]
        cells = [" / ".join(_figure(line, key) for line in found) for key in shown]
        rows.append([BEGINNINGS.get(name, name), *cells])
    heads = ["PSNR, dB", "LPIPS", "LPIPS, VGG", "DISTS", "FD-EffLite0", "two seeds, dB", "finest octave"]
    return Table("", ["", *heads], rows)


def _figure(line: dict[str, str], key: str) -> str:
    if not line[key]:
        return "-"
    if key == "energy_half":
        return f"{100 * float(line[key]):.0f} %"
    return _number(float(line[key]), {"seed_psnr_db": "fd_efflite0"}.get(key, key))


TABLES: dict[str, Callable[[], Table]] = {
    "beside others": beside_others,
    "at equal rate": at_equal_rate,
    "at equal quality": at_equal_quality,
    "by steps": by_steps,
    "against AVIF": against_avif,
    "before and now": before_and_now,
    "by objective": by_objective,
}


def page(path: Path) -> str:
    """A page with its tables made anew; ValueError where one of them is missing or has no such name."""
    text = path.read_text(encoding="utf-8")
    names = [found[2] for found in MARKED.finditer(text)]
    if len(names) != PAGES[path] or not set(names) <= set(TABLES):
        raise ValueError(f"{path.name}: has the tables {names}, expected {PAGES[path]} of {list(TABLES)}")
    return MARKED.sub(lambda found: found[1] + to_markdown(TABLES[found[2]]()) + found[4], text)


def write_plots() -> list[Path]:
    """PLOTS/METRIC.svg of Kodak, for the README."""
    made = plots(list(curves("kodak").values()))
    PLOTS.mkdir(exist_ok=True)
    for metric in PLOTTED:
        write_bytes(PLOTS / f"{metric}.svg", made[metric].encode())
    return [PLOTS / f"{metric}.svg" for metric in PLOTTED]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _number(value: float, metric: str) -> str:
    return "-" if math.isnan(value) else f"{value:.{DIGITS.get(metric, 3)}f}"


def main() -> None:
    """Write the tables of the pages, and the plots, anew from results/."""
    for path in PAGES:
        write_bytes(path, page(path).encode())
    written = [path.name for path in (*PAGES, *write_plots())]
    print(f"{', '.join(written)}: written")


if __name__ == "__main__":
    tyro.cli(main)
