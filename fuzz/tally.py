"""What became of many files, counted; a table for the terminal and a CSV file out."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from sfumato.files import csv_bytes, write_csv


def peak() -> float:
    """Largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Tally:
    """Counts outcomes by kind, with the slowest of each; and how far memory rises from now on."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._slowest: dict[tuple[str, str], float] = {}
        self._before = peak()

    def add(self, kind: str, attempt: Callable[[], str]) -> None:
        """Counts what `attempt` returns, and times it."""
        begun = time.perf_counter()
        key = (kind, attempt())
        self.counts[key] += 1
        self._slowest[key] = max(self._slowest.get(key, 0.0), time.perf_counter() - begun)

    def report(self, what: str, n: int, output: Path | None) -> None:
        """Prints the table, and writes it.

        what    heading of the column of kinds
        n       files that were asked for
        output  CSV file, one row a kind and outcome
        """
        rows = [(*key, self.counts[key], f"{self._slowest.get(key, 0):.3f}") for key in sorted(self.counts)]
        columns = (what, "outcome", "files", "slowest_s")
        memory = [
            ("memory of the loaded codec", f"{self._before:.0f} MB", "", ""),
            ("peak of the whole run", f"{peak():.0f} MB", n, ""),
        ]
        print(csv_bytes([columns, *rows, *memory]).decode())
        if output is not None:
            write_csv(output, columns, [*rows, *memory])
