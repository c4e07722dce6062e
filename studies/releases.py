"""python -m studies.releases BEFORE NOW -o CSV: the reports of two versions side by side.

BEFORE and NOW are folders of results with the tables of the same sets of images (`python -m evaluation
--results`).  Only sfumato's own rows are compared: at equal rates, and by Bjontegaard delta rate.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.curves import RATES, Curve, at_rate, bd_rate, mean_curves
from evaluation.metrics import METRICS
from evaluation.records import DatasetRecord, read_records, read_table
from sfumato.files import write_csv

SETS = ("kodak", "cid22", "text")
CODEC = "sfumato"


def curve(folder: Path, name: str) -> Curve | None:
    """Means of our codec over one set of images; None where it was not measured."""
    if not (folder / f"{name}.csv").is_file():
        return None
    rows = [row for row in read_records(folder / f"{name}.csv") if row.codec == CODEC]
    table = folder / f"{name}-sets.csv"
    sets = [row for row in read_table(table, DatasetRecord) if row.codec == CODEC] if table.is_file() else []
    return mean_curves(rows, sets)[0] if rows else None


def main(
    before: Annotated[Path, tyro.conf.Positional],
    now: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Compare two versions.

    Args:
        before: folder of results of the earlier one.
        now: folder of results of the later one.
        output: the CSV file.
    """
    head = [
        "set",
        "metric",
        "bd_rate_percent",
        *(f"{when}_at_{r:g}" for r in RATES for when in ("before", "now")),
    ]
    rows: list[list[str]] = []
    for name in SETS:
        curves = [curve(folder, name) for folder in (before, now)]
        old, new = curves
        if old is None or new is None:
            continue
        for metric in METRICS:
            if not (old.measured(metric) and new.measured(metric)):
                continue
            delta = bd_rate(old, new, metric)
            values = [at_rate(one, metric, rate) for rate in RATES for one in (old, new)]
            percent = delta.refused or f"{delta.percent:.2f}"
            rows.append([name, metric, percent, *("" if math.isnan(v) else f"{v:.5g}" for v in values)])
            print(*rows[-1], sep="  ")
    if not rows:
        raise SystemExit(f"{before} and {now} have no set of {', '.join(SETS)} in common")
    write_csv(output, head, rows)


if __name__ == "__main__":
    tyro.cli(main)
