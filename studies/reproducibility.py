"""python -m studies.reproducibility LOGGED AGAIN -o CSV: whether a training run repeats another one's curve.

Both are the log.jsonl of a run.  Every line of the log is a mean over the steps since the last; they are
compared where both have one, by step, so the machine's speed does not matter.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated

import tyro

from sfumato.files import write_csv

TERMS = ("loss", "bpp", "mse")
SPAN = 1000  # steps


def curve(path: Path) -> dict[int, dict[str, float]]:
    """Step -> the terms of the loss."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["step"]: record for record in records if "loss" in record}


def main(
    logged: Annotated[Path, tyro.conf.Positional],
    again: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
) -> None:
    """Write both curves side by side, and print the means of the loss over every thousand steps.

    Args:
        logged: log of the first run.
        again: log of the second one.
        output: the CSV file.
    """
    first, second = curve(logged), curve(again)
    steps = sorted(first.keys() & second.keys())
    columns = ["step", *(f"{term}_{run}" for term in TERMS for run in ("logged", "again"))]
    rows = ([step, *(run[step][term] for term in TERMS for run in (first, second))] for step in steps)
    write_csv(output, columns, rows)
    for start in range(0, steps[-1] if steps else 0, SPAN):
        span = [step for step in steps if start < step <= start + SPAN]
        one, other = (statistics.mean(run[step]["loss"] for step in span) for run in (first, second))
        print(f"steps {span[0]} to {span[-1]}: loss {one:.4f}, again {other:.4f}, {other / one - 1:+.2%}")


if __name__ == "__main__":
    tyro.cli(main)
