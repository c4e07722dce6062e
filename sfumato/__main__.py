"""The command: `sfumato encode`, `decode`, `batch`, `compare`, `info`, `register`.

Exit codes: 0 done; 1 something could not be done, one line for each file; 2 bad arguments; 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro

from sfumato import (
    DEFAULT_MODEL,
    __version__,
    batch,
    batch_command,
    container,
    file_info,
    files,
    folder_command,
    register,
    terminal,
    writing,
)
from sfumato.command_options import (
    Flag,
    Integer,
    Model,
    Number,
    OptionalInteger,
    OptionalModel,
    OptionalNumber,
    option,
)
from sfumato.jobs import (
    STREAM,
    SUFFIX,
    DecodeJob,
    EncodeJob,
    Job,
    UsageError,
    error_message,
)
from sfumato.terminal import bar as _bar
from sfumato.terminal import print_json as _json
from sfumato.terminal import print_line, warn
from sfumato.tiles import MAX_PIXELS

SHELLS = ("bash", "zsh", "fish")
PAGES = (".html", ".htm")
ABOUT = f"""Learned image compression: images to small files and back.

sfumato --version prints the versions, sfumato --completion SHELL the completion for {", ".join(SHELLS)}.
Exit codes: 0 done, 1 something could not be done, 2 bad arguments, 130 interrupted."""

Images = Annotated[tuple[Path, ...], tyro.conf.Positional, option("IMAGE ...")]
Files = Annotated[tuple[Path, ...], tyro.conf.Positional, option("FILE ...")]
Out = Annotated[str | None, option("PATH", "-o")]  # str: Path drops a last /


def encode(
    source: Images,
    out: Out = None,
    quality: Annotated[float | None, option("Q", "-q", default="0.5")] = None,
    target_bytes: OptionalInteger = None,
    target_bpp: OptionalNumber = None,
    target_psnr: OptionalNumber = None,
    target_lpips: OptionalNumber = None,
    model: Model = DEFAULT_MODEL,
    seed: OptionalInteger = None,
    strip: Flag = False,
    lossless_if_smaller: Flag = False,
    latent_only: Flag = False,
    jobs: OptionalInteger = None,
    overwrite: Flag = False,
    update: Flag = False,
    max_pixels: Integer = MAX_PIXELS,
    json: Flag = False,
) -> None:
    """Encode images as .sfu files.

    Args:
        source: Image (PNG, JPEG, WebP, AVIF, TIFF, ...), several of them, a folder, or - for standard input.
        out: File or folder to write, or - for standard output. Several images and folders go into a folder.
            Without it, beside the image, with the suffix .sfu.
        quality: From 0 (about 0.05 bits per pixel) to 1 (about 1.0).
        target_bytes: Make the best file of at most this many bytes.
        target_bpp: Make the best file of at most this many bits per pixel.
        target_psnr: Make the smallest file of at least this PSNR in dB.
        target_lpips: Make the smallest file of at most this LPIPS (needs its weights, see docs/everyday.md).
        model: Weights, by name or by path.
        seed: Seed of the decoder's noise; without it, one that follows from the file.
        strip: Leave out EXIF, XMP, resolution, text and colour profile; colours become sRGB.
        lossless_if_smaller: Store the pixels losslessly, as WebP or PNG in the file, where that is smaller.
        latent_only: Keep to the networks where a rendered image in fewer colours would be closer.
        jobs: Processes for several files; without it one per processor.
        overwrite: Replace files that exist; without it every whole file is kept.
        update: Of several files, replace .sfu files that are older than their image.
        max_pixels: Refuse larger images, sides rounded up to multiples of 64, before they are decoded.
        json: Print one JSON object per file.
    """
    settings = EncodeJob(
        quality, target_bytes, target_bpp, target_psnr, target_lpips, model, seed, strip, overwrite,
        max_pixels, lossless_if_smaller, not latent_only,
    )  # fmt: skip
    _do(settings, source, out, jobs, overwrite, json, update)


def decode(
    source: Files,
    out: Out = None,
    steps: OptionalInteger = None,
    realism: Number = 1.0,
    eta: Number = 0.0,
    partial: Flag = False,
    chunks: OptionalInteger = None,
    crop: Annotated[tuple[int, int, int, int] | None, option("X Y WIDTH HEIGHT")] = None,
    model: OptionalModel = None,
    strip: Flag = False,
    jobs: OptionalInteger = None,
    overwrite: Flag = False,
    max_pixels: Integer = MAX_PIXELS,
    json: Flag = False,
) -> None:
    """Decode .sfu files to images.

    Args:
        source: The .sfu file, several of them, a folder, or - for standard input.
        out: Image or folder to write, or - for a PNG on standard output; the suffix names the format. Several
            files and folders go into a folder. Without it, beside the file, with the suffix .png.
        steps: 1, the default except for previews, refines the base reconstruction; 0 leaves it as it is;
            more take as many steps of the paper's diffusion, which gain nothing with the weights of today.
        realism: With steps, from 0 (the base reconstruction) to 1 (all that they change).
        eta: With several steps, fresh noise at each of them, from 0 (none) to 1.
        partial: Accept a file that is cut short, and decode what is there.
        chunks: Decode only this many of the file's chunks: a preview, sooner.
        crop: Decode only this rectangle, in pixels.
        model: Path to the weights that wrote the file, if they are not in the package.
        strip: Leave out EXIF, XMP, resolution, text and colour profile; colours become sRGB.
        jobs: Processes for several files; without it one per processor.
        overwrite: Replace files that exist; without it every whole file is kept.
        max_pixels: Refuse to decode more, sides rounded up to multiples of 64; of a crop, what it needs.
        json: Print one JSON object per file.
    """
    settings = DecodeJob(steps, realism, eta, partial, chunks, crop, model, overwrite, strip, max_pixels)
    _do(settings, source, out, jobs, overwrite, json)


def compare(
    source: Annotated[Path, tyro.conf.Positional, option("IMAGE")],
    out: Out = None,
    baselines: Annotated[str, option("NAMES")] = "avif,webp,jpeg",
    quality: Annotated[float, option("Q", "-q")] = 0.4,
    model: Model = DEFAULT_MODEL,
    overwrite: Flag = False,
) -> None:
    """Show an image at equal size by several codecs, on an HTML page.

    Args:
        source: The image.
        out: Page or folder to write; without it, beside the image, with the suffix .html.
        baselines: Codecs beside sfumato, separated by commas: avif, webp, jpeg.
        quality: Quality of sfumato, from 0 to 1; the others get the bytes of its file.
        model: Weights, by name or by path.
        overwrite: Replace a page that exists.
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


