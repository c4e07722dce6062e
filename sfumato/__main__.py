"""The command: `sfumato encode`, `decode`, `compare`, `info`.  Arguments in, files and text out.

Exit codes: 0 all was done; 1 something could not be done, told in one line a file; 2 an argument that is not
understood; 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TextIO

import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sfumato import DEFAULT_MODEL, __version__, batch, container, image
from sfumato.job import STREAM, Decoding, Encoding, Job, Report, UsageError, described, explain, read

SHELLS = ("bash", "zsh", "fish")
ABOUT = f"""Pictures to small files and back.

sfumato --completion SHELL prints the completion for {", ".join(SHELLS)}; sfumato --version the versions.
Exit codes: 0 done, 1 something could not be done, 2 arguments not understood, 130 Ctrl-C."""


def encode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
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
    json: bool = False,
) -> None:
    """Make a picture a small file, or a folder of pictures a folder of small files.

    Args:
        source: the picture: PNG, JPEG, WebP, AVIF, TIFF, ...; or a folder; or - for standard input.
        out: the file or folder to write, or - for standard output; without it the picture's name with .sfu,
            unless that is taken.
        quality: 0 (about 0.04 bits per pixel) .. 1 (about 1.1); 0.5 if no target is given either.
        target_bytes: the best file of at most so many bytes.
        target_bpp: the best file of at most so many bits per pixel.
        target_psnr: the smallest file of at least so many decibels.
        target_lpips: the smallest file of at most this LPIPS; its weights: docs/everyday.md.
        model: weights by name, or a path to a file of weights.
        seed: of the noise that decoding with steps uses; without it, one that follows from the file.
        strip: leave out EXIF, XMP and the colour profile (the colours become sRGB).
        jobs: processes that work on a folder; without it as many as there are processors.
        overwrite: write what is there already as well: in a folder, files newer than their input are skipped
            otherwise.
        json: print one JSON object a file.
    """
    settings = Encoding(quality, target_bytes, target_bpp, target_psnr, target_lpips, model, seed, strip)
    _do(settings, source, out, jobs, overwrite, json)


def decode(
    source: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    steps: int | None = None,
    realism: float = 1.0,
    eta: float = 0.0,
    partial: bool = False,
    chunks: int | None = None,
    crop: tuple[int, int, int, int] | None = None,
    model: str | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Make a file a picture again, or a folder of files a folder of PNG pictures.

    Args:
        source: the .sfu file; or a folder; or - for standard input.
        out: the picture to write, in the format of its suffix, or the folder, or - for a PNG on standard
            output; without it the name with .png, unless taken.
        steps: of the diffusion that restores texture; 0 gives the certain picture. Without it 1, or 0 for
            previews.
        realism: 0 (the most faithful picture) .. 1 (the most natural one), with steps.
        eta: fresh noise at each step, 0 (none) .. 1.
        partial: accept a file that is cut short and show what its beginning holds.
        chunks: 0 .. 5, decode only so many of the file's chunks: a preview, sooner.
        crop: X Y WIDTH HEIGHT in pixels: decode only this part.
        model: a path to the file of weights that wrote it, if those are not in the package.
        jobs: processes that work on a folder; without it as many as there are processors.
        overwrite: write what is there already as well: in a folder, pictures newer than their file are
            skipped otherwise.
        json: print one JSON object a file.
    """
    settings = Decoding(steps, realism, eta, partial, chunks, crop, model)
    _do(settings, source, out, jobs, overwrite, json)


def compare(
    source: Annotated[Path, tyro.conf.Positional],
    against: str = "avif,webp,jpeg",
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    quality: Annotated[float, tyro.conf.arg(aliases=["-q"])] = 0.4,
    model: str = DEFAULT_MODEL,
) -> None:
    """Make a page that shows a picture at the same size by several codecs.

    Args:
        source: the picture.
        against: codecs beside sfumato, separated by commas: avif, webp, jpeg.
        out: the page to write; without it the picture's name with .html, unless that is taken.
        quality: of sfumato, 0 .. 1; the others take the size that follows.
        model: weights by name, or a path to a file of weights.
    """
    from sfumato import compare as comparison

    names = comparison.rivals(against)
    target = _target(source, out, ".html", overwrite=False)
    with _bar() as bar:
        from sfumato.codec import load

        made = comparison.compare(source, names, load(model), quality, bar)
        image.write_bytes(target, made.page().encode())
    sizes = ", ".join(f"{v.label}: {v.size_bytes} bytes" for v in made.scene.versions)
    print(f"{target}: {sizes}", file=sys.stdout if target.is_file() else sys.stderr)


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
        _info_file(file, json)
    if model is not None:
        _info_model(model, json)


