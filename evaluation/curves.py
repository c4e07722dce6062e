"""Rows of single pictures in; mean curves, values at equal rate and Bjontegaard deltas out."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from bjontegaard import bd_rate as bjontegaard_rate

from evaluation.measure import Row

METRICS = {"psnr_db": 1, "lpips_alex": -1, "ms_ssim": 1}  # 1: higher is better, -1: lower is better
MEANS = (*METRICS, "encode_s", "decode_s")
MINIMUM_OVERLAP = 1 / 3


@dataclass(frozen=True)
class Curve:
    """Means over the pictures, one point a setting, by rising rate."""

    codec: str
    settings: tuple[str, ...]
    bpp: np.ndarray  # [n]
    values: dict[str, np.ndarray]  # metric or time -> [n]; NaN where some picture has no value


@dataclass(frozen=True)
class Delta:
    """Mean difference in rate at equal quality, and how much of the tested curve it speaks for."""

    percent: float  # negative: the tested codec needs fewer bits; NaN when refused
    overlap: float  # part of the tested codec's range of the metric that the anchor covers, 0 .. 1
    refused: str = ""  # why there is no figure


def mean_curves(rows: list[Row]) -> list[Curve]:
    """One curve a codec, in order of appearance: arithmetic means over pictures, of bpp and dB too.

    Raises ValueError when a codec has not been through the same pictures at every setting.
    """
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.codec][row.setting].append(row)
    curves = []
    for codec, settings in groups.items():
        pictures = {name: sorted((row.dataset, row.picture) for row in settings[name]) for name in settings}
        first = next(iter(pictures))
        for setting in pictures:
            if pictures[setting] != pictures[first]:
                raise ValueError(f"{codec}: settings {first} and {setting} have not the same pictures")
        order = sorted(settings, key=lambda setting: _mean(settings[setting], "bpp"))
        bpp = np.array([_mean(settings[setting], "bpp") for setting in order])
        values = {name: np.array([_mean(settings[setting], name) for setting in order]) for name in MEANS}
        curves.append(Curve(codec, tuple(order), bpp, values))
    return curves


def at_rate(curve: Curve, metric: str, bpp: float) -> float:
    """The metric at a rate in bits per pixel, linear in log(rate) between points; NaN outside the curve."""
    if not curve.bpp[0] <= bpp <= curve.bpp[-1]:
        return math.nan
    return float(np.interp(math.log(bpp), np.log(curve.bpp), curve.values[metric]))


def bd_rate(anchor: Curve, test: Curve, metric: str) -> Delta:
    """Bjontegaard delta rate (VCEG-M33) of `test` over `anchor`, PCHIP interpolation of log rate.

    Refused, with the reason, when the anchor covers under a third of the tested range, when a value is
    missing or infinite, or when a curve is not monotone.
    """
    sign = METRICS[metric]
    quality = [sign * curve.values[metric] for curve in (anchor, test)]
    if any(len(q) < 2 or not np.isfinite(q).all() for q in quality):
        return Delta(math.nan, 0.0, "not measured")
    if any((np.diff(q) <= 0).any() for q in quality):
        return Delta(math.nan, 0.0, "not monotone")
    low, high = max(q[0] for q in quality), min(q[-1] for q in quality)
    overlap = max(0.0, float(high - low)) / float(quality[1][-1] - quality[1][0])
    if overlap < MINIMUM_OVERLAP:
        return Delta(math.nan, overlap, "overlap under a third")
    percent = bjontegaard_rate(
        anchor.bpp, quality[0], test.bpp, quality[1], "pchip", require_matching_points=False, min_overlap=0
    )
    return Delta(float(percent), overlap)


def _mean(rows: list[Row], name: str) -> float:
    return sum(getattr(row, name) for row in rows) / len(rows)
