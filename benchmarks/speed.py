"""python -m benchmarks.speed IMAGE ... -o CSV [--python PATH] [--before FOLDER --before-python PATH]

Size of the installation, import, load, encode, decode, memory; AVIF and JPEG XL beside them; and another
version, from a checkout of it.  Medians of one run on one machine, everything in turn, so the ratios mean
something where the seconds do not.  Each round of ours is a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from benchmarks.large import tiled_image
from evaluation.codecs import JXL_EFFORT, decode_jxl, encode_jxl
from sfumato import image
from sfumato.files import write_csv

AVIF_SPEED = 4
AVIF, JXL = f"AVIF (Pillow, speed {AVIF_SPEED}, 4:4:4)", f"JPEG XL (effort {JXL_EFFORT}, one thread)"
ANCHOR = f"{AVIF}: encode"
STEPS = (0, 1, 4)
LARGE = (3000, 4000)  # pixels, rows and columns

OURS = """
import json, resource, sys, time
from pathlib import Path
path, quality, steps, runs = Path(sys.argv[1]), *json.loads(sys.argv[2])
found = {}
def timed(name, work):
    begun = time.perf_counter()
    out = work()
    found.setdefault(name, []).append(time.perf_counter() - begun)
    return out
def import_package():
    import sfumato
def import_codec():
    import sfumato.codec
timed("import sfumato", import_package)
timed("import sfumato.codec", import_codec)
import numpy, sfumato
pixels = numpy.load(path)
codec = timed("load weights", lambda: sfumato.load())
for _ in range(runs):
    data = timed("encode", lambda: codec.encode(pixels, q=quality))
    for n in steps:
        timed(f"decode, steps {n}", lambda: codec.decode(data, steps=n))
found["peak memory"] = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
path.with_suffix(".sfu").write_bytes(data)
print(json.dumps(found))
"""
INSTALLED = """
import sysconfig
from pathlib import Path
kept = ("pip", "setuptools", "wheel")
folders = [p for p in Path(sysconfig.get_path("purelib")).iterdir() if p.name.split("-")[0] not in kept]
files = [f for p in folders for f in ([p] if p.is_file() else p.rglob("*"))]
print(sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc") / 1e6)
"""
MEGABYTES = {"installed": "MB", "peak memory": "MiB"}
COLUMNS = (
    *("what", "unit", "pixels", "threads", "runs"),
    *("now", "times_avif_encode", "before", "before_over_now"),
)


@dataclass(frozen=True)
class Version:
    """One state of the package: a checkout, and an interpreter that has what it needs."""

    folder: Path
    python: str

    def run(self, *words: str, threads: int = 1) -> subprocess.CompletedProcess[str]:
        """The interpreter with these arguments, in the checkout; SystemExit with its errors if it fails."""
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, capture_output=True, text=True, env=environment
        )
        if done.returncode:
            raise SystemExit(f"{self.folder}: {done.stderr}")
        return done

    def once(self) -> dict[str, list[float]]:
        """What needs no image: size on disk without bytecode, and time of imports by -X importtime."""
        found = {"installed": [float(self.run("-c", INSTALLED).stdout)]}
        for name in ("sfumato", "sfumato.codec"):
            log = self.run("-X", "importtime", "-c", f"import {name}").stderr.splitlines()
            cumulative = [line.split("|")[1] for line in log if line.split("|")[-1].strip() == name]
            found[f"import {name}, by -X importtime"] = [int(cumulative[-1]) / 1e6]
        return found

    def coding(self, pixels: Path, threads: int, quality: float, runs: int) -> dict[str, list[float]]:
        """Each part in one process, and decoding in another, from start to end of it."""
        settings = json.dumps([quality, STEPS, runs])
        done = self.run("-c", OURS, str(pixels.resolve()), settings, threads=threads)
        found: dict[str, list[float]] = json.loads(done.stdout)
        file, image = pixels.with_suffix(".sfu").resolve(), pixels.with_suffix(".png").resolve()
        image.unlink(missing_ok=True)
        begun = time.perf_counter()
        self.run("-m", "sfumato", "decode", str(file), "-o", str(image), threads=threads)
        return found | {"sfumato decode, the whole process": [time.perf_counter() - begun]}


def others(rgb: np.ndarray, folder: Path) -> dict[str, list[float]]:
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
        found[name] = [time.perf_counter() - begun]
    return found


def main(
    images: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    python: str = sys.executable,
    before: Path | None = None,
    before_python: str = sys.executable,
    rounds: int = 3,
    runs: int = 3,
    threads: tuple[int, ...] = (1, 2),
    quality: float = 0.5,
    large: bool = True,
) -> None:
    """Time the first image, and a tiled image of 12 megapixels of them all.

    Args:
        images: photographs of at least 768x512 pixels.
        output: the CSV file.
        python: an interpreter with what this checkout needs, and no extras if its size is to mean something.
        before: a checkout of another version.
        before_python: an interpreter with what that needs.
        rounds: processes of each version.
        runs: of encode and decode in each; the large image has one.
        threads: of the codec.  AVIF chooses its own.
        quality: of our files.
        large: whether the tiled image is timed.
    """
    now, then = Version(Path(), python), None if before is None else Version(before, before_python)
    versions = [now] if then is None else [then, now]
    table: list[tuple[object, ...]] = []

    def add(found: list[tuple[Version | None, dict[str, list[float]]]], size: str, count: object) -> None:
        """Rows of all that was found: of the versions, and, under None, of the others."""
        values: dict[Version | None, defaultdict[str, list[float]]] = {v: defaultdict(list) for v, _ in found}
        for version, parts in found:
            for what, numbers in parts.items():
                values[version][what] += numbers
        anchor = statistics.median(values[None][ANCHOR]) if None in values else math.nan
        for what, numbers in (values.get(None, {}) | values[now]).items():
            unit, median = MEGABYTES.get(what, "s"), statistics.median(numbers)
            row = [what, unit, size, count, len(numbers), f"{median:.4g}"]
            row.append(f"{median / anchor:.3f}" if unit == "s" and anchor == anchor else "")
            if then is not None and what in values[then]:
                old = statistics.median(values[then][what])
                row += [f"{old:.4g}", f"{old / median:.2f}"]
            else:
                row += ["", ""]
            table.append(tuple(row))
            print(*row, sep="  ", flush=True)

    add([(version, version.once()) for _ in range(rounds) for version in versions], "", "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = image.read(images[0])
        for rgb in (first, *([tiled_image(images)[: LARGE[0], : LARGE[1]]] if large else [])):
            pixels, each = folder / "pixels.npy", runs if rgb is first else 1
            np.save(pixels, rgb)
            for count in threads:
                found: list[tuple[Version | None, dict[str, list[float]]]] = []
                for _ in range(rounds):
                    found.append((None, others(rgb, folder)))
                    found += [(version, version.coding(pixels, count, quality, each)) for version in versions]
                add(found, f"{rgb.shape[1]}x{rgb.shape[0]}", count)
    write_csv(output, COLUMNS, table)


if __name__ == "__main__":
    tyro.cli(main)