def _info_file(path: Path, as_json: bool) -> None:
    data = read(path)
    file = container.unpack(data, partial=True)
    header, pixels = file.header, file.header.width * file.header.height
    sizes = {name: len(s.payload) for name, s in zip(header.sections, file.sections, strict=False)}
    if as_json:
        told = {"input": str(path), **described(data), "version": container.VERSION}
        told |= {"seed": header.noise_seed, "complete": file.complete, "sections": sizes}
        _json(told | {"metadata": {tag: len(value) for tag, value in file.metadata.items()}})
        return
    whole = f"{len(file.sections)} of {len(header.sections)}"
    state = "" if file.complete else f", cut short after {whole} sections"
    print(f"{path}: {header.width}x{header.height}, version {container.VERSION}{state}")
    print(f"{'grey' if header.grey else 'colour'}, {'opaque' if file.alpha is None else 'with alpha'}")
    print(f"quality {header.q / 255:.3f}, model {header.model:08x}, noise seed {header.noise_seed}")
    table = Table("part", "bytes", "bits per pixel", "share")
    sizes["header, lengths, checks"] = container.fixed_bytes(data)
    sizes |= {"alpha": len(file.alpha)} if file.alpha else {}
    sizes |= {f"metadata {tag!r}": len(value) for tag, value in file.metadata.items()}
    if rest := len(data) - sum(sizes.values()):
        sizes["lengths and checks of alpha, metadata" if file.complete else "unfinished section"] = rest
    for name, size in [*sizes.items(), ("file", len(data))]:
        table.add_row(escape(name), str(size), f"{8 * size / pixels:.4f}", f"{size / len(data):.1%}")
    _print(table)


def _info_model(name: str, as_json: bool) -> None:
    from sfumato.weights import read_weights

    weights = read_weights(name)
    parts = weights.costs
    if as_json:
        _json({"model": weights.preset, "id": f"{weights.model_id:08x}", "parts": parts})
        return
    table = Table("part", "parameters", "kMAC/pixel")
    for c in parts:
        table.add_row(c["part"], f"{c['parameters']:,}", f"{c['kmac_per_pixel']:.2f}")
    k = {c["part"]: c["kmac_per_pixel"] for c in parts}
    table.add_row("all", f"{sum(c['parameters'] for c in parts):,}", "")
    table.add_row("encode", "", f"{k['g_a'] + k['h_a'] + k['prior']:.2f}")
    table.add_row("decode, steps 0", "", f"{k['prior'] + k['g_s']:.2f}")
    table.add_row("decode, steps 1", "", f"{k['prior'] + k['g_s'] + k['denoiser']:.2f}")
    _print(table)
    denoiser = weights.denoiser_id or "not trained, steps 0 only"
    print(f"weights {weights.model_id:08x}, denoiser {denoiser}")
    table = Table("chunk", "channels", "A", "sigma", title="Laplacian position bias")
    biases = zip(weights.config.chunks, weights.position_bias, strict=True)
    for j, (channels, (amplitude, sigma)) in enumerate(biases, start=1):
        table.add_row(str(j), str(channels), f"{amplitude:.3f}", f"{sigma:.3f}")
    _print(table)


def _print(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)


def _do(job: Job, source: Path, out: Path | None, jobs: int | None, overwrite: bool, as_json: bool) -> None:
    if source.is_dir():
        _do_folder(job, source, out, jobs, overwrite, as_json)
        return
    target = _target(source, out, job.suffix, overwrite)
    with _bar() as bar:
        report = job.run(source, target, bar)
    _remark(report)
    stream = sys.stdout if target.is_file() else sys.stderr  # beside the bytes, where those go to a pipe
    if as_json:
        _json(asdict(report), stream)
        return
    size = f"{report.width}x{report.height}, {report.bytes} bytes, {report.bpp:.3f} bpp"
    print(f"{target}: {size}, quality {report.quality:.3f}, {report.seconds:.2f} s", file=stream)


