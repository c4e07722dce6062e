"""A data set's name in, published curves of other codecs out; and a check that we measure as they did.

`anchors.csv` holds means over the 24 Kodak pictures only.  CLIC2020 is left out, as that name stands for four
different sets of pictures; so is CID22, for which nothing was published at these rates.

A curve is held only for a metric that is ours:
psnr_db      RGB, 8 bits, mean of the pictures' decibels: what CompressAI, HiFiC, MS-ILLM and CRDR state.
             `differences` holds our JPEG to CompressAI's.
ms_ssim      RGB, five scales, window of 11, mean over channels: CompressAI computes it with the package that
             we use; figures in decibels and of luma are left out.
lpips_alex   version 0.1, AlexNet, whole pictures: what all who publish it state; figures on crops of 512
             pixels and figures that were read off a plot are left out.
dists        at the size of the picture, though the reference code can shrink pictures to 256 pixels first.
             Those held are of two groups whose figures for MS-ILLM agree to three digits.  BPG has 0.224 and
             0.201 in them where its LPIPS is 0.390 and 0.334; our x265 has 0.221 and 0.199 at the same LPIPS,
             and a third less when pictures are shrunk.  CRDR's are left out: nothing ties them to these.
fd_efflite0, kid, cer, lpips_vgg, ssimulacra2   nothing published that compares: FID is of another network.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE = Path(__file__).with_name("anchors.csv")
CHECKED = "JPEG (CompressAI)"
RATE_TOLERANCE = 0.01  # relative
PSNR_TOLERANCE = 0.2  # dB


@dataclass(frozen=True)
class Anchor:
    """One published curve, by rising rate."""

    codec: str
    metric: str  # our name of it
    bpp: list[float]
    value: list[float]
    source: str  # repository, commit and file


@dataclass(frozen=True)
class Difference:
    """Our JPEG beside CompressAI's at one quality."""

    quality: int
    bpp: float  # ours
    psnr_db: float
    rate: float  # ours over theirs, less 1
    psnr: float  # ours less theirs, dB

    @property
    def agrees(self) -> bool:
        return abs(self.rate) <= RATE_TOLERANCE and abs(self.psnr) <= PSNR_TOLERANCE


def anchors(dataset: str) -> list[Anchor]:
    """Published curves of a data set; the empty list for a set that has none.  "kodak" is known."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with open(TABLE, newline="") as file:
        for line in csv.DictReader(file):
            if line["dataset"] == dataset.lower():
                key = (line["codec"], line["metric"], line["source"])
                curves[key].append((float(line["bpp"]), float(line["value"])))
    result = []
    for (codec, metric, source), points in curves.items():
        points.sort()
        bpp, value = ([point[i] for point in points] for i in range(2))
        result.append(Anchor(codec, metric, bpp, value, source))
    return result


def differences(bpp: dict[int, list[float]], psnr_db: dict[int, list[float]]) -> list[Difference]:
    """Of what `jpeg-compressai` gave for every picture of Kodak, by quality, from CompressAI's curve.

    Their points are one for every fifth quality from 5 to 95.  ValueError for other qualities.
    """
    [theirs] = [a for a in anchors("kodak") if a.codec == CHECKED and a.metric == "psnr_db"]
    qualities = sorted(bpp)
    if qualities != list(range(5, 100, 5)):
        raise ValueError(f"qualities are {qualities}, expected 5, 10 .. 95")
    result = []
    for quality, their_bpp, their_psnr in zip(qualities, theirs.bpp, theirs.value, strict=True):
        rate, psnr = float(np.mean(bpp[quality])), float(np.mean(psnr_db[quality]))
        result.append(Difference(quality, rate, psnr, rate / their_bpp - 1, psnr - their_psnr))
    return result