def info(file: Files = (), model: OptionalModel = None, json: Flag = False) -> None:
    """Show what .sfu files hold, or what a model costs.

    Args:
        file: The .sfu files.
        model: Weights, by name or by path.
        json: Print one JSON object per file.
    """
    if bool(file) == (model is not None):
        raise UsageError("give files or --model, one of the two")
    failed = False
    for path in file:
        try:
            file_info.print_file(path, json)
        except (ValueError, OSError) as error:
            failed = True
            folder_command.print_failure(batch.Failure(str(path), error_message(error) or ""), json)
    if model is not None:
        file_info.print_model(model, json)
    if failed:
        sys.exit(1)


def _do(
    job: Job,
    sources: tuple[Path, ...],
    out: str | None,
    jobs: int | None,
    overwrite: bool,
    as_json: bool,
    update: bool = False,
) -> None:
    if not sources:
        raise UsageError("name a file, several of them, a folder, or - for standard input")
    if len(sources) > 1:
        planned = batch.plan_files(job, sources, _folder(out))
        folder_command.run(job, planned, f"{len(sources)} files", jobs, overwrite, as_json, update)
        return
    (source,) = sources
    if source.is_dir():
        if out is None:
            raise UsageError(f"{source} is a folder; name one for what is written with -o")
        if Path(out) == STREAM:
            raise UsageError(
                f"{source} is a folder: that does not go to standard output; name a folder with -o"
            )
        planned = batch.plan(job, source, Path(out))
        folder_command.run(job, planned, str(source), jobs, overwrite, as_json, update)
        return
    target = _target(source, out, job.suffix, overwrite)
    _check_suffix(job, target)
    with _bar() as bar:
        report = job.run(source, target, bar)
    stream = sys.stdout if target.is_file() else sys.stderr  # beside the bytes, where those go to a pipe
    if as_json:
        _json(asdict(report), stream)
        return
    folder_command.print_warnings(report)
    size = f"{report.width}x{report.height}, {report.bytes} bytes, {report.bpp:.3f} bpp"
    print_line(f"{target}: {size}, quality {report.quality:.3f}, {report.seconds:.2f} s", stream)


