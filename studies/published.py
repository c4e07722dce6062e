"""python -m studies.published RESULTS -o CSV: our curves against published ones, by Bjontegaard delta rate.

RESULTS is a table of `python -m evaluation` over Kodak.  A negative figure says that our files are smaller at
equal quality, a positive one that theirs are.  Nothing is stated where their curve covers under a third of
ours; the part that it covers stands beside every figure.  Published curves are means without images, so
there is no interval.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.curves import bd_rate, mean_curves
from evaluation.published import IMAGES, published_curves
from evaluation.records import read_records
from sfumato.files import write_csv

COLUMNS = ("codec", "against", "metric", "bd_rate_percent", "overlap", "refused", "source")


def main(
    results: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    dataset: str = "kodak",
) -> None:
    """Compare sfumato's rows of a table with the published curves of the same images.

    Args:
        results: table of images, as `python -m evaluation --results` writes it.
        output: the CSV file.
        dataset: whose curves to take.
    """
    rows = [row for row in read_records(results) if row.codec.startswith("sfumato")]
    if not rows:
        raise SystemExit(f"{results} holds no row of sfumato")
    if {row.image for row in rows} != IMAGES.get(dataset):
        raise SystemExit(f"{results} is not of the images that the published means of {dataset} are of")
    lines = []
    for ours in mean_curves(rows):
        for theirs in published_curves(dataset):
            for metric in theirs.values:
                if not ours.measured(metric):
                    continue
                delta = bd_rate(theirs, ours, metric)
                percent = "" if math.isnan(delta.percent) else f"{delta.percent:.1f}"
                head = [ours.codec, theirs.codec, metric, percent, f"{delta.overlap:.2f}"]
                lines.append([*head, delta.refused, theirs.source])
                print(*lines[-1][:-1], sep="  ")
    write_csv(output, COLUMNS, lines)


if __name__ == "__main__":
    tyro.cli(main)
