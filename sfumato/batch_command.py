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
from sfumato.command_options import (
    Flag,
    Integer,
    Number,
    OptionalInteger,
    OptionalModel,
    OptionalNumber,
    option,
)
from sfumato.conversion import Conversion, Row
from sfumato.jobs import DecodeJob, EncodeJob, UsageError
from sfumato.storage import Store
from sfumato.terminal import print_json, print_table, warn
from sfumato.tiles import MAX_PIXELS

Task = Literal["encode", "decode", "transcode", "evaluate"]
BOOKKEEPING = ("overwrite", "max_pixels")  # settings that may change from one run to the next


def batch(
    source: Annotated[str, tyro.conf.Positional, option("SOURCE")],
    dest: Annotated[str, tyro.conf.Positional, option("DEST")],
    task: Task = "encode",
    quality: Annotated[float | None, option("Q", "-q", default="0.5")] = None,
    target_bytes: OptionalInteger = None,
    target_bpp: OptionalNumber = None,
    target_psnr: OptionalNumber = None,
    target_lpips: OptionalNumber = None,
    model: OptionalModel = None,
    steps: OptionalInteger = None,
    realism: Number = 1.0,
    strip: Flag = False,
    lossless_if_smaller: Flag = False,
    latent_only: Flag = False,
    layout: Annotated[manifest.Layout | None, option("{files,tar,parquet}")] = None,
    shard_size: Integer = 256,
    jobs: OptionalInteger = None,
    address: Annotated[str | None, option("HOST:PORT")] = None,
    overwrite: Flag = False,
    max_pixels: Integer = MAX_PIXELS,
    json: Flag = False,
) -> None:
    """Encode, decode or transcode a folder or bucket on a Ray cluster; run it again to resume.

    Needs sfumato[ray]; see docs/scale.md.

    Args:
        source: Folder, by path or URL (s3://, gs://, https://), of images or of WebDataset's tar shards; or
            shards by name, numbered {0000..0099}.tar.
        dest: Folder to write, by path or URL; it also holds the state of the job, and its tables of results
            and errors.
        task: Encode images; decode .sfu files to PNG; transcode JPEG, AVIF and WebP where that makes them
            smaller; evaluate: write a table of sizes and distances, and no files.
        quality: From 0 (about 0.05 bits per pixel) to 1 (about 1.0).
        target_bytes: Make the best file of at most this many bytes.
        target_bpp: Make the best file of at most this many bits per pixel.
        target_psnr: Make the smallest file of at least this PSNR in dB.
        target_lpips: Make the smallest file of at most this LPIPS (needs its weights, see docs/everyday.md).
        model: Weights, by name or by a path that every node has.
        steps: Of decode, as there.
        realism: Of decode, as there.
        strip: Leave out EXIF, XMP, resolution, text and colour profile; colours become sRGB.
        lossless_if_smaller: Store the pixels losslessly, as WebP or PNG in the file, where that is smaller.
        latent_only: Keep to the networks where a rendered image in fewer colours would be closer.
        layout: Files; tar shards, with whatever lies beside an image in its sample; or Parquet tables with a
            column of bytes. Without it tar for tar shards, else files.
        shard_size: Files in one unit of work, and of resuming; tar shards are units as they are.
        jobs: Actors of one thread each; without it one per CPU of the cluster.
        address: Head of the cluster; without it RAY_ADDRESS, a cluster on this machine, or one made for the
            job.
        overwrite: Replace files that exist with other contents.
        max_pixels: Refuse larger images, sides rounded up to multiples of 64, before they are decoded.
        json: Print one JSON object per file.
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
            few_colours=not latent_only,
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
