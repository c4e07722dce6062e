"""python -m benchmarks.speed IMAGE ... -o CSV [--before FOLDER]: import, load, encode, decode; and others'.

Medians of one run on one machine, everything in turn, so the ratios mean something where the seconds do not.
Each round of ours is a process of its own.  FOLDER is a checkout of another version, timed in the same run.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from benchmarks.large import mosaic
from evaluation.codecs import JXL_EFFORT, decode_jxl, encode_jxl
from sfumato import image

AVIF_SPEED = 4
AVIF, JXL = f"AVIF (Pillow, speed {AVIF_SPEED}, 4:4:4)", f"JPEG XL (effort {JXL_EFFORT}, one thread)"
ANCHOR = f"{AVIF}: encode"
STEPS = (0, 1, 4)
LARGE = (3000, 4000)  # pixels, rows and columns

OURS = """
import json, sys, time
from pathlib import Path
path, threads, quality, steps, runs = Path(sys.argv[1]), *json.loads(sys.argv[2])
found = {}
def timed(name, work):
    begun = time.perf_counter()
    out = work()
    found.setdefault(name, []).append(time.perf_counter() - begun)
    return out
def start():
    import sfumato
def rest():
    import sfumato.codec
timed("import sfumato", start)
timed("import sfumato.codec", rest)
import numpy, sfumato
pixels = numpy.load(path)
codec = timed("load weights", lambda: sfumato.load())
for _ in range(runs):
    data = timed("encode", lambda: codec.encode(pixels, q=quality))
    for n in steps:
        timed(f"decode, steps {n}", lambda: codec.decode(data, steps=n))
print(json.dumps(found))
"""


def ours(folder: Path, pixels: Path, threads: int, quality: float, runs: int) -> dict[str, list[float]]:
    """Seconds of each part, from a process that runs the package in this folder."""
    settings = json.dumps([threads, quality, STEPS, runs])
    command = [sys.executable, "-c", OURS, str(pixels.resolve()), settings]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{folder}: {done.stderr}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def others(rgb: np.ndarray, folder: Path) -> dict[str, float]:
    """Seconds of AVIF and JPEG XL, once each."""
    pillow, avif, jxl = Image.fromarray(rgb), folder / "image.avif", folder / "image.jxl"

    def read_avif() -> None:
        with Image.open(avif) as opened:
            opened.load()

    found = {}
    for name, work in (
        (ANCHOR, lambda: pillow.save(avif, quality=50, speed=AVIF_SPEED, subsampling="4:4:4")),
        (f"{AVIF}: decode", read_avif),
        (f"{JXL}: encode", lambda: encode_jxl(rgb, 3.0, jxl)),
        (f"{JXL}: decode", lambda: decode_jxl(jxl)),
    ):
        begun = time.perf_counter()
        work()
        found[name] = time.perf_counter() - begun
    return found


def main(
    images: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    before: Path | None = None,
    rounds: int = 3,
    runs: int = 3,
    threads: int = 2,
    quality: float = 0.5,
    large: bool = True,
) -> None:
    """Time the first image, and a mosaic of 12 megapixels of them all.

    Args:
        images: photographs of at least 768x512 pixels.
        output: the CSV file.
        before: a checkout of another version.
        rounds: processes of each version.
        runs: of encode and decode in each; the large image has one.
        threads: of the codec.  AVIF chooses its own.
        quality: of our files.
        large: whether the mosaic is timed.
    """
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = image.read(images[0])
        for rgb in (first, *([mosaic(images)[: LARGE[0], : LARGE[1]]] if large else [])):
            np.save(folder / "pixels.npy", rgb)
            each = runs if rgb is first else 1
            now: defaultdict[str, list[float]] = defaultdict(list)
            then: defaultdict[str, list[float]] = defaultdict(list)
            for _ in range(rounds):
                for key, value in others(rgb, folder).items():
                    now[key].append(value)
                for seconds, place in ((then, before), (now, Path())):
                    found = ours(place, folder / "pixels.npy", threads, quality, each) if place else {}
                    for key, values in found.items():
                        seconds[key] += values
            anchor = statistics.median(now[ANCHOR])
            for key, values in now.items():
                median = statistics.median(values)
                old = statistics.median(then[key]) if key in then else float("nan")
                size = f"{rgb.shape[1]}x{rgb.shape[0]}"
                row = [key, size, threads, len(values), f"{median:.4f}", f"{median / anchor:.3f}"]
                row += [f"{old:.4f}", f"{old / median:.2f}"] if key in then else ["", ""]
                table.append(row)
                print(*row, sep="  ")
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = ["what", "pixels", "threads", "runs", "median_s", "times_avif_encode"]
        writer.writerow([*heads, "before_s", "before_over_now"])
        writer.writerows(table)


if __name__ == "__main__":
    tyro.cli(main)
