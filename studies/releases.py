"""python -m studies.releases BEFORE NOW -o CSV: the reports of two versions side by side.

BEFORE and NOW are folders of results with the tables of the same sets of images (`python -m evaluation
--results`).  Sfumato's own rows are compared, or NOW's with those of another codec in BEFORE (`--anchor`): at
equal rates, and by Bjontegaard delta rate with its interval over images.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import tyro

from evaluation.curves import DRAWS, RATES, Curve, at_rate, bd_rate, mean_curves
from evaluation.metrics import METRICS
from evaluation.records import DatasetRecord, read_records, read_table
from sfumato.files import write_csv

SETS = {
    "kodak": ("kodak", ""),
    "cid22": ("cid22", ""),
    "text": ("text", ""),
    "screens": ("text", "screen"),
    "signs": ("text", "sign"),
}
"""Name -> table, and what the names of its images begin with."""
CODEC = "sfumato"


def curve(folder: Path, name: str, codec: str = CODEC) -> Curve | None:
    """Means of a codec over one set of images; None where it was not measured."""
    table, prefix = SETS[name]
    if not (folder / f"{table}.csv").is_file():
        return None
    every = read_records(folder / f"{table}.csv")
    rows = [row for row in every if row.codec == codec and row.image.startswith(prefix)]
    path = folder / f"{table}-sets.csv"
    known = read_table(path, DatasetRecord) if path.is_file() and not prefix else []
    return mean_curves(rows, [row for row in known if row.codec == codec])[0] if rows else None


def main(
    before: Annotated[Path, tyro.conf.Positional],
    now: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    anchor: str = CODEC,
) -> None:
    """Compare two versions.

    Args:
        before: folder of results of the earlier one.
        now: folder of results of the later one.
        output: the CSV file.
        anchor: codec whose rows of `before` are compared with.
    """
    head = [
        "set",
        "metric",
        "bd_rate_percent",
        "low",
        "high",
        *(f"{when}_at_{r:g}" for r in RATES for when in ("before", "now")),
    ]
    rows: list[list[str]] = []
    for name in SETS:
        old, new = curve(before, name, anchor), curve(now, name)
        if old is None or new is None:
            continue
        for metric in METRICS:
            if not (old.measured(metric) and new.measured(metric)):
                continue
            delta = bd_rate(old, new, metric, DRAWS)
            values = [at_rate(one, metric, rate) for rate in RATES for one in (old, new)]
            percent = delta.refused or f"{delta.percent:.2f}"
            interval = ("" if math.isnan(v) else f"{v:.1f}" for v in (delta.low, delta.high))
            figures = ("" if math.isnan(v) else f"{v:.5g}" for v in values)
            rows.append([name, metric, percent, *interval, *figures])
            print(*rows[-1], sep="  ")
    if not rows:
        raise SystemExit(f"{before} and {now} have no set of {', '.join(SETS)} in common")
    write_csv(output, head, rows)


if __name__ == "__main__":
    tyro.cli(main)
