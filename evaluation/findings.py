"""Rows and mean curves in, the tables and sentences of the report out, as text that is yet to be escaped."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.curves import (
    CONFIDENCE,
    METRICS,
    RATES,
    SET_METRICS,
    Curve,
    Delta,
    at_rate,
    at_rate_by_picture,
    bd_rate,
)
from evaluation.plots import TITLES
from evaluation.rows import Row, SetRow

EXTREMES = 3  # pictures listed as best, and as worst
PERCEPTUAL = ("lpips_alex", "dists", "lpips_vgg", "ssimulacra2", "ms_ssim")  # the first that there is speaks
SECTIONS = ("bits_z", *(f"bits_chunk{j}" for j in range(1, 6)))
DIGITS = {"psnr_db": 2, "ssimulacra2": 1, "fd_efflite0": 1, "cer": 3}  # else 4


@dataclass(frozen=True)
class Cell:
    """One figure of a table."""

    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table, or a part of one that has its headings from the whole."""

    title: str
    lines: list[Line]
    headings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Extremes:
    """The pictures where one codec does best, and worst, beside another."""

    metric: str  # in words
    rate: str  # bits per pixel
    test: str
    rival: str
    parts: list[Table]

    @property
    def pictures(self) -> list[str]:
        """Their names, the best ones first."""
        return [line.name for part in self.parts for line in part.lines]


def is_ours(codec: str) -> bool:
    """Whether it is sfumato, with whatever options."""
    return codec.partition(":")[0] == "sfumato"


def measured(curves: Sequence[Curve]) -> list[str]:
    """The metrics that some codec has values of."""
    return [metric for metric in METRICS if any(curve.measured(metric) for curve in curves)]


def _number(metric: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.{DIGITS.get(metric, 4)}f}".replace("-", "−")


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def deltas(curves: Sequence[Curve], others: Sequence[Curve], draws: int) -> tuple[list[Table], list[str]]:
    """A table for each sfumato (without one, for the first codec), and the first table's gist in words."""
    tested = [curve for curve in curves if is_ours(curve.codec)] or list(curves[:1])
    tables, summary = [], []
    for test in tested:
        rivals = [curve for curve in curves if curve is not test]
        metrics = [metric for metric in METRICS if test.measured(metric)]
        found = {(c.codec, m): bd_rate(c, test, m, draws) for c in rivals for m in metrics}
        if test is tested[0]:
            chosen = [m for m in PERCEPTUAL if m in metrics][:1] + [m for m in ("psnr_db",) if m in metrics]
            summary = [_gist(test, m, {c.codec: found[c.codec, m] for c in rivals}) for m in chosen]
        lines = [Line(c.codec, [_delta(found[c.codec, m]) for m in metrics]) for c in rivals]
        for other in others:
            cells = [_delta(bd_rate(other, test, m)) for m in metrics]
            if any(cell.small for cell in cells):
                lines.append(Line(f"{other.codec} (published)", cells))
        if lines:
            tables.append(Table(test.codec, lines, [TITLES[metric] for metric in metrics]))
    return tables, [line for line in summary if line]


def _delta(delta: Delta) -> Cell:
    if delta.refused:
        return Cell("–", "" if delta.refused == "not measured" else delta.refused)
    interval = "" if math.isnan(delta.low) else f"{_signed(delta.low)} … {_signed(delta.high)}; "
    return Cell(f"{_signed(delta.percent)} %", f"{interval}covers {100 * delta.overlap:.0f} %")


def _gist(test: Curve, metric: str, deltas: Mapping[str, Delta]) -> str:
    """One sentence: how much smaller the files are at equal quality."""
    parts = []
    for codec, delta in sorted(deltas.items(), key=lambda item: -item[1].percent):
        if not delta.refused:
            size = "smaller" if delta.percent < 0 else "larger"
            ends = f"{_signed(delta.low, 0)} … {_signed(delta.high, 0)} %"
            known = "" if math.isnan(delta.low) else f" ({100 * CONFIDENCE:.0f} % interval {ends})"
            parts.append(f"{abs(delta.percent):.0f} % {size} than those of {codec}{known}")
    quality = TITLES[metric].partition(",")[0]
    return f"At equal {quality} the files of {test.codec} are {', '.join(parts)}." if parts else ""


def equal_rate(curves: Sequence[Curve], others: Sequence[Curve]) -> list[Table]:
    """For each metric a line a codec, a figure a rate of `RATES`."""
    groups = []
    for metric in measured(curves):
        own = {c.codec: [at_rate(c, metric, rate) for rate in RATES] for c in curves if c.measured(metric)}
        best = [_best(metric, [values[i] for values in own.values()]) for i in range(len(RATES))]
        lines = [
            Line(
                codec,
                [
                    Cell(_number(metric, v), best=len(own) > 1 and v == b)
                    for v, b in zip(values, best, strict=True)
                ],
            )
            for codec, values in own.items()
        ]
        for other in others:
            values = [at_rate(other, metric, rate) for rate in RATES]
            if not all(map(math.isnan, values)):
                lines.append(Line(f"{other.codec} (published)", [Cell(_number(metric, v)) for v in values]))
        words = f"{TITLES[metric]}, {'higher' if METRICS[metric] > 0 else 'lower'} is better"
        groups.append(Table(words, lines))
    return groups


