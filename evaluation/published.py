"""Published curves of other codecs, by data set.

`published.csv` holds means over the 24 Kodak images only.  CLIC2020 is left out, as that name stands for four
different sets of images; so is CID22, for which nothing was published at these rates.

A curve is held only for a metric that is ours:
psnr_db      RGB, 8 bits, mean of the images' decibels: what CompressAI, HiFiC, MS-ILLM and CRDR state.
             `tests/test_evaluation_codecs.py` compares our JPEG with CompressAI's.
ms_ssim      RGB, five scales, window of 11, mean over channels: CompressAI computes it with the package that
             we use; values in decibels and of luma are left out.
lpips_alex   version 0.1, AlexNet, whole images: what all who publish it state; values on crops of 512
             pixels and values that were read off a plot are left out.
dists        at the size of the image, though the reference code can shrink images to 256 pixels first.
             Those held are of two groups whose values for MS-ILLM agree to three digits.  BPG has 0.224 and
             0.201 in them where its LPIPS is 0.390 and 0.334; our x265 has 0.221 and 0.199 at the same LPIPS,
             and a third less when images are shrunk.  CRDR's are left out: nothing ties them to these.
fd_efflite0, kid, cer, lpips_vgg, ssimulacra2   nothing published that compares: FID is of another network.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from evaluation.curves import Curve

TABLE = Path(__file__).with_name("published.csv")
JPEG = "JPEG (CompressAI)"  # to check our measurement against theirs
IMAGES = {"kodak": {f"kodim{i:02d}" for i in range(1, 25)}}  # which the means are taken of


def published_curves(dataset: str) -> list[Curve]:
    """Published curves of a data set, one a codec; none for a set that has none.  "kodak" is known."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    sources: dict[str, str] = {}
    with open(TABLE, newline="") as file:
        for line in csv.DictReader(file):
            if line["dataset"] == dataset.lower():
                point = float(line["bpp"]), float(line["value"])
                points[line["codec"]][line["metric"]].append(point)
                sources.setdefault(line["codec"], line["source"])
    curves = []
    for codec, metrics in points.items():
        ordered = {metric: np.array(sorted(pairs)).T for metric, pairs in metrics.items()}
        rates = {metric: bpp for metric, (bpp, _) in ordered.items()}
        values = {metric: value for metric, (_, value) in ordered.items()}
        curves.append(Curve(codec, (), next(iter(rates.values())), values, rates, source=sources[codec]))
    return curves
