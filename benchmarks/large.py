"""python -m benchmarks.large IMAGE ... -o CSV: a large image: time, memory, and whether its tiles show.

The image of 48 megapixels is a tiling of the given ones, mirrored at their borders so that it has no edges
of its own.  Encode, decode and a crop each run in a process of their own, whose peak memory is measured.  The
tiles' borders are then compared with all other places: the error beside them, and the jump across them.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image

from sfumato import image
from sfumato.files import write_csv
from sfumato.tiles import CELL, SIDE, grid

HEIGHT, WIDTH = 6000, 8000  # pixels
CROP = (3000, 2000, 1000, 800)  # x, y, width, height: across the borders of tiles
STEPS = (0, 1, 4)  # of the diffusion, on a quarter of the image
TILE = CELL * SIDE
SHIFT = 200  # pixels: no two of the images meet where tiles or cells do


def tiled_image(paths: list[Path]) -> UInt8[np.ndarray, "height width 3"]:
    """The images side by side and row below row, each mirrored towards its neighbours."""
    rows: list[np.ndarray] = []
    number = 0
    while sum(row.shape[0] for row in rows) < HEIGHT + SHIFT:
        cells: list[np.ndarray] = []
        while sum(cell.shape[1] for cell in cells) < WIDTH + SHIFT:
            cell = image.read(paths[number % len(paths)])
            if cell.shape[0] > cell.shape[1]:
                cell = np.rot90(cell)
            number += 1
            cells += [cell[:512, :768], cell[:512, :768][:, ::-1]]
        row = np.concatenate(cells, 1)[:, SHIFT:][:, :WIDTH]
        rows += [row, row[::-1]]
    return np.ascontiguousarray(np.concatenate(rows)[SHIFT:][:HEIGHT])


def work(what: str, folder: Path, q: float, name: str, steps: int | None) -> tuple[float, float]:
    """(seconds, peak of resident memory in 2^20 bytes) of one piece of work in this process."""
    from sfumato.codec import load
    from sfumato.decode_options import Crop

    codec = load()
    begun = time.perf_counter()
    if what == "encode":
        image.write_bytes(folder / f"{name}.sfu", codec.encode(folder / f"{name}.png", q=q))
    else:
        crop = Crop(*CROP) if what == "crop" else None
        pixels = codec.decode((folder / f"{name}.sfu").read_bytes(), steps=steps, crop=crop)
        if name == "large":
            np.save(folder / f"{what}.npy", pixels)
    seconds = time.perf_counter() - begun
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seams(original: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """Mean error beside the borders of tiles and elsewhere; and of the step across, decoded less original."""
    error = np.abs(decoded.astype(np.int16) - original).mean(2)
    found = {}
    for name, axis, side in (("rows", 0, HEIGHT), ("columns", 1, WIDTH)):
        along = error.mean(1 - axis)
        steps = np.abs(np.diff(decoded.astype(np.int16), axis=axis)).mean(2).mean(1 - axis)
        steps -= np.abs(np.diff(original.astype(np.int16), axis=axis)).mean(2).mean(1 - axis)
        borders = np.arange(TILE, side, TILE)
        # lines that lie alike to the images' patches of 16 pixels, and to no tile
        others = np.setdiff1d(np.arange(CELL, side - CELL, CELL), borders)
        found[f"error beside borders, {name}"] = float((along[borders - 1] + along[borders]).mean() / 2)
        found[f"error beside other cells, {name}"] = float((along[others - 1] + along[others]).mean() / 2)
        found[f"step across borders, {name}"] = float(steps[borders - 1].mean())
        found[f"step across other cells, {name}"] = float(steps[others - 1].mean())
        found[f"largest step across borders, {name}"] = float(steps[borders - 1].max())
        found[f"largest step across other cells, {name}"] = float(steps[others - 1].max())
    return found


def main(
    images: Annotated[list[Path], tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    quality: float = 0.5,
    threads: int = 2,
) -> None:
    """Measure encode, decode and crop of 48 megapixels, and the steps of the diffusion on 12 of them.

    Args:
        images: photographs of at least 768x512 pixels.
        output: the CSV file.
        quality: of the file.
        threads: of the codec.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that are started from here
    rows: list[tuple[str, str]] = [("threads", str(threads)), ("pixels", f"{WIDTH}x{HEIGHT}")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = tiled_image(images)
        Image.fromarray(original).save(folder / "large.png", compress_level=1)
        Image.fromarray(original[: HEIGHT // 2, : WIDTH // 2]).save(folder / "quarter.png", compress_level=1)
        jobs: list[tuple[str, str, int | None, str]]
        jobs = [(what, "large", None, what) for what in ("encode", "decode", "crop")]
        jobs += [("encode", "quarter", None, "encode 12 MP")]
        jobs += [("decode", "quarter", n, f"decode 12 MP with {n} steps") for n in STEPS]
        for what, source, steps, label in jobs:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as pool:
                job = pool.submit(work, what, folder, quality, source, steps)
                seconds, peak = job.result()
            rows += [(f"{label}, s", f"{seconds:.2f}"), (f"{label}, peak MB", f"{peak:.0f}")]
        size = (folder / "large.sfu").stat().st_size
        rows += [("bytes", str(size)), ("bpp", f"{8 * size / HEIGHT / WIDTH:.4f}")]
        rows.append(("tiles", str(len(grid(HEIGHT, WIDTH)))))
        decoded = np.load(folder / "decode.npy")
        x, y, width, height = CROP
        part = decoded[y : y + height, x : x + width].astype(int)
        apart = np.abs(part - np.load(folder / "crop.npy")).max()
        rows.append(("crop against whole, largest difference", str(apart)))
        rows += [(name, f"{value:.4f}") for name, value in seams(original, decoded).items()]
    write_csv(output, ("what", "value"), rows)
    for row in rows:
        print(*row, sep=": ")


if __name__ == "__main__":
    tyro.cli(main)
