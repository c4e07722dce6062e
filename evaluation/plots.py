"""Plots of rate, distortion and perception as SVG; the same curves give the same bytes.

Text stays text and takes the colour of the page around it, light or dark; colours differ with any colour
vision, and every curve carries its name.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from evaluation.curves import RATES, Curve, Values, at_rate
from evaluation.metrics import METRICS
from evaluation.summary import direction, is_ours

PLANE = ("psnr_db", "lpips_alex")  # distortion and perception of the plot without a rate axis

# Of middling lightness, so that they stand out on white and on black.  A codec without a colour of its own
# takes one of OTHERS by its name.
COLOURS = {
    "sfumato": "#d55e00",
    "avif": "#0072b2",
    "webp": "#12976f",
    "jpeg": "#7a7a7a",
    "jxl": "#b0559a",
    "jpeg2000": "#94760b",
    "heic": "#2d98c4",
}
OTHERS = ("#c23b5a", "#5a63c8", "#5f8a1f", "#9a6a4f")
MARKERS = "osD^vP"
DASHES = ((5, 2), (1.5, 1.5), (6, 2, 1, 2))  # of published curves, with the colours of OTHERS
INK = "#1b1d21"  # is replaced by the colour of the page

WIDTH, HEIGHT = 6.4, 4.4  # inches of 72 points
HIGHEST_RATE = 1.0  # bits per pixel, where plots end: beyond it all codecs are good and their curves meet
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10)
LONGEST_NAME = 16  # letters of a codec's name at full size
LABEL_GAP = 0.05  # of the height, between names at the margin

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sfumato",  # ids follow from the content
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("labelcolor", "edgecolor")},
}


class _End(NamedTuple):
    """Where a curve ends, its name and its style."""

    x: float
    y: float
    name: str
    style: dict[str, Any]


def plot(curves: Sequence[Curve], metric: str, published: Sequence[Curve] = ()) -> str:
    """SVG of one metric over the rate (logarithmic); published curves are dashed.

    Raises ValueError when no curve has the metric.
    """
    shown = [curve for curve in (*curves, *published) if _drawable(curve, metric)]
    if not shown:
        raise ValueError(f"no codec has values of {metric}")
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        ends = []
        for curve in shown:
            x, y = visible_points(curve, metric)
            style = line_style(curve, curves, published)
            axes.plot(x, y, **style, markevery=np.flatnonzero(np.isin(x, curve.rate(metric))))
            ends.append(_End(x[-1], y[-1], curve.codec, style))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("bits per pixel, files on disk")
        axes.set_title(direction(metric), loc="left", fontsize=11)
        _write_names(axes, ends)
        return _svg(figure)


def plane(curves: Sequence[Curve]) -> str:
    """SVG of perception over distortion: a point a rate of RATES that the codec reaches, joined by a line.

    Raises ValueError when no codec has both at two of the rates.
    """
    distortion, perception = PLANE
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes()
        ends = []
        for curve in curves:
            points = [(at_rate(curve, distortion, r), at_rate(curve, perception, r), r) for r in RATES]
            points = [point for point in points if all(map(math.isfinite, point))]
            if len(points) < 2:
                continue
            style = line_style(curve, curves)
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], **style | {"marker": ""})
            for x, y, rate in points:
                axes.plot(x, y, **style | {"markersize": 4 + 2 * RATES.index(rate)})
                if curve is curves[0]:
                    where: dict[str, Any] = {"xytext": (-5, -9), "textcoords": "offset points", "ha": "right"}
                    axes.annotate(f"{rate:g}", (x, y), fontsize=8, **where)
            ends.append(_End(*points[-1][:2], curve.codec, style))
        if not ends:
            raise ValueError(f"no codec has values of {distortion} and {perception} at two of {RATES} bpp")
        axes.set_xlabel(direction(distortion))
        axes.set_title(f"{direction(perception)}; larger marks: more bits per pixel", loc="left", fontsize=11)
        _write_names(axes, ends)
        return _svg(figure)


def plots(curves: Sequence[Curve], published: Sequence[Curve] = ()) -> dict[str, str]:
    """Name -> SVG of every plot that the curves have values for: those of the metrics, and the plane."""
    shown = [metric for metric in METRICS if any(_drawable(curve, metric) for curve in curves)]
    made = {metric: plot(curves, metric, published) for metric in shown}
    try:
        return made | {"plane": plane(curves)}
    except ValueError:
        return made


def _drawable(curve: Curve, metric: str) -> bool:
    return metric in curve.values and bool(np.isfinite(curve.values[metric]).any())


def visible_points(curve: Curve, metric: str) -> tuple[Values, Values]:
    """Rates and values up to `HIGHEST_RATE`, where the curve is cut; all of it if it lies beyond."""
    finite = np.isfinite(curve.values[metric])
    x, y = curve.rate(metric)[finite], curve.values[metric][finite]
    inside = x <= HIGHEST_RATE
    if inside.all() or not inside.any():
        return x, y
    cut = np.interp(math.log(HIGHEST_RATE), np.log(x), y)
    return np.append(x[inside], HIGHEST_RATE), np.append(y[inside], cut)


def colour(codec: str) -> str:
    """The codec's colour in all plots, by its name without options."""
    family = codec.partition(":")[0]
    return COLOURS.get(family) or OTHERS[zlib.crc32(family.encode()) % len(OTHERS)]


