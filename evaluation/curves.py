"""Rows of single pictures in; mean curves, values at equal rate, Bjontegaard deltas and their intervals out.

    rows -> complete -> mean_curves -> at_rate, bd_rate

A mean is only compared with a mean of the same pictures: what one setting lacks is left out for all of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from bjontegaard import bd_rate as bjontegaard_rate
from jaxtyping import Bool, Float

from evaluation.rows import Row

Values = Float[np.ndarray, " n"]
Table = Float[np.ndarray, "n p"]

# 1: higher is better, -1: lower is better.
PICTURE_METRICS = {
    "psnr_db": 1,
    "ms_ssim": 1,
    "lpips_alex": -1,
    "lpips_vgg": -1,
    "dists": -1,
    "ssimulacra2": 1,
    "cer": -1,
}
SET_METRICS = {"fd_efflite0": -1, "kid": -1}  # of all decoded pictures together
METRICS = PICTURE_METRICS | SET_METRICS
COSTS = ("encode_s", "decode_s", "peak_mb")
RATES = (0.1, 0.2, 0.3, 0.5)  # bits per pixel, of the tables at equal rate

MINIMUM_OVERLAP = 1 / 3
DRAWS = 1000
SEED = 20240617
CONFIDENCE = 0.95
FEWEST_PICTURES = 5  # for an interval
REFUSED_DRAWS = 0.05  # of the draws, above which there is no interval


class Samples(NamedTuple):
    """What the means of one metric were taken of."""

    pictures: tuple[str, ...]  # p names, the same for all codecs
    bpp: Table
    value: Table


@dataclass(frozen=True)
class Curve:
    """Means over the pictures, one point a setting, by rising rate."""

    codec: str
    settings: tuple[str, ...]
    bpp: Values  # of all pictures
    values: dict[str, Values]  # metric or cost -> [n]; NaN where it was not measured
    rates: dict[str, Values] = field(default_factory=dict)  # metric -> bpp of the pictures that have it
    samples: dict[str, Samples] = field(default_factory=dict)  # metric of pictures -> what was measured
    source: str = ""  # of a published curve

    def rate(self, metric: str) -> Values:
        """Bits per pixel of the pictures that the mean of this metric is taken of."""
        return self.rates.get(metric, self.bpp)

    def measured(self, metric: str) -> bool:
        """Whether there is any value of the metric, be it infinite."""
        return metric in self.values and not np.isnan(self.values[metric]).all()


@dataclass(frozen=True)
class Delta:
    """Mean difference in rate at equal quality, and how much of the tested curve it speaks for."""

    percent: float  # negative: the tested codec needs fewer bits; NaN when refused
    overlap: float  # part of the tested codec's range of the metric that the anchor covers, 0 .. 1
    refused: str = ""  # why there is no figure
    low: float = math.nan  # interval of `percent` over pictures; NaN where there is none
    high: float = math.nan


def complete(rows: Iterable[Row]) -> tuple[list[Row], list[str]]:
    """The rows of those pictures that every codec has at every setting, and a line for all that is left out.

    A setting that has under half of the pictures is left out itself rather than the pictures that it lacks.
    Raises ValueError for a picture that a setting has twice.
    """
    groups: dict[tuple[str, str], dict[tuple[str, str], Row]] = defaultdict(dict)
    for row in rows:
        key = (row.dataset, row.picture)
        if key in groups[row.codec, row.setting]:
            raise ValueError(f"{row.codec}, setting {row.setting}: {row.picture} comes twice")
        groups[row.codec, row.setting][key] = row
    everything = {key: None for group in groups.values() for key in group}
    lines = []
    for name, group in list(groups.items()):
        if 2 * len(group) < len(everything):
            lines.append(
                f"{name[0]}, setting {name[1]}: left out, has {len(group)} of {len(everything)} pictures"
            )
            del groups[name]
    missing: dict[tuple[str, str], list[str]] = {}
    for key in everything:
        if lacking := [
            f"{codec} {setting}" for (codec, setting), group in groups.items() if key not in group
        ]:
            missing[key] = lacking
            some = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            lines.append(f"{key[1]}: left out of all means, as it is missing for {some}")
    kept = [row for group in groups.values() for key, row in group.items() if key not in missing]
    return kept, lines


def mean_curves(rows: Iterable[Row], sets: Iterable[Any] = ()) -> list[Curve]:
    """One curve a codec, in order of appearance: arithmetic means over pictures, of bpp and dB too.

    `sets` are the `SetRow`s of the same run, whose figures join the curves.  Pictures are left out as
    `complete` says; for a single metric (say, of text in pictures) also where a codec has no value of it.
    """
    tables = _tables(complete(rows)[0])
    shared = {metric: _shared(tables, metric) for metric in PICTURE_METRICS}
    of_sets = {(row.codec, row.setting): row for row in sets}
    curves = []
    for codec, (settings, pictures, columns) in tables.items():
        values: dict[str, Values] = {}
        rates: dict[str, Values] = {}
        samples = {}
        for metric, who in shared.items():
            if codec not in who:
                values[metric] = np.full(len(settings), math.nan)
                continue
            mask = who[codec]
            names = tuple(name for name, yes in zip(pictures, mask, strict=True) if yes)
            samples[metric] = Samples(names, columns["bpp"][:, mask], columns[metric][:, mask])
            values[metric] = samples[metric].value.mean(1)
            if not mask.all():
                rates[metric] = samples[metric].bpp.mean(1)
        values |= {cost: columns[cost].mean(1) for cost in COSTS}
        found = [of_sets.get((codec, setting)) for setting in settings]
        for metric in SET_METRICS:
            values[metric] = np.array([getattr(row, metric, math.nan) for row in found])
        if all(found):
            rates |= {metric: np.array([row.bpp for row in found if row]) for metric in SET_METRICS}
        curves.append(Curve(codec, settings, columns["bpp"].mean(1), values, rates, samples))
    return curves


def published(anchors: Iterable[Any]) -> list[Curve]:
    """Curves of `evaluation.anchors.Anchor`s, one a codec, of the metrics that are known here."""
    curves: dict[str, Curve] = {}
    for anchor in anchors:
        if anchor.metric not in METRICS or len(anchor.bpp) == 0:
            continue
        order = np.argsort(anchor.bpp)
        bpp, value = (np.asarray(numbers, float)[order] for numbers in (anchor.bpp, anchor.value))
        curve = curves.setdefault(anchor.codec, Curve(anchor.codec, (), bpp, {}, source=anchor.source))
        curve.values[anchor.metric], curve.rates[anchor.metric] = value, bpp
    return list(curves.values())


def at_rate(curve: Curve, metric: str, bpp: float) -> float:
    """The metric at a rate in bits per pixel, linear in log(rate) between points; NaN outside the curve."""
    rates = curve.rate(metric)
    if metric not in curve.values or not rates[0] <= bpp <= rates[-1]:
        return math.nan
    return float(np.interp(math.log(bpp), np.log(rates), curve.values[metric]))


def at_rate_by_picture(curve: Curve, metric: str, bpp: float) -> dict[str, float]:
    """As `at_rate`, for every picture by its own curve."""
    if metric not in curve.samples:
        return {}
    found = {}
    for i, name in enumerate(curve.samples[metric].pictures):
        rates, values = curve.samples[metric].bpp[:, i], curve.samples[metric].value[:, i]
        order = np.argsort(rates, kind="stable")
        found[name] = at_rate(Curve(curve.codec, (), rates[order], {metric: values[order]}), metric, bpp)
    return found


def bd_rate(anchor: Curve, test: Curve, metric: str, draws: int = 0) -> Delta:
    """Bjontegaard delta rate (VCEG-M33) of `test` over `anchor`, PCHIP interpolation of log rate.

    Refused, with the reason, when the anchor covers under a third of the tested range, when a value is
    missing or infinite, or when a curve is not monotone.  With `draws` (say, `DRAWS`), the 95 % interval
    of the bootstrap: that many times the pictures are drawn anew, with replacement, the same for both codecs.
    There is none for figures of sets, for published curves, for under five pictures, or when over 5 % of the
    draws are refused.
    """
    if metric not in anchor.values or metric not in test.values:
        return Delta(math.nan, 0.0, "not measured")
    sign = METRICS[metric]
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
    if len(samples) < 2 or samples[0].pictures != samples[1].pictures:
        return math.nan, math.nan
    pictures = len(samples[0].pictures)
    if pictures < FEWEST_PICTURES:
        return math.nan, math.nan
    # How often each picture is drawn; the same for every pair of codecs.
    counts = np.random.default_rng(SEED).multinomial(pictures, np.full(pictures, 1 / pictures), draws)
    tables = [sample_table @ counts.T / pictures for s in samples for sample_table in (s.bpp, s.value)]
    anchor_bpp, anchor_value, test_bpp, test_value = (table.T for table in tables)
    sign = METRICS[metric]
    deltas = (
        _delta(*four)
        for four in zip(anchor_bpp, sign * anchor_value, test_bpp, sign * test_value, strict=True)
    )
    percents = np.array([delta.percent for delta in deltas if not delta.refused])
    if len(percents) < (1 - REFUSED_DRAWS) * draws:
        return math.nan, math.nan
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(percents, (tail, 1 - tail))
    return float(low), float(high)


_Tables = dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Table]]]


def _tables(rows: list[Row]) -> _Tables:
    """Codec -> settings by rising rate, pictures, and column -> [settings, pictures]."""
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.codec][row.setting].append(row)
    tables = {}
    for codec, settings in groups.items():
        for group in settings.values():
            group.sort(key=lambda row: (row.dataset, row.picture))
        order = sorted(settings, key=lambda setting: sum(row.bpp for row in settings[setting]))
        pictures = tuple(row.picture for row in settings[order[0]])
        columns = {name: _column(settings, order, name) for name in ("bpp", *PICTURE_METRICS, *COSTS)}
        tables[codec] = (tuple(order), pictures, columns)
    return tables


def _column(settings: dict[str, list[Row]], order: Sequence[str], name: str) -> Table:
    return np.array([[getattr(row, name, math.nan) for row in settings[setting]] for setting in order])


def _shared(tables: _Tables, metric: str) -> dict[str, Bool[np.ndarray, " p"]]:
    """Codec -> the pictures that its mean is taken of: those where all codecs have a value at all settings.

    A codec with values for under half as many pictures as another is left out rather than the pictures.
    """
    masks = {codec: ~np.isnan(columns[metric]).any(0) for codec, (_, _, columns) in tables.items()}
    most = max((mask.sum() for mask in masks.values()), default=0)
    masks = {codec: mask for codec, mask in masks.items() if mask.any() and 2 * mask.sum() >= most}
    if not masks:
        return {}
    shared = np.logical_and.reduce(list(masks.values()))
    return {codec: shared for codec in masks} if shared.any() else {}
