"""python -m studies.steps DIR ... -o FOLDER: what the steps of the diffusion give, from equal files.

Every image is encoded once for each quality and decoded with each number of steps.  FOLDER gets steps.csv
(a row a set, quality, number of steps and realism) and a figure of the spectra beside the originals'.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure

from evaluation.datasets import SMALL_CROP
from evaluation.measure import images_in
from evaluation.metrics import MetricSuite
from evaluation.plots import OTHERS
from metrics.frechet import Frechet
from sfumato.codec import Codec
from sfumato.decode_options import DecodeOptions
from sfumato.diffusion_decoder import DiffusionOptions
from sfumato.files import write_csv
from sfumato.image import read
from sfumato.lpips import weights_folder
from sfumato.weights import read_weights
from studies.spectrum import OCTAVES, radial_power, recovered

METRICS = ("psnr_db", "lpips_alex", "lpips_vgg", "dists", "cer")


@dataclass(frozen=True)
class Row:
    """Means over one set at one quality; `energy_*` are shares of the original's energy by octave."""

    dataset: str
    q: float
    bpp: float
    steps: int
    realism: float
    eta: float
    psnr_db: float
    lpips_alex: float
    lpips_vgg: float
    dists: float
    cer: float
    fd_efflite0: float
    energy_16th: float
    energy_8th: float
    energy_4th: float
    energy_half: float
    decode_s: float
    images: int


def measure(
    codec: Codec,
    folder: Path,
    qualities: Sequence[float],
    ways: Sequence[DiffusionOptions],
    suite: MetricSuite,
) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """(row, mean spectrum, mean spectrum of the originals) of each quality and way to decode."""
    paths = images_in(folder)
    images = [read(path) for path in paths]
    originals = [suite.reference(rgb) for rgb in images]
    frechet = Frechet(np.concatenate([suite.crop_features(rgb, SMALL_CROP) for rgb in images]))
    spectrum = np.mean([radial_power(rgb) for rgb in images], 0)
    for q in qualities:
        files = [codec.encode(rgb, q=q) for rgb in images]
        bpp = [8 * len(data) / rgb[..., 0].size for data, rgb in zip(files, images, strict=True)]
        for way in ways:
            figures: defaultdict[str, list[Any]] = defaultdict(list)
            crops, seconds, spectra = [], [], []
            for data, original in zip(files, originals, strict=True):
                begun = time.perf_counter()
                decoded = codec.decode_image(data, DecodeOptions(**asdict(way))).rgb
                seconds.append(time.perf_counter() - begun)
                for name, figure in suite.compute(original, decoded).items():
                    figures[name].append(figure)
                figures["energy"].append(recovered(original.image, decoded))
                crops.append(suite.crop_features(decoded, SMALL_CROP))
                spectra.append(radial_power(decoded))
            means = {name: float(np.nanmean(figures[name])) for name in METRICS if _finite(figures[name])}
            octaves = np.mean(figures["energy"], 0)
            row = Row(
                dataset=folder.resolve().name,
                q=q,
                bpp=float(np.mean(bpp)),
                steps=way.steps,
                realism=way.realism,
                eta=way.eta,
                **{name: means.get(name, float("nan")) for name in METRICS},
                fd_efflite0=frechet.distance(np.concatenate(crops)),
                **dict(zip(("energy_16th", "energy_8th", "energy_4th", "energy_half"), octaves, strict=True)),
                decode_s=float(np.median(seconds)),
                images=len(images),
            )
            yield row, np.mean(spectra, 0), spectrum


def write(path: Path, rows: Sequence[object]) -> None:
    """Dataclass rows as CSV, floats to six digits, NaN as nothing."""
    columns = [field.name for field in fields(rows[0])]  # type: ignore[arg-type]
    values = (asdict(row).values() for row in rows)  # type: ignore[call-overload]
    write_csv(path, columns, ([_text(v) for v in row] for row in values))


def draw(path: Path, curves: dict[str, np.ndarray], original: np.ndarray) -> None:
    """The spectra as shares of the originals': SVG."""
    figure = Figure(figsize=(6.4, 4))
    axes = figure.add_subplot(xlabel="frequency, as a part of the highest", ylabel="energy / the original's")
    places = (np.arange(len(original)) + 0.5) / len(original)
    for number, (name, spectrum) in enumerate(curves.items()):
        axes.plot(places, spectrum / original, label=name, color=OTHERS[number % len(OTHERS)])
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_ylim(0, 1.6)
    axes.legend(frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """SVG with its text as text, the same for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sfumato"}):
        figure.savefig(path, metadata={"Date": None})


def show(row: Row) -> None:
    """One line."""
    energy = " ".join(f"{v:.2f}" for v in (row.energy_16th, row.energy_8th, row.energy_4th, row.energy_half))
    figures = f"PSNR {row.psnr_db:.2f}, LPIPS {row.lpips_alex:.4f}, DISTS {row.dists:.4f}"
    figures += f", FD {row.fd_efflite0:.2f}, CER {row.cer:.3f}, energy from {OCTAVES[0]} up {energy}"
    how = f"{row.bpp:.3f} bpp, steps {row.steps}, realism {row.realism:g}, eta {row.eta:g}"
    print(f"{row.dataset} {how}: {figures}; {row.decode_s:.2f} s", flush=True)


def main(
    folders: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    qualities: tuple[float, ...] = (0.2, 0.37, 0.56),
    steps: tuple[int, ...] = (0, 1, 4, 8),
    realism: tuple[float, ...] = (1.0,),
    eta: tuple[float, ...] = (0.0,),
    metrics: tuple[str, ...] = METRICS,
    weights: Path | None = None,
) -> None:
    """Decode equal files with different numbers of steps, and measure what comes out.

    Args:
        folders: of images, a set each.
        output: folder for steps.csv and spectra-SET-Q.svg.
        model: weights by name, or a path.
        qualities: q of the files.
        steps: numbers of steps.
        realism: each is tried with each number of steps but 0.
        eta: fresh noise of each step; each is tried with each number of steps over 1.
        metrics: some of the columns; the others stay empty.
        weights: folder with the weights of the metrics; without it as for the evaluation.
    """
    codec = Codec(read_weights(model))
    ways = [
        DiffusionOptions(n, r, e)
        for n in steps
        for r in (realism if n else (1.0,))
        for e in (eta if n > 1 else (0.0,))
    ]
    if unknown := sorted(set(metrics) - set(METRICS)):
        raise SystemExit(f"no metric {', '.join(unknown)} here; there are {', '.join(METRICS)}")
    suite = MetricSuite((*metrics, "fd_efflite0"), weights or weights_folder())
    print(*suite.warnings, sep="\n")
    rows: list[Row] = []
    spectra: dict[tuple[str, float], dict[str, np.ndarray]] = defaultdict(dict)
    for folder in folders:
        for row, spectrum, original in measure(codec, folder, qualities, ways, suite):
            show(row)
            rows.append(row)
            write(output / "steps.csv", rows)
            curves = spectra[row.dataset, row.q]
            name = f"steps {row.steps}" + (f", realism {row.realism:g}" if row.steps else "")
            curves[name + (f", eta {row.eta:g}" if row.eta else "")] = spectrum
            draw(output / f"spectra-{row.dataset}-{row.q:g}.svg", curves, original)


def _text(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _finite(values: list[float]) -> bool:
    return bool(np.isfinite(values).any()) if values else False


if __name__ == "__main__":
    tyro.cli(main)
