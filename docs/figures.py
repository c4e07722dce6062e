"""python -m docs.figures: what was measured in; the table in docs/good-and-bad.md and docs/plots/ out."""

from __future__ import annotations

import math
import re
from pathlib import Path

from evaluation.curves import Curve, at_rate_by_picture, mean_curves
from evaluation.plots import plots
from evaluation.rows import SetRow, read_rows, read_table
from sfumato import __version__
from sfumato.image import write_bytes

PAGE = Path(__file__).with_name("good-and-bad.md")
RESULTS = Path(__file__).parents[1] / "results" / __version__
ROWS = RESULTS / "kodak.csv"
PLOTS = Path(__file__).with_name("plots")
PLOTTED = ("lpips_alex", "dists", "fd_efflite0", "psnr_db")
MARKS = ("<!-- python -m docs.figures -->\n", "<!-- end -->")
METRICS = {"lpips_alex": ("LPIPS", -1, 3), "ms_ssim": ("MS-SSIM", 1, 3), "psnr_db": ("PSNR, dB", 1, 2)}
RATES = (0.1, 0.3)  # bits per pixel
SHOWN = 3  # pictures at either end


def table(rows: Path = ROWS) -> str:
    """Markdown: how many pictures sfumato renders better than AVIF by each metric, and which of them."""
    curves = {curve.codec: curve for curve in mean_curves(read_rows(rows))}
    lines = ["| by | at bpp | better than AVIF | furthest ahead | furthest behind |", "|---|---|---|---|---|"]
    for metric, (title, sign, digits) in METRICS.items():
        for rate in RATES:
            gains = ahead(curves["sfumato"], curves["avif"], metric, rate, sign)
            told = [f"{name} {sign * gain:+.{digits}f}" for name, gain in gains.items()]
            count = f"{sum(gain > 0 for gain in gains.values())} of {len(gains)}"
            ends = ", ".join(told[:SHOWN]), ", ".join(reversed(told[-SHOWN:]))
            lines.append(f"| {title} | {rate} | {count} | {ends[0]} | {ends[1]} |")
    return "\n".join(lines) + "\n"


def ahead(ours: Curve, theirs: Curve, metric: str, bpp: float, sign: int) -> dict[str, float]:
    """Picture -> how much better ours is at this rate, best first, where both can make it so small."""
    mine, other = (at_rate_by_picture(curve, metric, bpp) for curve in (ours, theirs))
    gains = {name: sign * (mine[name] - other[name]) for name in mine if name in other}
    gains = {name: gain for name, gain in gains.items() if not math.isnan(gain)}
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def page() -> str:
    """The page with its table made anew; ValueError where the page has lost its marks."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.fullmatch(f"(.*{MARKS[0]})(.*)({MARKS[1]}.*)", text, re.S)
    if parts is None:
        raise ValueError(f"{PAGE.name}: needs the lines {MARKS[0].strip()} and {MARKS[1]}")
    return parts[1] + table() + parts[3]


def write_plots() -> list[Path]:
    """PLOTS/METRIC.svg of Kodak, for the README."""
    made = plots(mean_curves(read_rows(ROWS), read_table(RESULTS / "kodak-sets.csv", SetRow)))
    PLOTS.mkdir(exist_ok=True)
    for metric in PLOTTED:
        write_bytes(PLOTS / f"{metric}.svg", made[metric].encode())
    return [PLOTS / f"{metric}.svg" for metric in PLOTTED]


if __name__ == "__main__":
    write_bytes(PAGE, page().encode())
    print(f"{PAGE.name} and {', '.join(path.name for path in write_plots())}: written")
