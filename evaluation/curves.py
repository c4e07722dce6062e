"""Mean curves over images, values at equal rate, Bjontegaard deltas and their intervals.

    records -> complete -> mean_curves -> at_rate, bd_rate

A mean is only compared with a mean of the same images: what one setting lacks is left out for all of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from bjontegaard import bd_rate as bjontegaard_rate
from jaxtyping import Bool, Float

from evaluation.metrics import METRICS, dataset_metrics, image_metrics
from evaluation.records import DatasetRecord, Record

Values = Float[np.ndarray, " n"]
Matrix = Float[np.ndarray, "n p"]

COSTS = ("encode_s", "decode_s", "peak_mb")
RATES = (0.1, 0.2, 0.3, 0.5)  # bits per pixel, of the tables at equal rate

MINIMUM_OVERLAP = 1 / 3
DRAWS = 1000
SEED = 20240617
CONFIDENCE = 0.95
FEWEST_IMAGES = 5  # for an interval
REFUSED_DRAWS = 0.05  # of the draws, above which there is no interval


class Samples(NamedTuple):
    """What the means of one metric were taken of."""

    images: tuple[str, ...]  # p names, the same for all codecs
    bpp: Matrix
    value: Matrix


@dataclass(frozen=True)
class Curve:
    """Means over the images, one point a setting, by rising rate."""

    codec: str
    settings: tuple[str, ...]
    bpp: Values  # of all images
    values: dict[str, Values]  # metric or cost -> [n]; NaN where it was not measured
    rates: dict[str, Values] = field(default_factory=dict)  # metric -> bpp of the images that have it
    samples: dict[str, Samples] = field(default_factory=dict)  # metric of images -> what was measured
    source: str = ""  # of a published curve

    def rate(self, metric: str) -> Values:
        """Bits per pixel of the images that the mean of this metric is taken of."""
        return self.rates.get(metric, self.bpp)

    def measured(self, metric: str) -> bool:
        """Whether there is any value of the metric, be it infinite."""
        return metric in self.values and not np.isnan(self.values[metric]).all()


@dataclass(frozen=True)
class Delta:
    """Mean difference in rate at equal quality, and the part of the tested curve that it covers."""

    percent: float  # negative: the tested codec needs fewer bits; NaN when refused
    overlap: float  # part of the tested codec's range of the metric that the anchor covers, 0 .. 1
    refused: str = ""  # why there is no figure
    low: float = math.nan  # interval of `percent` over images; NaN where there is none
    high: float = math.nan


def complete(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The records of those images that every codec has at every setting, and a line for all that is left out.

    A setting that has under half of the images is left out itself rather than the images that it lacks.
    Raises ValueError for an image that a setting has twice.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str], Record]] = defaultdict(dict)
    for one in records:
        key = (one.dataset, one.image)
        if key in groups[one.codec, one.setting]:
            raise ValueError(f"{one.codec}, setting {one.setting}: {one.image} comes twice")
        groups[one.codec, one.setting][key] = one
    everything = {key: None for group in groups.values() for key in group}
    lines = []
    for (codec, setting), group in list(groups.items()):
        if 2 * len(group) < len(everything):
            count = f"{len(group)} of {len(everything)} images"
            lines.append(f"{codec}, setting {setting}: left out, has {count}")
            del groups[codec, setting]
    missing = set()
    for key in everything:
        if lacking := [
            f"{codec} {setting}" for (codec, setting), group in groups.items() if key not in group
        ]:
            missing.add(key)
            some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            lines.append(f"{key[1]}: left out of all means, as it is missing for {some}")
    return [one for group in groups.values() for key, one in group.items() if key not in missing], lines


def mean_curves(records: Iterable[Record], datasets: Iterable[DatasetRecord] = ()) -> list[Curve]:
    """One curve a codec, in order of appearance: arithmetic means over images, of bpp and dB too.

    `datasets` are the records of whole sets of the same run, whose values join the curves.  Images are left
    out as `complete` says; for a single metric (say, of text) also where a codec has no value of it.
    """
    unordered: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in complete(records)[0]:
        unordered[one.codec][one.setting].append(one)
    groups: dict[str, dict[str, list[Record]]] = {}
    for codec, settings in unordered.items():
        by_rate = sorted(settings, key=lambda setting: sum(one.bpp for one in settings[setting]))
        groups[codec] = {s: sorted(settings[s], key=lambda one: (one.dataset, one.image)) for s in by_rate}

    def matrix(codec: str, get: Callable[[Record], float]) -> Matrix:
        return np.array([[get(one) for one in group] for group in groups[codec].values()])

    def value(metric: str) -> Callable[[Record], float]:
        most = METRICS[metric].most  # an exact image is no infinite mean
        return lambda one: min(one.values.get(metric, math.nan), most)

    curves = []
    shared = {m: _shared({codec: matrix(codec, value(m)) for codec in groups}) for m in image_metrics()}
    whole = {(one.codec, one.setting): one for one in datasets}
    for codec, settings in groups.items():
        bpp = matrix(codec, lambda one: one.bpp)
        images = [one.image for one in next(iter(settings.values()))]
        values, rates, samples = {}, {}, {}
        for metric, masks in shared.items():
            if codec not in masks:
                values[metric] = np.full(len(settings), math.nan)
                continue
            mask = masks[codec]
            names = tuple(name for name, yes in zip(images, mask, strict=True) if yes)
            samples[metric] = Samples(names, bpp[:, mask], matrix(codec, value(metric))[:, mask])
            values[metric] = samples[metric].value.mean(1)
            if not mask.all():
                rates[metric] = samples[metric].bpp.mean(1)
        for cost in COSTS:
            values[cost] = matrix(codec, lambda one, cost=cost: getattr(one, cost)).mean(1)  # type: ignore[misc]
        found = [whole.get((codec, setting)) for setting in settings]
        for metric in dataset_metrics():
            values[metric] = np.array(
                [one.values.get(metric, math.nan) if one else math.nan for one in found]
            )
            if all(found):
                rates[metric] = np.array([one.bpp for one in found if one])
        curves.append(Curve(codec, tuple(settings), bpp.mean(1), values, rates, samples))
    return curves


def at_rate(curve: Curve, metric: str, bpp: float) -> float:
    """The metric at a rate in bits per pixel, linear in log(rate) between points; NaN outside the curve."""
    rates = curve.rate(metric)
    if metric not in curve.values or not rates[0] <= bpp <= rates[-1]:
        return math.nan
    return float(np.interp(math.log(bpp), np.log(rates), curve.values[metric]))


def at_rate_by_image(curve: Curve, metric: str, bpp: float) -> dict[str, float]:
    """As `at_rate`, for every image by its own curve."""
    if metric not in curve.samples:
        return {}
    found = {}
    for i, name in enumerate(curve.samples[metric].images):
        rates, values = curve.samples[metric].bpp[:, i], curve.samples[metric].value[:, i]
        order = np.argsort(rates, kind="stable")
        found[name] = at_rate(Curve(curve.codec, (), rates[order], {metric: values[order]}), metric, bpp)
    return found


def bd_rate(anchor: Curve, test: Curve, metric: str, draws: int = 0) -> Delta:
    """Bjontegaard delta rate (VCEG-M33) of `test` over `anchor`, PCHIP interpolation of log rate.

    Refused, with the reason, when the anchor covers under a third of the tested range, when a value is
    missing or infinite, or when a curve is not monotone.  With `draws` (say, `DRAWS`), the 95 % interval
    of the bootstrap: that many times the images are drawn anew, with replacement, the same for both codecs.
    There is none for metrics of data sets, for published curves, for under five images, or when over 5 % of
    the draws are refused.
    """
    if metric not in anchor.values or metric not in test.values:
        return Delta(math.nan, 0.0, "not measured")
    sign = METRICS[metric].sign
    delta = _delta(
        anchor.rate(metric), sign * anchor.values[metric], test.rate(metric), sign * test.values[metric]
    )
    if delta.refused or not draws:
        return delta
    low, high = _interval(anchor, test, metric, draws)
    return Delta(delta.percent, delta.overlap, "", low, high)


def _delta(anchor_bpp: Values, anchor: Values, test_bpp: Values, test: Values) -> Delta:
    """`anchor` and `test` are qualities: higher is better."""
    if any(len(q) < 2 or not np.isfinite(q).all() for q in (anchor, test)):
        return Delta(math.nan, 0.0, "not measured")
    if any((np.diff(q) <= 0).any() for q in (anchor, test)):
        return Delta(math.nan, 0.0, "not monotone")
    low, high = max(anchor[0], test[0]), min(anchor[-1], test[-1])
    overlap = max(0.0, float(high - low)) / float(test[-1] - test[0])
    if overlap < MINIMUM_OVERLAP:
        return Delta(math.nan, overlap, "overlap under a third")
    percent = bjontegaard_rate(
        anchor_bpp, anchor, test_bpp, test, "pchip", require_matching_points=False, min_overlap=0
    )
    return Delta(float(percent), overlap)


def _interval(anchor: Curve, test: Curve, metric: str, draws: int) -> tuple[float, float]:
    samples = [curve.samples[metric] for curve in (anchor, test) if metric in curve.samples]
    if len(samples) < 2 or samples[0].images != samples[1].images:
        return math.nan, math.nan
    images = len(samples[0].images)
    if images < FEWEST_IMAGES:
        return math.nan, math.nan
    # How often each image is drawn; the same for every pair of codecs.
    counts = np.random.default_rng(SEED).multinomial(images, np.full(images, 1 / images), draws)
    sign = METRICS[metric].sign
    means = [matrix @ counts.T / images for one in samples for matrix in (one.bpp, sign * one.value)]
    deltas = (_delta(*four) for four in zip(*(matrix.T for matrix in means), strict=True))
    percents = np.array([delta.percent for delta in deltas if not delta.refused])
    if len(percents) < (1 - REFUSED_DRAWS) * draws:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(percents, (tail, 1 - tail))
    return float(low), float(high)


def _shared(values: dict[str, Matrix]) -> dict[str, Bool[np.ndarray, " p"]]:
    """Codec -> the images that its mean is taken of: those where all codecs have a value at all settings.

    A codec with values for under half as many images as another is left out rather than the images.
    """
    masks = {codec: ~np.isnan(matrix).any(0) for codec, matrix in values.items()}
    most = max((mask.sum() for mask in masks.values()), default=0)
    masks = {codec: mask for codec, mask in masks.items() if mask.any() and 2 * mask.sum() >= most}
    shared = np.logical_and.reduce(list(masks.values())) if masks else np.zeros(0, bool)
    return {codec: shared for codec in masks} if shared.any() else {}