def _folder(out: str | None) -> Path | None:
    """The folder for what several files become; None: beside each of them."""
    if out is None:
        return None
    if not out.endswith(("/", os.sep)) and not Path(out).is_dir():
        raise UsageError(f"{out} is no folder, and there are several inputs: make one of it with {out}/")
    return Path(out)


def _target(source: Path, out: str | None, suffix: str, overwrite: bool) -> Path:
    """Where to write: what was asked for, in a folder the source's name with another suffix.

    UsageError for what cannot be meant; OSError for a folder that is missing, and for what is there already,
    unless that may be replaced.
    """
    if source == STREAM or out == str(STREAM):
        if out is None:
            raise UsageError("from standard input: name a file with -o, or - for standard output")
        if out == str(STREAM):
            return STREAM
    target = source.with_suffix(suffix) if out is None else Path(out)
    if out is not None and (out.endswith(("/", os.sep)) or target.is_dir()):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is no folder", str(target))
        if source == STREAM:
            raise UsageError(f"{out} is a folder; name a file with -o for what comes from standard input")
        if not target.exists() and not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
        target = target / source.with_suffix(suffix).name
    elif not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(target.parent))
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file with -o")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input; name another file with -o")
    if os.path.lexists(target) and not overwrite and (target.is_file() or not target.exists()):
        way = "exists; name another with -o, or replace it with --overwrite"
        raise FileExistsError(errno.EEXIST, way, str(target))
    return target


def _check_suffix(job: Job, target: Path) -> None:
    """UsageError where an encoder would write its bytes under the name of another format, and for a suffix
    that no decoder can write."""
    suffix = target.suffix.lower()
    if isinstance(job, EncodeJob) and suffix in batch.IMAGE_SUFFIXES | {".html", ".htm", ".jxl"}:
        raise UsageError(f"{target}: encode writes {SUFFIX} files, not {suffix}; name it with {SUFFIX}")
    if isinstance(job, DecodeJob):
        try:
            writing.format_of(target)
        except ValueError as error:
            raise UsageError(str(error)) from error


def _arguments(given: list[str]) -> list[str]:
    """Those of the parser: it writes the completion of a shell under a longer name."""
    if given[:1] != ["--completion"]:
        return given
    if len(given) != 2 or given[1] not in SHELLS:
        raise UsageError(f"--completion takes the name of a shell: {', '.join(SHELLS)}")
    return ["--tyro-print-completion", given[1]]


def _parse(commands: dict[str, Callable[..., None]], arguments: list[str]) -> None:
    """Runs the command that the arguments name; SystemExit with code 2 if they are not understood."""
    markers = (tyro.conf.FlagCreatePairsOff,)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="sfumato", description=ABOUT, args=arguments, config=markers
        )
    except SystemExit as end:
        dashed = [
            word for word in arguments if word.startswith("-") and len(word) > 1 and Path(word).exists()
        ]
        if end.code == 2 and dashed:
            warn(f"sfumato: a name that begins with a dash is taken for an option: write ./{dashed[0]}")
        raise


def main() -> None:
    """Entry point; the exit codes are those above."""
    terminal.prepare()
    warnings.simplefilter(
        "ignore"
    )  # Pillow's on odd files: what matters becomes a warning of ours, or an error
    if sys.argv[1:] in (["--version"], ["-V"]):
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
        for command in commands.values():  # a break in the source is none in the help
            command.__doc__ = re.sub(r"\n {12,}", " ", command.__doc__ or "")
        _parse(commands, _arguments(sys.argv[1:]))
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
            to_stream = "--out=-" in sys.argv or any(
                option in ("-o", "--out") and out == str(STREAM) for option, out in pairwise(sys.argv)
            )
            _json({"error": message}, sys.stderr if to_stream else sys.stdout)
        else:
            warn(f"sfumato: {message}")
        sys.exit(2 if isinstance(error, UsageError) else 1)


if __name__ == "__main__":
    main()
