"""The tables and sentences of the report, the terminal and docs/, from records and mean curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.curves import CONFIDENCE, RATES, Curve, Delta, at_rate, at_rate_by_image, bd_rate
from evaluation.metrics import METRICS, dataset_metrics
from evaluation.records import SECTIONS, DatasetRecord, Record
from evaluation.tables import Cell, Table, number, signed

SHOWN = 3  # images listed as best, and as worst
PERCEPTUAL = ("lpips_alex", "dists", "lpips_vgg", "ssimulacra2", "ms_ssim")  # the first that there is counts


@dataclass(frozen=True)
class BestAndWorst:
    """The images where one codec does best, and worst, beside another."""

    table: Table
    description: str
    images: list[str]  # the best ones first


def is_ours(codec: str) -> bool:
    """Whether it is sfumato, with whatever options."""
    return codec.partition(":")[0] == "sfumato"


def measured(curves: Sequence[Curve]) -> list[str]:
    """The metrics that some codec has values of."""
    return [metric for metric in METRICS if any(curve.measured(metric) for curve in curves)]


def direction(metric: str) -> str:
    """The title of a metric with what is better."""
    return f"{METRICS[metric].title}, {'higher' if METRICS[metric].sign > 0 else 'lower'} is better"


def metric_value(metric: str, value: float) -> str:
    return number(value, METRICS[metric].digits)


def delta_tables(
    curves: Sequence[Curve], published: Sequence[Curve] = (), draws: int = 0
) -> tuple[list[Table], list[str]]:
    """A table for each sfumato (without one, for the first codec), and the first table in words."""
    tested = [curve for curve in curves if is_ours(curve.codec)] or list(curves[:1])
    tables, summary = [], []
    for test in tested:
        baselines = [curve for curve in curves if curve is not test]
        metrics = [metric for metric in METRICS if test.measured(metric)]
        found = {(one.codec, m): bd_rate(one, test, m, draws) for one in baselines for m in metrics}
        if test is tested[0]:
            chosen = [m for m in PERCEPTUAL if m in metrics][:1] + [m for m in metrics if m == "psnr_db"]
            summary = [
                _sentence(test, m, {one.codec: found[one.codec, m] for one in baselines}) for m in chosen
            ]
        rows = [[Cell(one.codec), *(_delta(found[one.codec, m]) for m in metrics)] for one in baselines]
        for other in published:
            cells = [_delta(bd_rate(other, test, m)) for m in metrics]
            if any(cell.note for cell in cells):
                rows.append([Cell(f"{other.codec} (published)"), *cells])
        if rows:
            tables.append(Table(test.codec, ["over", *(METRICS[metric].title for metric in metrics)], rows))
    return tables, [line for line in summary if line]


def _delta(delta: Delta) -> Cell:
    if delta.refused:
        return Cell("–", "" if delta.refused == "not measured" else delta.refused)
    interval = "" if math.isnan(delta.low) else f"{signed(delta.low)} … {signed(delta.high)}; "
    return Cell(f"{signed(delta.percent)} %", f"{interval}covers {100 * delta.overlap:.0f} %")


def _sentence(test: Curve, metric: str, deltas: Mapping[str, Delta]) -> str:
    """How much smaller the files are at equal quality."""
    parts = []
    stated = [(codec, delta) for codec, delta in deltas.items() if not delta.refused]
    for codec, delta in sorted(stated, key=lambda item: -item[1].percent):
        size = "smaller" if delta.percent < 0 else "larger"
        ends = f"{signed(delta.low, 0)} … {signed(delta.high, 0)} %"
        known = "" if math.isnan(delta.low) else f" ({100 * CONFIDENCE:.0f} % interval {ends})"
        parts.append(f"{abs(delta.percent):.0f} % {size} than those of {codec}{known}")
    quality = METRICS[metric].title.partition(",")[0]
    return f"At equal {quality} the files of {test.codec} are {', '.join(parts)}." if parts else ""


def equal_rate_table(curves: Sequence[Curve], published: Sequence[Curve] = ()) -> Table:
    """For each metric a row a codec, a value a rate of RATES."""
    rows: list[list[Cell]] = []
    for metric in measured(curves):
        own = {c.codec: [at_rate(c, metric, rate) for rate in RATES] for c in curves if c.measured(metric)}
        best = [best_of(metric, column) for column in zip(*own.values(), strict=True)]
        rows.append([Cell(direction(metric))])
        for codec, values in own.items():
            marks = [len(own) > 1 and value == top for value, top in zip(values, best, strict=True)]
            texts = [metric_value(metric, value) for value in values]
            rows.append(
                [Cell(codec), *(Cell(text, best=mark) for text, mark in zip(texts, marks, strict=True))]
            )
        for other in published:
            values = [at_rate(other, metric, rate) for rate in RATES]
            if not all(map(math.isnan, values)):
                cells = [Cell(metric_value(metric, value)) for value in values]
                rows.append([Cell(f"{other.codec} (published)"), *cells])
    return Table("At equal rate", ["codec", *(f"{rate:g} bpp" for rate in RATES)], rows)


def best_of(metric: str, values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return max(known, key=lambda value: METRICS[metric].sign * value, default=math.nan)


def image_gains(ours: Curve, theirs: Curve, metric: str, bpp: float) -> dict[str, tuple[float, float]]:
    """Image -> (our value, theirs) at a rate that both reach, best for us first."""
    mine, other = (at_rate_by_image(curve, metric, bpp) for curve in (ours, theirs))
    pairs = {name: (mine[name], other[name]) for name in mine if name in other}
    pairs = {name: pair for name, pair in pairs.items() if math.isfinite(pair[0] - pair[1])}
    return dict(sorted(pairs.items(), key=lambda item: METRICS[metric].sign * (item[1][1] - item[1][0])))


def best_and_worst(curves: Sequence[Curve]) -> BestAndWorst | None:
    """The images where the first codec gains most, and least, over the best of those of other families."""
    test = curves[0]
    metric = next((m for m in (*PERCEPTUAL, "psnr_db") if test.measured(m)), None)
    others = [c for c in curves[1:] if not is_ours(c.codec) and metric is not None and c.measured(metric)]
    found: tuple[float, Curve, dict[str, tuple[float, float]]] | None = None
    for rate in sorted(RATES, key=lambda rate: abs(math.log(rate / 0.2))):
        reach = [c for c in others if metric and not math.isnan(at_rate(c, metric, rate))]
        if metric and reach:
            best = max(reach, key=lambda c: METRICS[metric].sign * at_rate(c, metric, rate))
            pairs = image_gains(test, best, metric, rate)
            if pairs and (found is None or len(pairs) > len(found[2])):
                found = rate, best, pairs
    if metric is None or found is None:
        return None
    rate, other, pairs = found
    names = list(pairs)
    count = min(SHOWN, len(names) // 2) or len(names)
    first, last = names[:count], names[: -count - 1 : -1] if len(names) > count else []

    def rows(chosen: Sequence[str]) -> list[list[str]]:
        values = ((name, *pairs[name]) for name in chosen)
        digits = METRICS[metric].digits
        return [
            [n, metric_value(metric, a), metric_value(metric, b), signed(a - b, digits)] for n, a, b in values
        ]

    body = [["best first"], *rows(first), *([["worst first"], *rows(last)] if last else [])]
    table = Table("Best and worst images", ["image", test.codec, other.codec, "difference"], body)
    place = f"{METRICS[metric].title} at {rate:g} bits per pixel"
    return BestAndWorst(
        table, f"{place}, {test.codec} beside {other.codec}, the best of the others there.", first + last
    )


def complexity_table(records: Sequence[Record], curves: Sequence[Curve]) -> Table:
    """Medians of seconds a megapixel, and the most memory, of each codec."""
    rows = []
    for curve in curves:
        own = [one for one in records if one.codec == curve.codec]
        row = [curve.codec]
        for name in ("encode_s", "decode_s"):
            found = [1e6 * getattr(one, name) / (one.width * one.height) for one in own]
            found = [value for value in found if not math.isnan(value)]
            row.append(number(statistics.median(found) if found else math.nan, 3))
        memory = [one.peak_mb for one in own if not math.isnan(one.peak_mb)]
        rows.append([*row, number(max(memory, default=math.nan), 0)])
    head = ["codec", "encode, s/megapixel", "decode, s/megapixel", "peak memory, MB"]
    return Table("Time and memory", head, rows)


def bitrate_breakdowns(records: Sequence[Record], curves: Sequence[Curve]) -> list[Table]:
    """For codecs whose records know the sizes of the sections: a row a setting."""
    tables = []
    for curve in curves:
        rows = []
        for setting, bpp in zip(curve.settings, curve.bpp, strict=True):
            own = [one for one in records if (one.codec, one.setting) == (curve.codec, setting)]
            latents = [one for one in own if not math.isnan(one.bits.get(SECTIONS[0], math.nan))]
            parts = [[one.bits.get(name, math.nan) / (8 * one.bytes) for name in SECTIONS] for one in latents]
            means = [statistics.fmean(column) for column in zip(*parts, strict=True)]
            if means and not any(map(math.isnan, means)):
                shares = [f"{100 * share:.1f} %" for share in (*means, 1 - sum(means))]
                rows.append([setting, f"{bpp:.4f}", *shares])
        if rows:
            chunks = [f"chunk {j}" for j in range(1, len(SECTIONS))]
            tables.append(Table(curve.codec, ["setting", "bpp", "z", *chunks, "fixed"], rows))
    return tables


def dataset_table(datasets: Sequence[DatasetRecord]) -> Table:
    """A row a codec and setting, with the number of crops."""
    metrics = dataset_metrics()
    rows = []
    for one in datasets:
        values = [metric_value(metric, one.values.get(metric, math.nan)) for metric in metrics]
        rows.append([one.codec, one.setting, f"{one.bpp:.4f}", *values, f"{one.crops} × {one.crop_px} px"])
    titles = [METRICS[metric].title for metric in metrics]
    return Table("The whole data set", ["codec", "setting", "bpp", *titles, "crops"], rows)


def mean_table(curves: Sequence[Curve]) -> Table:
    """A row a codec and setting, a value a metric."""
    metrics = measured(curves)
    rows = []
    for curve in curves:
        for i, setting in enumerate(curve.settings):
            values = [metric_value(metric, float(curve.values[metric][i])) for metric in metrics]
            rows.append([curve.codec, setting, f"{curve.bpp[i]:.4f}", *values])
    titles = [METRICS[metric].title for metric in metrics]
    return Table("Means of all settings", ["codec", "setting", "bpp", *titles], rows)