def _best(metric: str, values: Iterable[float]) -> float:
    return max((v for v in values if not math.isnan(v)), key=lambda v: METRICS[metric] * v, default=math.nan)


def extremes(curves: Sequence[Curve]) -> Extremes | None:
    """The pictures where the first codec gains most, and least, over the best of those of other families."""
    test, metric = curves[0], next((m for m in (*PERCEPTUAL, "psnr_db") if curves[0].measured(m)), None)
    rivals = [c for c in curves[1:] if not is_ours(c.codec) and metric is not None and c.measured(metric)]
    if metric is None or not rivals:
        return None
    sign = METRICS[metric]
    best: tuple[float, str, dict[str, tuple[float, float]]] | None = None
    for rate in sorted(RATES, key=lambda rate: abs(math.log(rate / 0.2))):
        reach = [c for c in rivals if not math.isnan(at_rate(c, metric, rate))]
        if not reach:
            continue
        rival = max(reach, key=lambda c: sign * at_rate(c, metric, rate))
        ours, theirs = (at_rate_by_picture(c, metric, rate) for c in (test, rival))
        pairs = {n: (ours[n], theirs[n]) for n in ours if math.isfinite(ours[n] - theirs[n])}
        if pairs and (best is None or len(pairs) > len(best[2])):
            best = rate, rival.codec, pairs
    if best is None:
        return None
    rate, name, pairs = best
    gains = sorted(pairs, key=lambda picture: sign * (pairs[picture][1] - pairs[picture][0]))
    count = min(EXTREMES, len(gains) // 2) or len(gains)

    def lines(chosen: Sequence[str]) -> list[Line]:
        return [
            Line(
                picture,
                [
                    *(Cell(_number(metric, value)) for value in pairs[picture]),
                    Cell(_signed(pairs[picture][0] - pairs[picture][1], DIGITS.get(metric, 4))),
                ],
            )
            for picture in chosen
        ]

    parts = [Table("best first", lines(gains[:count]))]
    if len(gains) > count:
        parts.append(Table("worst first", lines(gains[: -count - 1 : -1])))
    return Extremes(TITLES[metric], f"{rate:g}", test.codec, name, parts)


def costs(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Line]:
    """Medians of seconds a megapixel, and the most memory, of each codec."""
    lines = []
    for curve in curves:
        own = [row for row in rows if row.codec == curve.codec]
        cells = []
        for name in ("encode_s", "decode_s"):
            found = [1e6 * getattr(row, name) / (row.width * row.height) for row in own]
            found = [value for value in found if not math.isnan(value)]
            cells.append(Cell(f"{statistics.median(found):.3f}" if found else "–"))
        memory = [value for row in own if not math.isnan(value := getattr(row, "peak_mb", math.nan))]
        cells.append(Cell(f"{max(memory):.0f}" if memory else "–"))
        lines.append(Line(curve.codec, cells))
    return lines


def shares(rows: Sequence[Row], curves: Sequence[Curve]) -> list[Table]:
    """For codecs whose rows know the sizes of the sections: a line a setting."""
    tables = []
    for curve in curves:
        lines = []
        for setting, bpp in zip(curve.settings, curve.bpp, strict=True):
            own = [row for row in rows if (row.codec, row.setting) == (curve.codec, setting)]
            parts = [[getattr(row, name, math.nan) / (8 * row.bytes) for name in SECTIONS] for row in own]
            means = [statistics.fmean(column) for column in zip(*parts, strict=True)]
            if not any(map(math.isnan, means)):
                cells = [f"{bpp:.4f}", *(f"{100 * share:.1f} %" for share in (*means, 1 - sum(means)))]
                lines.append(Line(setting, [Cell(text) for text in cells]))
        if lines:
            headings = ["z", *(f"chunk {j}" for j in range(1, 6)), "fixed"]
            tables.append(Table(curve.codec, lines, headings))
    return tables


def of_sets(sets: Sequence[SetRow]) -> list[Line]:
    """A line a codec and setting, with the number of crops."""
    return [
        Line(
            row.codec,
            [
                Cell(row.setting),
                Cell(f"{row.bpp:.4f}"),
                *(Cell(_number(metric, getattr(row, metric, math.nan))) for metric in SET_METRICS),
                Cell(f"{row.crops} × {row.crop_px} px"),
            ],
        )
        for row in sets
    ]


def means(curves: Sequence[Curve]) -> list[Line]:
    """A line a codec and setting, a figure a metric."""
    metrics = measured(curves)
    return [
        Line(
            curve.codec,
            [
                Cell(curve.settings[i]),
                Cell(f"{curve.bpp[i]:.4f}"),
                *(Cell(_number(metric, float(curve.values[metric][i]))) for metric in metrics),
            ],
        )
        for curve in curves
        for i in range(len(curve.settings))
    ]
