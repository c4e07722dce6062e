"""The report of a run, one self-contained page: plots, tables, and the images themselves in a viewer.

    records, datasets -> curves -> plots, tables   \\
    coded files -> comparisons -> viewer           /  report.html -> FOLDER/index.html

The same records and files give the same page, byte for byte.
"""

from __future__ import annotations

import base64
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import sfumato
from evaluation import comparisons, plots, published, summary, tables
from evaluation.codecs import Codec
from evaluation.curves import DRAWS, Curve, complete, mean_curves
from evaluation.metrics import METRICS, image_metrics
from evaluation.records import DatasetRecord, Record
from sfumato.files import write_bytes
from sfumato.viewer import page

SHOWN = 12  # images in the viewer
PACKAGES = (
    *("numpy", "onnxruntime", "torch", "pillow", "pytorch-msssim", "rapidocr-onnxruntime"),
    *("bjontegaard", "matplotlib"),
)


def write(
    folder: Path,
    records: Sequence[Record],
    datasets: Sequence[DatasetRecord],
    originals: Mapping[str, Path],
    codecs: Mapping[str, Codec],
    warnings: Iterable[str],
    most_shown: int = SHOWN,
    draws: int = DRAWS,
) -> Path:
    """Writes `folder`/index.html and returns its path; the coded files lie in `folder`/files.

    `originals` are the images by name and `codecs` the codecs by name, in the order of the report: the first
    sfumato among them is the one that it is about.  At most `most_shown` images go into the viewer.
    Raises ValueError without records, for records of several data sets, and of a codec that `codecs` lacks.
    """
    names = sorted({one.dataset for one in records})
    if len(names) != 1:
        raise ValueError(f"a report is about one data set, got records of {', '.join(names) or 'none'}")
    if unknown := sorted({one.codec for one in records} - set(codecs)):
        raise ValueError(
            f"there are records of {unknown[0]}, which is none of the codecs {', '.join(codecs)}"
        )
    order = sorted(codecs, key=lambda name: not summary.is_ours(name))
    records = sorted(records, key=lambda one: order.index(one.codec))
    kept, left_out = complete(records)
    curves = mean_curves(kept, datasets)
    if not curves:
        raise ValueError("there is no image that every codec has at every setting")
    others, others_left_out = published_beside(names[0], {one.image for one in kept})
    extremes = summary.best_and_worst(curves)
    wanted = interesting(extremes.images if extremes else [], sorted(originals), most_shown)
    ordered = {name: codecs[name] for name in order}
    shown, not_shown = comparisons.comparisons(folder, records, originals, ordered, wanted)
    deltas, sentences = summary.delta_tables(curves, others, draws)
    header, footer = _render(
        dataset=names[0],
        images=len({one.image for one in records}),
        files=len(records),
        summary=sentences,
        warnings=[*warnings, *left_out, *others_left_out, *not_shown],
        plots=_plots(curves, others),
        shown=len(shown),
        reference=curves[0].codec,
        targets=" and ".join(f"{target:g}" for target in comparisons.TARGETS),
        deltas=deltas,
        draws=draws,
        equal=summary.equal_rate_table(curves, others),
        extremes=extremes,
        complexity=summary.complexity_table(records, curves),
        jobs_note=_jobs(records),
        breakdowns=summary.bitrate_breakdowns(kept, curves),
        datasets=summary.dataset_table(datasets),
        crops=", ".join(sorted({f"{one.crops} crops of {one.crop_px} pixels" for one in datasets})),
        coverage=_coverage(curves),
        codecs=_codec_table(curves, codecs),
        versions=_versions(),
        sources=others,
        means=summary.mean_table(curves),
    )
    title = f"{names[0]}: {len(curves)} codecs compared"
    path = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page(title, sorted(shown, key=lambda one: one.name), header, footer).encode())
    return path


def published_beside(dataset: str, images: set[str]) -> tuple[list[Curve], list[str]]:
    """Published curves, if these are the images that they are means of; else none, and a line."""
    found = [curve for curve in published.published_curves(dataset) if curve.codec != published.JPEG]
    if found and images != published.IMAGES.get(dataset.lower()):
        return [], [f"published curves are left out: they are means over other images of {dataset}"]
    return found, []


def interesting(first: Sequence[str], images: Sequence[str], count: int) -> list[str]:
    """As many images as `count`: those of `first`, then others spread over the set by name."""
    first = [name for name in first if name in images][:count]
    rest = [name for name in images if name not in first]
    need = min(count - len(first), len(rest))
    return first + [rest[i * len(rest) // need] for i in range(need)]


def _render(**values: Any) -> tuple[str, str]:
    """The parts around the viewer; whatever stands in `values` is escaped."""
    options: dict[str, Any] = {
        "undefined": jinja2.StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    environment = jinja2.Environment(autoescape=True, **options)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    context = template.new_context(values | {"to_html": lambda table: Markup(tables.to_html(table))})
    header, footer = ("".join(template.blocks[name](context)) for name in ("header", "footer"))
    return header, footer


def _plots(curves: Sequence[Curve], others: Sequence[Curve]) -> list[dict[str, str]]:
    made = []
    for name, svg in plots.plots(curves, others).items():
        rate = f"{METRICS[name].title} over bits per pixel" if name in METRICS else ""
        what = rate or "LPIPS over PSNR at equal rates"
        uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        made.append({"uri": uri, "alt": f"Plot: {what}, a curve a codec; the tables below hold its values"})
    return made


def _jobs(records: Sequence[Record]) -> str:
    counts = sorted({one.jobs for one in records})
    if counts == [1]:
        return "Measured one image at a time, one thread each."
    return f"Measured with {' or '.join(map(str, counts))} images at a time, one thread each."


def _coverage(curves: Sequence[Curve]) -> str:
    """A sentence on the metrics that some images do not have."""
    counts = {
        metric: len(curve.samples[metric].images)
        for curve in curves
        for metric in image_metrics()
        if metric in curve.samples and metric in curve.rates
    }
    parts = [
        f"{METRICS[m].title} is the mean over {n} image{'s' if n != 1 else ''}" for m, n in counts.items()
    ]
    return f"{'; '.join(parts)}, those that have a value for every codec." if parts else ""


def _codec_table(curves: Sequence[Curve], codecs: Mapping[str, Codec]) -> tables.Table:
    rows = []
    for curve in curves:
        settings = ", ".join(sorted(curve.settings, key=float))
        rows.append([curve.codec, codecs[curve.codec].description or "–", settings])
    return tables.Table("Codecs", ["codec", "description", "settings"], rows, prose=True)


def _versions() -> str:
    """Of the libraries that metrics and plots come from, as far as they are installed."""
    found = [f"sfumato {sfumato.__version__}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
