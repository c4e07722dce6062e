"""python -m evaluation DIR --codecs sfumato,jpeg,webp,avif --metrics WEIGHTS_FOLDER -o results/X.csv"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from evaluation.codecs import Codec, codec
from evaluation.curves import METRICS, Curve, Delta, at_rate, bd_rate, mean_curves
from evaluation.measure import Row, measure, pictures_in, write_rows
from metrics.lpips import LPIPS
from sfumato import DEFAULT_MODEL

RATES = (0.1, 0.2, 0.3, 0.5)  # bits per pixel
HEADINGS = {"psnr_db": "PSNR dB", "lpips_alex": "LPIPS-Alex", "ms_ssim": "MS-SSIM"}
DIGITS = {"psnr_db": 2, "lpips_alex": 4, "ms_ssim": 4, "encode_s": 3, "decode_s": 3}


def main(
    pictures: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    codecs: str = "sfumato,jpeg,webp,avif",
    metrics: Path | None = None,
    separate: bool = False,
    model: str = DEFAULT_MODEL,
) -> None:
    """Run codecs over a folder of pictures: real files, a CSV of all rows, and tables of their means.

    Args:
        pictures: folder of pictures; its name is the name of the data set.
        output: CSV file, one row a picture, codec and setting.
        codecs: names joined by commas: sfumato, sfumato:STEPS, jpeg, webp, avif.
        metrics: folder with the LPIPS weights; without it that column stays empty.
        separate: encode and decode with sfumato in two processes.
        model: of sfumato: weights by name, or a path to a file of weights.
    """
    chosen = [codec(name, separate, model) for name in codecs.split(",")]
    paths = pictures_in(pictures)
    lpips = None if metrics is None else LPIPS("alex", metrics)
    rows = write_rows(output, run(chosen, paths, lpips))
    console = Console()
    curves = mean_curves(rows)
    for curve in curves:
        console.print(curve_table(curve, len(paths)))
    console.print(rate_table(curves))
    for test in curves:
        if test.codec.startswith("sfumato") and len(curves) > 1:
            console.print(delta_table(test, [anchor for anchor in curves if anchor is not test]))


def run(codecs: list[Codec], pictures: list[Path], lpips: LPIPS | None) -> Iterator[Row]:
    """All rows, with a progress bar on standard error."""
    with tempfile.TemporaryDirectory() as scratch, Progress(console=Console(stderr=True)) as progress:
        for one in codecs:
            task = progress.add_task(one.name, total=len(pictures) * len(one.settings))
            for row in measure(one, pictures, lpips, Path(scratch)):
                yield row
                progress.advance(task)


def curve_table(curve: Curve, pictures: int) -> Table:
    """Means over the pictures, a line a setting."""
    table = Table(title=f"{curve.codec}, mean of {pictures}")
    for heading in ("setting", "bpp", *HEADINGS.values(), "encode s", "decode s"):
        table.add_column(heading, justify="right")
    for i, setting in enumerate(curve.settings):
        values = (number(curve.values[name][i], DIGITS[name]) for name in DIGITS)
        table.add_row(setting, f"{curve.bpp[i]:.4f}", *values)
    return table


def rate_table(curves: list[Curve]) -> Table:
    """Every metric at equal rates; a dash where a codec's curve does not reach."""
    table = Table(title="at equal rate (bits per pixel)")
    for heading in ("metric", "codec", *(f"{rate:g}" for rate in RATES)):
        table.add_column(heading, justify="right")
    for metric in METRICS:
        for curve in curves:
            values = (number(at_rate(curve, metric, rate), DIGITS[metric]) for rate in RATES)
            table.add_row(HEADINGS[metric], curve.codec, *values)
        table.add_section()
    return table


def delta_table(test: Curve, anchors: list[Curve]) -> Table:
    """BD-rate of one codec over each of the others, with the part of its range that the figure covers."""
    table = Table(title=f"BD-rate of {test.codec} (overlap)")
    table.add_column("over", justify="right")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right")
    for anchor in anchors:
        table.add_row(anchor.codec, *(delta_text(bd_rate(anchor, test, metric)) for metric in METRICS))
    return table


def number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def delta_text(delta: Delta) -> str:
    return delta.refused or f"{delta.percent:+.1f} % ({delta.overlap:.2f})"


if __name__ == "__main__":
    tyro.cli(main)
