"""Curves in, tables for the terminal out: means, values at equal rate, Bjontegaard deltas."""

from __future__ import annotations

import math

from rich.table import Table

from evaluation.anchors import Difference
from evaluation.curves import COSTS, METRICS, RATES, Curve, Delta, at_rate, bd_rate

HEADINGS = {
    "psnr_db": "PSNR dB",
    "ms_ssim": "MS-SSIM",
    "lpips_alex": "LPIPS-Alex",
    "lpips_vgg": "LPIPS-VGG",
    "dists": "DISTS",
    "ssimulacra2": "SSIMULACRA2",
    "cer": "CER",
    "fd_efflite0": "FD-EffLite0",
    "kid": "KID",
    "encode_s": "encode s",
    "decode_s": "decode s",
    "peak_mb": "peak MB",
}
DIGITS = {
    "psnr_db": 2,
    "ssimulacra2": 2,
    "fd_efflite0": 2,
    "cer": 3,
    "encode_s": 3,
    "decode_s": 3,
    "peak_mb": 0,
}
MORE_DIGITS = 4  # of the others


def curve_table(curve: Curve, pictures: int) -> Table:
    """Means over the pictures, a line a setting; what was not measured has no column."""
    names = [name for name in (*METRICS, *COSTS) if curve.measured(name)]
    table = _table(
        f"{curve.codec}, mean of {pictures}", "setting", "bpp", *(HEADINGS[name] for name in names)
    )
    for i, setting in enumerate(curve.settings):
        values = (number(curve.values[name][i], name) for name in names)
        table.add_row(setting, f"{curve.bpp[i]:.4f}", *values)
    return table


def rate_table(curves: list[Curve]) -> Table:
    """Every metric at equal rates; a dash where a codec's curve does not reach."""
    table = _table("at equal rate (bits per pixel)", "metric", "codec", *(f"{rate:g}" for rate in RATES))
    for metric in METRICS:
        for curve in curves:
            if curve.measured(metric):
                values = (number(at_rate(curve, metric, rate), metric) for rate in RATES)
                table.add_row(HEADINGS[metric], curve.codec, *values)
        table.add_section()
    return table


def delta_table(test: Curve, anchors: list[Curve]) -> Table:
    """BD-rate of one codec over each of the others, with the part of its range that the figure covers."""
    metrics = [metric for metric in METRICS if test.measured(metric)]
    table = _table(f"BD-rate of {test.codec} (overlap)", "over", *(HEADINGS[metric] for metric in metrics))
    for anchor in anchors:
        table.add_row(anchor.codec, *(delta_text(bd_rate(anchor, test, metric)) for metric in metrics))
    return table


def difference_table(differences: list[Difference]) -> Table:
    """Our JPEG beside CompressAI's."""
    table = _table("JPEG, ours less CompressAI's", "quality", "bpp", "PSNR dB", "rate", "PSNR dB")
    for one in differences:
        mark = "" if one.agrees else " !"
        rate, psnr = f"{100 * one.rate:+.2f} %", f"{one.psnr:+.3f}{mark}"
        table.add_row(str(one.quality), f"{one.bpp:.4f}", f"{one.psnr_db:.2f}", rate, psnr)
    return table


def number(value: float, name: str) -> str:
    """With the digits that a metric's differences need; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{DIGITS.get(name, MORE_DIGITS)}f}"


def delta_text(delta: Delta) -> str:
    return delta.refused or f"{delta.percent:+.1f} % ({delta.overlap:.2f})"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