def line_style(curve: Curve, curves: Sequence[Curve], published: Sequence[Curve] = ()) -> dict[str, Any]:
    """How a curve is drawn; codecs that differ in options alone differ in their markers."""
    index = next((i for i, other in enumerate(published) if other is curve), None)
    if index is not None:
        dashes, number = divmod(index, len(OTHERS))
        line: dict[str, Any] = {"color": OTHERS[number], "linestyle": (0, DASHES[dashes % len(DASHES)])}
        return line | {"linewidth": 1.2, "zorder": 2}
    family = curve.codec.partition(":")[0]
    kin = [other.codec for other in curves if other.codec.partition(":")[0] == family]
    marker = MARKERS[kin.index(curve.codec) % len(MARKERS)]
    width = 2.4 if is_ours(curve.codec) else 1.6
    line = {"color": colour(curve.codec), "linestyle": "-", "linewidth": width}
    return line | {"marker": marker, "markersize": 4, "zorder": 3}


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0.11, 0.12, 0.64, 0.79))
    axes.set_axisbelow(True)
    return figure, axes


def _write_names(axes: Axes, ends: list[_End]) -> None:
    """The curves' names in the right margin, at the height of their ends but apart from each other."""
    axes.margins(x=0.02)
    axes.autoscale_view()  # settles the limits, which the transformation below is made of
    to_axes = axes.transData + axes.transAxes.inverted()
    for i, end in enumerate(ends):
        x, y = to_axes.transform((end.x, end.y))
        ends[i] = end._replace(x=float(x), y=float(y))
    ends.sort(key=lambda end: end.y)
    heights = spread([end.y for end in ends], LABEL_GAP)
    margin: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False}
    for (x, y, name, style), height in zip(ends, heights, strict=True):
        drawn = {"color": style["color"], "linestyle": style["linestyle"]}
        axes.plot([x, 1.03], [y, height], color=style["color"], linewidth=0.5, **margin)
        axes.plot([1.03, 1.085], [height, height], **drawn, linewidth=2, solid_capstyle="butt", **margin)
        weight = "bold" if is_ours(name) else "normal"
        size = 9.5 * min(1.0, LONGEST_NAME / len(name))
        axes.text(1.1, height, name, va="center", fontsize=size, fontweight=weight, **margin)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights in [0, 1], moved as little as keeps each `gap` above the one before; sorted input.

    Neighbours that are too close form a block around their mean, as in isotonic regression (pool adjacent
    violators).
    """
    blocks: list[list[float]] = []  # heights less their rank's gap
    for rank, height in enumerate(heights):
        blocks.append([height - gap * rank])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    top = 1 - gap * (len(flat) - 1)
    return [min(max(base, 0.0), max(top, 0.0)) + gap * rank for rank, base in enumerate(flat)]


def _svg(figure: Figure) -> str:
    """The figure as text, the same every time: ids are salted, and neither date nor version stands in it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    style = f"svg{{color:{INK}}}@media(prefers-color-scheme:dark){{svg{{color:#e7e9ec}}}}"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}<style>{style}</style>{tag}{rest.replace(INK, 'currentColor')}"
