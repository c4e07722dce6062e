"""python -m fuzz.mutate -n 100000 -o CSV: random mutations of valid files, each decoded.

Allowed: FormatError, or the very image of the file before the mutation.  Reported: how many of each, the
slowest, and how far memory rose over that of the loaded codec.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.progress import track

from fuzz.tally import Tally
from fuzz.toy import codec, corpus
from sfumato import container
from sfumato.errors import FormatError

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
    tally = Tally()
    rng = np.random.default_rng(seed)

    def outcome(data: bytes) -> str:
        try:
            decoded = codec().decode(data, steps=0)
        except FormatError:
            return "FormatError"
        if not any(np.array_equal(decoded, expected) for expected in images):
            raise AssertionError(f"another image, from {data.hex()}")
        return "image"

    for _ in track(range(n), description="mutations"):
        chosen = int(rng.integers(len(files)))
        kind, data = mutate(files[chosen], files, rng)
        tally.add(kind, partial(outcome, data))
    tally.report("mutation", n, output)


if __name__ == "__main__":
    tyro.cli(main)
