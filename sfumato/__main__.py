"""The command: `sfumato encode`, `decode`, `batch`, `compare`, `info`, `register`.

Exit codes: 0 all was done; 1 something could not be done, one line for each file; 2 an argument that is not
understood; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from rich.progress import MofNCompleteColumn, TimeRemainingColumn
from rich.table import Table

from sfumato import (
    DEFAULT_MODEL,
    __version__,
    batch,
    batch_command,
    container,
    file_info,
    files,
    register,
    terminal,
)
from sfumato.jobs import (
    STREAM,
    SUFFIX,
    DecodeJob,
    EncodeJob,
    Job,
    JobResult,
    UsageError,
    error_message,
)
from sfumato.terminal import bar as _bar
from sfumato.terminal import print_json as _json
from sfumato.terminal import print_line, warn
from sfumato.terminal import print_table as _print
from sfumato.tiles import MAX_PIXELS

SHELLS = ("bash", "zsh", "fish")
PAGES = (".html", ".htm")
Out = Annotated[str | None, tyro.conf.arg(aliases=["-o"], metavar="{None}|PATH")]  # str: Path drops a last /
ABOUT = f"""Images to small files and back.

sfumato --completion SHELL prints the completion for {", ".join(SHELLS)}; sfumato --version the versions.
Exit codes: 0 done, 1 something could not be done, 2 arguments not understood, 130 Ctrl-C."""


def encode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Out = None,
    quality: Annotated[float | None, tyro.conf.arg(aliases=["-q"])] = None,
    target_bytes: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    target_lpips: float | None = None,
    model: str = DEFAULT_MODEL,
    seed: int | None = None,
    strip: bool = False,
    jobs: int | None = None,
    overwrite: bool = False,
    update: bool = False,
    max_pixels: int = MAX_PIXELS,
    lossless_if_smaller: bool = False,
    json: bool = False,
) -> None:
    """Make an image a small file, or a folder of images a folder of small files.

    Args:
        source: the image: PNG, JPEG, WebP, AVIF, TIFF, ...; or a folder; or - for standard input.
        out: the file to write, or the folder to write to (a name that ends in / is made one), or - for
            standard output; without it the image's name with .sfu.
        quality: 0 (about 0.04 bits per pixel) .. 1 (about 1.1); 0.5 if no target is given either.
        target_bytes: the best file of at most so many bytes.
        target_bpp: the best file of at most so many bits per pixel.
        target_psnr: the smallest file of at least so many decibels.
        target_lpips: the smallest file of at most this LPIPS; its weights: docs/everyday.md.
        model: weights by name, or a path to a file of weights.
        seed: of the noise that decoding with steps uses; without it, one that follows from the file.
        strip: leave out what comes with the pixels (EXIF, XMP, DPI, text, profile); the colours become sRGB.
        jobs: processes that work on a folder; without it as many as there are processors.
        overwrite: replace what is there already; without it nothing that is whole is replaced.
        update: of a folder, replace also .sfu files that are older than their image.
        max_pixels: refuse larger images, both sides rounded up to multiples of 64, before they are decoded.
        lossless_if_smaller: keep every pixel, as WebP or PNG inside the file, where that has fewer bytes.
        json: print one JSON object a file.
    """
    settings = EncodeJob(
        quality, target_bytes, target_bpp, target_psnr, target_lpips, model, seed, strip, overwrite,
        max_pixels, lossless_if_smaller,
    )  # fmt: skip
    _do(settings, source, out, jobs, overwrite, json, update)


def decode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Out = None,
    steps: int | None = None,
    realism: float = 1.0,
    eta: float = 0.0,
    partial: bool = False,
    chunks: int | None = None,
    crop: tuple[int, int, int, int] | None = None,
    model: str | None = None,
    strip: bool = False,
    jobs: int | None = None,
    overwrite: bool = False,
    max_pixels: int = MAX_PIXELS,
    json: bool = False,
) -> None:
    """Make a file an image again, or a folder of files a folder of PNG images.

    Args:
        source: the .sfu file; or a folder; or - for standard input.
        out: the image to write, in the format of its suffix, or the folder to write to (a name that ends
            in / is made one), or - for a PNG on standard output; without it the name with .png.
        steps: of the diffusion that restores texture; 0 gives the base reconstruction. Without it 1, or 0 for
            previews.
        realism: 0 (the most faithful image) .. 1 (the most natural one), with steps.
        eta: fresh noise at each step, 0 (none) .. 1.
        partial: accept a file that is cut short and show what its beginning holds.
        chunks: 0 .. 5, decode only so many of the file's chunks: a preview, sooner.
        crop: X Y WIDTH HEIGHT in pixels: decode only this part.
        model: a path to the file of weights that wrote it, if those are not in the package.
        strip: leave out what comes with the pixels; the colours become sRGB.
        jobs: processes that work on a folder; without it as many as there are processors.
        overwrite: replace what is there already; without it nothing that is whole is replaced.
        max_pixels: refuse to decode more, both sides rounded up to multiples of 64; of a crop what it takes.
        json: print one JSON object a file.
    """
    settings = DecodeJob(steps, realism, eta, partial, chunks, crop, model, overwrite, strip, max_pixels)
    _do(settings, source, out, jobs, overwrite, json)


def compare(
    source: Annotated[Path, tyro.conf.Positional],
    baselines: str = "avif,webp,jpeg",
    out: Out = None,
    quality: Annotated[float, tyro.conf.arg(aliases=["-q"])] = 0.4,
    model: str = DEFAULT_MODEL,
    overwrite: bool = False,
) -> None:
    """Make a page that shows an image at the same size by several codecs.

    Args:
        source: the image.
        baselines: codecs beside sfumato, separated by commas: avif, webp, jpeg.
        out: the page to write, a name with .html; without it the image's name with .html.
        quality: of sfumato, 0 .. 1; the others take the size that follows.
        model: weights by name, or a path to a file of weights.
        overwrite: replace a page that is there already.
    """
    from sfumato import compare as comparison

    names = comparison.parse_baselines(baselines)
    target = _target(source, out, ".html", overwrite)
    if target == STREAM or target.suffix.lower() not in PAGES:
        raise UsageError(f"{target}: compare writes a page; name it with one of {' '.join(PAGES)}")
    with _bar() as bar:
        from sfumato.codec import load

        made = comparison.compare(source, names, load(model), quality, bar)
        files.write_bytes(target, made.page().encode("utf-8", "replace"), overwrite)
    sizes = ", ".join(f"{v.label}: {v.size_bytes} bytes" for v in made.comparison.renditions)
    print_line(f"{target}: {sizes}", sys.stdout if target.is_file() else sys.stderr)


def info(
    file: Annotated[Path | None, tyro.conf.Positional] = None, model: str | None = None, json: bool = False
) -> None:
    """Tell what is in a file, or what a model costs.

    Args:
        file: a .sfu file.
        model: weights by name, or a path to a file of weights.
        json: print one JSON object.
    """
    if (file is None) == (model is None):
        raise UsageError("give a file or --model, one of the two")
    if file is not None:
        file_info.print_file(file, json)
    if model is not None:
        file_info.print_model(model, json)


def _do(
    job: Job,
    source: Path,
    out: str | None,
    jobs: int | None,
    overwrite: bool,
    as_json: bool,
    update: bool = False,
) -> None:
    if source.is_dir():
        _do_folder(job, source, out, jobs, overwrite, as_json, update)
        return
    target = _target(source, out, job.suffix, overwrite)
    _check_suffix(job, target)
    with _bar() as bar:
        report = job.run(source, target, bar)
    if not as_json:  # there they are part of the object
        _warn_of(report)
    stream = sys.stdout if target.is_file() else sys.stderr  # beside the bytes, where those go to a pipe
    if as_json:
        _json(asdict(report), stream)
        return
    size = f"{report.width}x{report.height}, {report.bytes} bytes, {report.bpp:.3f} bpp"
    print_line(f"{target}: {size}, quality {report.quality:.3f}, {report.seconds:.2f} s", stream)


def _do_folder(
    job: Job, source: Path, out: str | None, jobs: int | None, overwrite: bool, as_json: bool, update: bool
) -> None:
    if out is None:
        raise UsageError(f"{source} is a folder; name one for what is written with -o")
    if Path(out) == STREAM:
        raise UsageError(f"{source} is a folder: that does not go to standard output; name a folder with -o")
    begun = time.perf_counter()
    planned = batch.plan(job, source, Path(out))
    work = batch.sort(job, planned.tasks, overwrite, update)
    if work.todo:
        job.check()
    for note in (*planned.notes, *work.notes):
        warn(note)
    for skipped in work.skipped:
        if as_json:
            _json(asdict(skipped))
        elif skipped.reason != batch.DONE:
            warn(f"{skipped.output}: {skipped.reason}")
    if done := sum(skipped.reason == batch.DONE for skipped in work.skipped):
        if not as_json:
            warn(f"{out}: {done} files skipped: each {batch.DONE}; --overwrite writes them again")
    reports: list[JobResult] = []
    failures = list(work.failures)
    for failure in failures:
        _fail(failure, as_json)
    progress = terminal.progress(MofNCompleteColumn(), TimeRemainingColumn())
    processes = batch.processors() if jobs is None else jobs
    with progress, contextlib.closing(batch.run(job, work.todo, processes)) as outcomes:
        bar = progress.add_task(terminal.printable(source), total=len(work.todo))
        for outcome in outcomes:
            progress.advance(bar)
            if isinstance(outcome, batch.Failure):
                failures.append(outcome)
                _fail(outcome, as_json)
                continue
            reports.append(outcome)
            if as_json:
                _json(asdict(outcome))
            else:
                _warn_of(outcome)
    if not as_json:
        counts = len(work.skipped), len(failures)
        _print(_summary(job, reports, *counts, time.perf_counter() - begun))
    if failures:
        sys.exit(1)


def _fail(failure: batch.Failure, as_json: bool) -> None:
    if as_json:
        _json(asdict(failure))
    else:
        warn(f"sfumato: {failure.input}: {failure.error}")


def _warn_of(report: JobResult) -> None:
    for sentence in report.warnings:
        warn(f"{report.input}: {sentence}")


def _summary(job: Job, reports: list[JobResult], skipped: int, failures: int, seconds: float) -> Table:
    files, images = sum(r.bytes for r in reports), sum(r.image_bytes for r in reports)
    before, after = (images, files) if isinstance(job, EncodeJob) else (files, images)
    bpp = f"{sum(r.bpp for r in reports) / len(reports):.3f}" if reports else "-"
    table = Table("files", "skipped", "failed", "bytes before", "bytes after", "mean bpp", "seconds")
    table.columns[0].justify = "right"
    cells = [len(reports), skipped, failures, before, after]
    table.add_row(*map(str, cells), bpp, f"{seconds:.1f}")
    return table


def _target(source: Path, out: str | None, suffix: str, overwrite: bool) -> Path:
    """Where to write: what was asked for, in a folder the source's name with another suffix; UsageError for
    what is there already, unless that may be replaced."""
    if source == STREAM or out == str(STREAM):
        if out is None:
            raise UsageError("from standard input: name a file with -o, or - for standard output")
        if out == str(STREAM):
            return STREAM
    target = source.with_suffix(suffix) if out is None else Path(out)
    if out is not None and (out.endswith(("/", os.sep)) or target.is_dir()):
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target} is no folder")
        if source == STREAM:
            raise UsageError(f"{out} is a folder; name a file with -o for what comes from standard input")
        if not target.exists() and not target.parent.is_dir():
            raise UsageError(f"{target.parent}: no such folder")
        target = target / source.with_suffix(suffix).name
    elif not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file with -o")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input; name another file with -o")
    if os.path.lexists(target) and not overwrite and (target.is_file() or not target.exists()):
        raise UsageError(f"{target} exists; name another with -o, or replace it with --overwrite")
    return target


def _check_suffix(job: Job, target: Path) -> None:
    """UsageError where an encoder would write its bytes under the name of another format."""
    suffix = target.suffix.lower()
    if isinstance(job, EncodeJob) and suffix in batch.IMAGE_SUFFIXES | {".html", ".htm", ".jxl"}:
        raise UsageError(f"{target}: encode writes {SUFFIX} files, not {suffix}; name it with {SUFFIX}")


def _arguments(given: list[str]) -> list[str]:
    """Those of the parser: it writes the completion of a shell under a longer name."""
    if given[:1] != ["--completion"]:
        return given
    if len(given) != 2 or given[1] not in SHELLS:
        raise UsageError(f"--completion takes the name of a shell: {', '.join(SHELLS)}")
    return ["--tyro-print-completion", given[1]]


def main() -> None:
    """Entry point; the exit codes are those above."""
    terminal.prepare()
    warnings.simplefilter(
        "ignore"
    )  # Pillow's on odd files: what matters of them becomes a warning or an error
    if sys.argv[1:] == ["--version"]:
        print_line(f"sfumato {__version__}, format {container.VERSION}")
        return
    try:
        commands: dict[str, Callable[..., None]] = {
            "encode": encode,
            "decode": decode,
            "batch": batch_command.batch,
            "compare": compare,
            "info": info,
            "register": register.register,
        }
        arguments = _arguments(sys.argv[1:])
        tyro.extras.subcommand_cli_from_dict(commands, prog="sfumato", description=ABOUT, args=arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except terminal.Ended as end:
        sys.exit(end.code)
    except BrokenPipeError:  # nobody reads on: the interpreter must not try once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        message = error_message(error)
        if message is None:
            raise
        if "--json" in sys.argv:
            _json({"error": message})
        else:
            warn(f"sfumato: {message}")
        sys.exit(1)


if __name__ == "__main__":
    main()