def _do_folder(
    job: Job, source: Path, out: Path | None, jobs: int | None, overwrite: bool, as_json: bool
) -> None:
    if out is None:
        raise UsageError(f"{source} is a folder; name one for what is written with -o")
    begun = time.perf_counter()
    tasks = batch.plan(job, source, out)
    left = tasks if overwrite else batch.pending(tasks)
    if left:
        job.check()
    skipped = [task for task in tasks if task not in set(left)]
    for task in skipped if as_json else ():
        _json({"input": str(task.source), "output": str(task.target), "skipped": True})
    reports: list[Report] = []
    failures: list[batch.Failure] = []
    progress = _progress(MofNCompleteColumn(), TimeRemainingColumn())
    processes = batch.processors() if jobs is None else jobs
    with progress, contextlib.closing(batch.run(job, left, processes)) as outcomes:
        bar = progress.add_task(str(source), total=len(left))
        for outcome in outcomes:
            progress.advance(bar)
            if as_json:
                _json(asdict(outcome))
            if isinstance(outcome, Report):
                reports.append(outcome)
                _remark(outcome)
                continue
            failures.append(outcome)
            if not as_json:
                print(f"sfumato: {outcome.input}: {outcome.error}", file=sys.stderr)
    if not as_json:
        _print(_summary(job, reports, len(skipped), len(failures), time.perf_counter() - begun))
    if failures:
        sys.exit(1)


def _remark(report: Report) -> None:
    for sentence in report.remarks:
        print(f"{report.input}: {sentence}", file=sys.stderr)


def _summary(job: Job, reports: list[Report], skipped: int, failures: int, seconds: float) -> Table:
    files, pictures = sum(r.bytes for r in reports), sum(r.picture_bytes for r in reports)
    before, after = (pictures, files) if isinstance(job, Encoding) else (files, pictures)
    bpp = f"{sum(r.bpp for r in reports) / len(reports):.3f}" if reports else "-"
    table = Table("files", "skipped", "failed", "bytes before", "bytes after", "mean bpp", "seconds")
    table.columns[0].justify = "right"
    cells = [len(reports), skipped, failures, before, after]
    table.add_row(*map(str, cells), bpp, f"{seconds:.1f}")
    return table


def _json(value: object, stream: TextIO | None = None) -> None:
    print(json.dumps(value), file=stream or sys.stdout, flush=True)


def _target(source: Path, out: Path | None, suffix: str, overwrite: bool) -> Path:
    """Where to write: what was asked for, or the source's name with another suffix if that is free."""
    if STREAM in (source, out):
        if out is None:
            raise UsageError("from standard input: name a file with -o, or - for standard output")
        if out == STREAM:
            return out
    target = out if out is not None else source.with_suffix(suffix)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file with -o")
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent}: no such folder")
    if out is None and target.exists() and not overwrite:
        raise UsageError(f"{target} exists; name it with -o, or use --overwrite")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input; name another file with -o")
    return target


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, float], None]]:
    """The progress of one piece of work: to be called with what is being done, and the part that is done."""
    with _progress() as progress:
        task = progress.add_task("loading", total=1.0)
        yield lambda what, part: progress.update(task, description=what, completed=part)


def _progress(*more: ProgressColumn) -> Progress:
    """A progress bar on the terminal while the work lasts; nothing where standard error is no terminal."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), *more
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _arguments(given: list[str]) -> list[str]:
    """Those of the parser: it writes the completion of a shell under a longer name."""
    if given[:1] != ["--completion"]:
        return given
    if len(given) != 2 or given[1] not in SHELLS:
        raise UsageError(f"--completion takes the name of a shell: {', '.join(SHELLS)}")
    return ["--tyro-print-completion", given[1]]


def main() -> None:
    """Entry point; the exit codes are those above."""
    if sys.argv[1:] == ["--version"]:
        print(f"sfumato {__version__}, format {container.VERSION}")
        return
    try:
        commands: dict[str, Callable[..., None]] = {
            "encode": encode,
            "decode": decode,
            "compare": compare,
            "info": info,
        }
        arguments = _arguments(sys.argv[1:])
        tyro.extras.subcommand_cli_from_dict(commands, prog="sfumato", description=ABOUT, args=arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if "--json" in sys.argv:
            _json({"error": message})
            sys.exit(1)
        sys.exit(f"sfumato: {message}")


if __name__ == "__main__":
    main()
