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
from evaluation.records import DatasetRecord, Record, read_records, read_table
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


def records(folder: Path, name: str, codec: str = CODEC) -> list[Record]:
    """The rows of a codec over one set of images; none where it was not measured."""
    table, prefix = SETS[name]
    path = folder / f"{table}.csv"
    every = read_records(path) if path.is_file() else []
    return [row for row in every if row.codec == codec and row.image.startswith(prefix)]


def curve(folder: Path, name: str, codec: str, rows: list[Record]) -> Curve:
    """Means over these rows, and what is known of the whole set."""
    table, prefix = SETS[name]
    path = folder / f"{table}-sets.csv"
    known = read_table(path, DatasetRecord) if path.is_file() and not prefix else []
    return mean_curves(rows, [row for row in known if row.codec == codec])[0]


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
        theirs, ours = records(before, name, anchor), records(now, name)
        if not theirs or not ours:
            continue
        if {row.image for row in theirs} != {row.image for row in ours}:
            raise SystemExit(f"{before} and {now} hold different images of {name}: no means to compare")
        old, new = curve(before, name, anchor, theirs), curve(now, name, CODEC, ours)
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
