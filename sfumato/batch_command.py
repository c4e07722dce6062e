"""The command `sfumato batch`: a folder or bucket of images to another, on a Ray cluster.  Arguments in,
files and text out.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

import tyro
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from sfumato import DEFAULT_MODEL, conversion, manifest, terminal
from sfumato.conversion import Conversion, Row
from sfumato.jobs import DecodeJob, EncodeJob, UsageError
from sfumato.storage import Store
from sfumato.terminal import print_json, print_table, warn
from sfumato.tiles import MAX_PIXELS

Task = Literal["encode", "decode", "transcode", "evaluate"]
BOOKKEEPING = ("overwrite", "max_pixels")  # settings that may change from one run to the next


def batch(
    source: Annotated[str, tyro.conf.Positional],
    dest: Annotated[str, tyro.conf.Positional],
    task: Task = "encode",
    quality: Annotated[float | None, tyro.conf.arg(aliases=["-q"])] = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    target_lpips: float | None = None,
    model: str | None = None,
    steps: int | None = None,
    realism: float = 1.0,
    strip: bool = False,
    lossless_if_smaller: bool = False,
    layout: manifest.Layout | None = None,
    shard_size: int = 256,
    jobs: int | None = None,
    address: str | None = None,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    json: bool = False,
) -> None:
    """Convert a folder or bucket of images, or of tar shards, on a Ray cluster; run it again to resume.

    Needs sfumato[ray]; see docs/scale.md.

    Args:
        source: a folder, by path or URL (s3://, gs://, https://), of files or of WebDataset's tar shards; or
            one shard, or shards numbered {0000..0099}.tar.
        dest: the folder to write to, by path or URL; it also holds the state of the job, and its tables of
            results and errors.
        task: encode images; decode .sfu files to PNG; transcode JPEG, AVIF and WebP, where that makes them
            smaller; evaluate: write a table of sizes and distances, and no files.
        quality: 0 (about 0.04 bits per pixel) .. 1 (about 1.1); 0.5 if no target is given either.
        target_bytes: the best file of at most so many bytes.
        target_bpp: the best file of at most so many bits per pixel.
        target_psnr: the smallest file of at least so many decibels.
        target_lpips: the smallest file of at most this LPIPS; its weights: docs/everyday.md.
        model: weights by name, or a path to a file of weights that every node has.
        steps: of decode: as there.
        realism: of decode: as there.
        strip: leave out what comes with the pixels (EXIF, XMP, DPI, text, profile); the colours become sRGB.
        lossless_if_smaller: keep every pixel, as WebP or PNG inside the file, where that has fewer bytes.
        layout: files of their own; tar shards, where what lies beside an image in its sample goes along; or
            Parquet tables with a column of bytes. Without it tar for tar shards, else files.
        shard_size: files that are one unit of work, and of resuming; tar shards are units as they are.
        jobs: actors of one thread each; without it one for every CPU of the cluster.
        address: of the cluster's head; without it RAY_ADDRESS, or a cluster on this machine, or one made for
            the job.
        overwrite: replace what is there already with other contents.
        max_pixels: refuse larger images, both sides rounded up to multiples of 64, before they are decoded.
        json: print one JSON object a file.
    """
    begun = time.perf_counter()
    targets = quality, target_bytes, target_bpp, target_psnr, target_lpips
    if task == "decode":
        if any(target is not None for target in targets):
            raise UsageError("--task decode takes no quality and no target")
        decoding = DecodeJob(steps, realism, model=model, strip=strip, max_pixels=max_pixels)
        converts: Conversion = conversion.Decode(decoding)
    else:
        if steps is not None or realism != 1.0:
            raise UsageError(f"--steps and --realism are of --task decode, not {task}")
        encoding = EncodeJob(
            *targets,
            model or DEFAULT_MODEL,
            strip=strip,
            max_pixels=max_pixels,
            lossless_if_smaller=lossless_if_smaller,
        )
        kinds = {"encode": conversion.Encode, "transcode": conversion.Transcode}
        converts = kinds.get(task, conversion.Evaluate)(encoding)
    from sfumato import ray
    from sfumato.shards import Work

    ray.require()
    store, names = manifest.find(source)
    target = Store.at(dest)
    settings = {"task": task, **{k: v for k, v in asdict(converts.job).items() if k not in BOOKKEEPING}}
    plan = manifest.prepare(store, names, target, converts, layout, shard_size, settings)
    left = plan.left(target)
    if left:
        converts.job.check()
    done = len(plan.shards) - len(left)
    if done and not json:
        warn(f"{dest}: {done} of {len(plan.shards)} shards are done already")
    work = Work(store, target, converts, plan.settings["layout"], overwrite)
    unfinished: list[Row] = []
    count = 0
    progress = terminal.progress(MofNCompleteColumn(), TimeRemainingColumn())
    with progress:
        bar = progress.add_task(terminal.printable(source), total=len(left))
        for rows in ray.run(work, left, jobs, address):
            progress.advance(bar)
            count += sum("input" in row for row in rows)
            for row in rows:
                if "input" not in row:
                    unfinished.append(row)
                _print(row, json)
    rows = manifest.collect(plan, target)
    manifest.write_tables(rows, target)
    failed = sum("error" in row for row in rows)
    if not json:
        print_table(_summary(rows, count, len(unfinished), time.perf_counter() - begun))
        if failed:
            warn(f"{failed} files failed: {dest.rstrip('/')}/{manifest.ERRORS}")
    if failed or unfinished:
        sys.exit(1)


def _print(row: Row, as_json: bool) -> None:
    if as_json:
        print_json(row)
    elif "error" in row:
        what = row.get("input") or f"shard {row['shard']} is left for the next run"
        warn(f"sfumato: {what}: {row['error']}")


def _summary(rows: list[Row], now: int, unfinished: int, seconds: float) -> Table:
    done = [row for row in rows if "error" not in row]
    cells: dict[str, Any] = {
        "files": len(done),
        "in this run": now,
        "failed": len(rows) - len(done),
        "shards left": unfinished,
        "image bytes": sum(row["image_bytes"] for row in done),
        ".sfu bytes": sum(row["bytes"] for row in done),
    }
    for name in ("bpp", "psnr_db", "lpips_alex"):
        values = [row[name] for row in done if row.get(name) is not None]
        if values:
            cells[f"mean {name}"] = f"{sum(values) / len(values):.3f}"
    cells["seconds"] = f"{seconds:.1f}"
    table = Table(*cells)
    table.columns[0].justify = "right"
    table.add_row(*map(str, cells.values()))
    return table
