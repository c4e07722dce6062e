"""python -m studies.correction DIR -o CSV: what showing g_a the errors of g_s gives (`sfumato.analysis`).

Every image is encoded with several shares w of the correction at the same qualities, and decoded as by
default.  Rates at equal quality are compared with those of w = 0, image by image.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from evaluation.curves import Curve, bd_rate
from evaluation.measure import images_in
from evaluation.metrics import MetricSuite
from sfumato.analysis import flatness
from sfumato.codec import load
from sfumato.files import write_csv
from sfumato.image import read
from sfumato.latents import AnalysisResult
from sfumato.lpips import weights_folder
from studies.intervals import half_interval

METRICS = ("psnr_db", "ms_ssim", "lpips_alex", "dists", "ssimulacra2")
HEADING = ("model", "image", "flatness", "share", "q", "bpp", *METRICS)
SUMMARY = ("model", "share", "qualities", "metric", "images", "bd_rate_percent", "interval_percent")


def with_share(analyzed: AnalysisResult, share: float) -> AnalysisResult:
    """With this share of the correction, whatever the quality."""
    y = analyzed.y + np.float32(share) * analyzed.correction()
    return replace(analyzed, y=y, correction=lambda: np.zeros_like(y))


def summary(
    curves: dict[tuple[str, float], Curve], shares: Sequence[float]
) -> list[tuple[float, str, int, float, float]]:
    """(share, metric, images, mean difference of rate in percent, half of its interval over images)."""
    rows = []
    images = dict.fromkeys(image for image, _ in curves)
    for share in shares[1:]:
        for metric in METRICS:
            deltas = [bd_rate(curves[i, shares[0]], curves[i, share], metric) for i in images]
            found = [delta.percent for delta in deltas if not delta.refused]
            if found:
                rows.append((share, metric, len(found), statistics.mean(found), half_interval(found)))
    return rows


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    model: str = "small",
    metrics: Path | None = None,
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0),
    qualities: tuple[float, ...] = (0.2, 0.5, 0.8),
    every: int = 1,
) -> None:
    """Encode each image with each share of the correction.

    Args:
        images: folder of images.
        output: the CSV file; a summary is written beside it.
        model: weights by name, or a path.
        metrics: folder with the metrics' networks; without it as for the evaluation.
        shares: of the correction, w; the first is what the others are compared with.
        qualities: q of the files, at least two.
        every: so many images are gone through for one that is used.
    """
    if len(qualities) < 2:
        raise SystemExit("a rate at equal quality needs two qualities or more")
    codec, suite = load(model), MetricSuite(METRICS, metrics or weights_folder())
    name = f"{codec.model_id:08x}-{codec.denoiser_id}"
    rows: list[list[object]] = []
    curves: dict[tuple[str, float], Curve] = {}
    for path in images_in(images)[::every]:
        original = read(path)
        reference, analyzed = suite.reference(original), codec.analyze(original)
        for share in shares:
            corrected, bpp, found = with_share(analyzed, share), [], []
            for q in qualities:
                data, decoded = codec.encode_with_reconstruction(corrected, q=q)
                bpp.append(8 * len(data) / original[..., 0].size)
                found.append(suite.compute(reference, decoded))
                values = (f"{float(found[-1][metric]):.6g}" for metric in METRICS)
                rows.append(
                    [name, path.stem, f"{flatness(original):.3f}", share, q, f"{bpp[-1]:.6g}", *values]
                )
            columns = {metric: np.array([float(row[metric]) for row in found]) for metric in METRICS}
            curves[path.stem, share] = Curve(path.stem, tuple(map(str, qualities)), np.array(bpp), columns)
        write_csv(output, HEADING, rows)
    lines = [
        [name, share, " ".join(f"{q:g}" for q in qualities), metric, count, f"{mean:.2f}", f"{half:.2f}"]
        for share, metric, count, mean, half in summary(curves, shares)
    ]
    for line in lines:
        print(*line, sep="  ")
    write_csv(output.with_name(f"{output.stem}-summary.csv"), SUMMARY, lines)


if __name__ == "__main__":
    tyro.cli(main)
