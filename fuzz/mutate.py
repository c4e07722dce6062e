"""python -m fuzz.mutate -n 100000 -o CSV: random mutations of valid files, each decoded.

Allowed: FormatError, or the very image of the file before the mutation.  Told: how many of each, the
slowest, and how far memory rose over that of the loaded codec.
"""

from __future__ import annotations

import csv
import io
import resource
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.progress import track

from fuzz.toy import codec, corpus
from sfumato import container
from sfumato.errors import FormatError
from sfumato.image import write_bytes

Generator = np.random.Generator


def mutate(data: bytes, others: list[bytes], rng: Generator) -> tuple[str, bytes]:
    """(kind, bytes): one to four changes of one kind; another file lends bytes to a splice."""
    kinds = ("flip", "byte", "header", "size", "insert", "delete", "cut", "repeat", "splice")
    kind = str(rng.choice(kinds))
    if kind == "size":
        return kind, resize(data, rng)
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(out))) if out else 0
        size = int(rng.integers(1, 9))
        if kind == "flip" and out:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte" and out:
            out[at] = int(rng.integers(256))
        elif kind == "header" and out:
            out[at % min(24, len(out))] = int(rng.choice((0, 1, 127, 128, 255, int(rng.integers(256)))))
        elif kind == "insert":
            out[at:at] = rng.bytes(size)
        elif kind == "delete":
            del out[at : at + size]
        elif kind == "cut":
            del out[at:]
        elif kind == "repeat":
            out[at:at] = out[at : at + size]
        elif kind == "splice":
            other = others[int(rng.integers(len(others)))]
            out[at:] = other[int(rng.integers(len(other))) :]
    return kind, bytes(out)


def resize(data: bytes, rng: Generator) -> bytes:
    """The file with another width and height in its header, up to the limits of the format."""
    header = container.unpack(data).header
    while True:
        width, height = (int(2 ** rng.uniform(0, 16)) for _ in range(2))
        try:
            return replace(header, width=width, height=height).pack() + data[len(header.pack()) :]
        except ValueError:  # too many pixels in all
            continue


def peak() -> float:
    """Largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 100_000,
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    seed: int = 0,
) -> None:
    """Decode n mutations; an exception other than FormatError, or another image, ends the run with it.

    Args:
        n: how many.
        output: CSV file, one row a kind of mutation and outcome.
        seed: of the mutations.
    """
    files = corpus()
    images = [codec().decode(data, steps=0) for data in files]
    before = peak()
    rng = np.random.default_rng(seed)
    counts: Counter[tuple[str, str]] = Counter()
    slowest: dict[tuple[str, str], float] = {}
    for _ in track(range(n), description="mutations"):
        chosen = int(rng.integers(len(files)))
        kind, data = mutate(files[chosen], files, rng)
        begun = time.perf_counter()
        try:
            decoded = codec().decode(data, steps=0)
        except FormatError:
            outcome = "FormatError"
        else:
            same = [np.array_equal(decoded, expected) for expected in images]
            if not any(same):
                raise AssertionError(f"another image, from {data.hex()}")
            outcome = "picture"
        counts[kind, outcome] += 1
        key = (kind, outcome)
        slowest[key] = max(slowest.get(key, 0.0), time.perf_counter() - begun)
    rows = [(*key, counts[key], f"{slowest[key]:.3f}") for key in sorted(counts)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("mutation", "outcome", "files", "slowest_s"))
    writer.writerows(rows)
    writer.writerow(("memory of the loaded codec", f"{before:.0f} MB", "", ""))
    writer.writerow(("peak of the whole run", f"{peak():.0f} MB", n, ""))
    print(text.getvalue())
    if output is not None:
        write_bytes(output, text.getvalue().encode())


if __name__ == "__main__":
    tyro.cli(main)
