"""Rows of a run in, one page that anyone can open out: plots, tables, and the pictures themselves to look at.

    rows, sets -> curves -> plots, tables  \\
    coded files -> scenes -> viewer        /  report.html -> FOLDER/index.html

The same rows and files give the same page, byte for byte.
"""

from __future__ import annotations

import base64
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

import sfumato
from evaluation import anchors, findings, plots, scenes
from evaluation.codecs import Codec
from evaluation.curves import (
    DRAWS,
    METRICS,
    PICTURE_METRICS,
    RATES,
    Curve,
    complete,
    mean_curves,
    published,
)
from evaluation.rows import Row, SetRow
from sfumato.image import write_bytes
from sfumato.viewer import page

SCENES = 12  # pictures in the viewer
PACKAGES = (
    "numpy",
    "onnxruntime",
    "torch",
    "pillow",
    "pytorch-msssim",
    "rapidocr-onnxruntime",
    "bjontegaard",
    "matplotlib",
)
PUBLISHED_SETS = {"kodak": {f"kodim{i:02d}" for i in range(1, 25)}}  # whose published means can be shown


def write(
    folder: Path,
    rows: Sequence[Row],
    sets: Sequence[SetRow],
    originals: Mapping[str, Path],
    codecs: Mapping[str, Codec],
    problems: Iterable[str],
    most_scenes: int = SCENES,
    draws: int = DRAWS,
) -> Path:
    """Writes `folder`/index.html and returns its path; the coded files lie in `folder`/files.

    `originals` are the pictures by name and `codecs` the codecs by name, in the order of the report: the
    first sfumato among them is the one that it is about.  `problems` are lines to show.  At most
    `most_scenes` pictures go into the viewer.
    Raises ValueError without rows, for rows of several data sets, and of a codec that `codecs` lacks.
    """
    datasets = sorted({row.dataset for row in rows})
    if len(datasets) != 1:
        raise ValueError(f"a report is about one data set, got rows of {', '.join(datasets) or 'none'}")
    if unknown := sorted({row.codec for row in rows} - set(codecs)):
        raise ValueError(f"there are rows of {unknown[0]}, which is none of the codecs {', '.join(codecs)}")
    order = sorted(codecs, key=lambda name: not findings.is_ours(name))
    ordered = {name: codecs[name] for name in order}
    rows = sorted(rows, key=lambda row: order.index(row.codec))
    kept, left_out = complete(rows)
    curves = mean_curves(kept, sets)
    if not curves:
        raise ValueError("there is no picture that every codec has at every setting")
    others, left_out_anchors = _published(datasets[0], {row.picture for row in kept})
    extremes = findings.extremes(curves)
    wanted = _interesting(extremes, sorted(originals), most_scenes)
    shown, not_shown = scenes.scenes(folder, rows, originals, ordered, wanted)
    shown.sort(key=lambda scene: scene.name)
    deltas, summary = findings.deltas(curves, others, draws)
    values: dict[str, Any] = {
        "dataset": datasets[0],
        "pictures": len({row.picture for row in rows}),
        "files": len(rows),
        "summary": summary,
        "problems": [*problems, *left_out, *left_out_anchors, *not_shown],
        "plots": _plots(curves, others),
        "shown": len(shown),
        "reference": curves[0].codec,
        "targets": " and ".join(f"{target:g}" for target in scenes.TARGETS),
        "deltas": deltas,
        "draws": draws,
        "rates": [f"{rate:g}" for rate in RATES],
        "equal": findings.equal_rate(curves, others),
        "extremes": extremes,
        "costs": findings.costs(rows, curves),
        "costs_note": _jobs(rows),
        "shares": findings.shares(kept, curves),
        "sets": findings.of_sets(sets),
        "crops": ", ".join(sorted({f"{row.crops} crops of {row.crop_px} pixels" for row in sets})),
        "coverage": _coverage(curves),
        "codecs": _codecs(curves, ordered),
        "versions": _versions(),
        "sources": [{"name": curve.codec, "source": curve.source} for curve in others],
        "metrics": [plots.TITLES[metric] for metric in findings.measured(curves)],
        "means": findings.means(curves),
    }
    above, below = _render(values)
    path = folder / "index.html"
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(path, page(f"{datasets[0]}: {len(curves)} codecs compared", shown, above, below).encode())
    return path


def _render(values: dict[str, Any]) -> tuple[str, str]:
    """The parts above and below the viewer; whatever stands in `values` is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    context = template.new_context(values)
    above, below = ("".join(template.blocks[name](context)) for name in ("above", "below"))
    return above, below


def _published(dataset: str, pictures: set[str]) -> tuple[list[Curve], list[str]]:
    """Published means, if these are the pictures that they are means of; else none, and a line."""
    found = [curve for curve in published(anchors.anchors(dataset)) if curve.codec != anchors.CHECKED]
    if found and pictures != PUBLISHED_SETS.get(dataset.lower()):
        return [], [f"published curves are left out: they are means over other pictures of {dataset}"]
    return found, []


def _plots(curves: Sequence[Curve], others: Sequence[Curve]) -> list[dict[str, str]]:
    made = []
    for name, svg in plots.plots(curves, others).items():
        rate = f"{plots.TITLES[name]} over bits per pixel" if name in METRICS else ""
        what = rate or "LPIPS over PSNR at equal rates"
        uri = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
        made.append({"uri": uri, "alt": f"Plot: {what}, a curve a codec; the tables below hold its values"})
    return made


def _interesting(extremes: findings.Extremes | None, pictures: Sequence[str], count: int) -> list[str]:
    """The best and worst pictures first, then others spread over the set by name."""
    first = [name for name in (extremes.pictures if extremes else []) if name in pictures][:count]
    rest = [name for name in pictures if name not in first]
    need = min(count - len(first), len(rest))
    return first + [rest[i * len(rest) // need] for i in range(need)]


def _jobs(rows: Sequence[Row]) -> str:
    counts = sorted({int(getattr(row, "jobs", 1)) for row in rows})
    if not counts or counts == [1]:
        return "Measured one picture at a time, one thread each."
    return f"Measured with {' or '.join(map(str, counts))} pictures at a time, one thread each."


def _coverage(curves: Sequence[Curve]) -> str:
    """A sentence for each metric that some pictures do not have."""
    counts = {
        metric: (len(curve.samples[metric].pictures), metric)
        for curve in curves
        for metric in PICTURE_METRICS
        if metric in curve.samples and metric in curve.rates
    }
    said = [
        f"{plots.TITLES[m]} is the mean over {n} picture{'s' if n != 1 else ''}" for n, m in counts.values()
    ]
    return f"{'; '.join(said)}, those that have a value for every codec." if said else ""


def _codecs(curves: Sequence[Curve], codecs: Mapping[str, Codec]) -> list[dict[str, str]]:
    return [
        {
            "name": curve.codec,
            "description": getattr(codecs[curve.codec], "description", ""),
            "settings": ", ".join(sorted(curve.settings, key=float)),
        }
        for curve in curves
    ]


def _versions() -> str:
    """Of the libraries that metrics and figures come from, as far as they are installed."""
    found = [f"sfumato {sfumato.__version__}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)
