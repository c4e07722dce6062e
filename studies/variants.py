"""Variants of the entropy model over seeds: a resumable table of their bits, paired differences, a figure.

Seeds are the outer loop, so that a study that is cut short has equally many of every variant.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evaluation.plots import OTHERS
from sfumato.files import write_csv
from studies.intervals import half_interval
from studies.latents import CPU, QUALITIES, Base, EntropyNetworks, Schedule, train
from studies.steps import save
from training.data import Images
from training.networks.model import Model
from training.run_weights import load_weights

LINEAR = 0.2  # % of the bits: up to here the figure's axis is linear, logarithmic beyond
TICKS = (-10, -3, -1, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 3, 10, 30, 100, 300)
RATE_FROM_NOTHING = 2e-3  # learning rate of what begins as random weights
HEAD = ["variant", "seed", "steps", "windows", *(f"bpp_at_q{q:g}" for q in QUALITIES), "cpu_s", "model"]

Table = dict[tuple[str, int], dict[str, str]]
"""(variant, seed) -> its row."""


@dataclass(frozen=True)
class Options:
    """What a study is run with."""

    data: list[Path]
    """Photographs to train on, as for `python -m training`."""
    test: Path
    """Folder of the images whose bits are counted."""
    latents: Path = Path("runs/latents")
    """Folder for the cached latents."""
    cache: Path | None = None
    """Folder of decoded images, as for `python -m training`."""
    model: str = "small"
    """Weights by name, or a path."""
    seeds: int = 5
    """Seeds 0, 1, .. of windows, qualities and noise, and of weights that start from nothing."""
    steps: int = 400
    """Steps of training, for each row."""
    windows: int = 8
    """Windows of 16x16 latents, in a step."""
    images: int = 600
    """So many photographs are used."""
    smallest: int = 192
    """Shorter side of the photographs that are read, as the cache has them."""
    minutes: float = 1e9
    """End before; the next run goes on."""
    only: tuple[str, ...] = ()
    """Names of variants; all if empty."""


@dataclass(frozen=True)
class StartOptions(Options):
    """Of studies whose variants can start in two ways."""

    from_nothing: bool = False
    """Contexts and parameter nets begin as random weights, not as the shipped ones."""


@dataclass(frozen=True)
class Difference:
    """Of a variant to the reference, in % of the bits; `half` of its 95 % interval over seeds."""

    q: float
    mean: float
    half: float  # NaN with one seed
    seeds: int

    def __str__(self) -> str:
        interval = f" +- {self.half:.2f}" if math.isfinite(self.half) else ""
        return f"{self.mean:+.2f}{interval}"


def read(path: Path) -> Table:
    """The rows of a table; none where there is no file yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(row["variant"], int(row["seed"])): row for row in csv.DictReader(file)}


def write(path: Path, table: Table) -> None:
    """All rows, in the order in which they were made; the file is whole at every moment."""
    write_csv(path, HEAD, ([row[name] for name in HEAD] for row in table.values()))


def study(
    output: Path,
    options: Options,
    names: Sequence[str],
    reference: str,
    start: Callable[[str, Model, int], EntropyNetworks],
    rate: float = Schedule.rate,
) -> None:
    """Train what is missing of the table at `output`, and write its summary and figure beside it.

    start  (variant, model, seed) -> the networks that are trained, at this learning rate
    """
    weights = load_weights(options.model)
    photos = Images.load(options.data, CPU, options.smallest, options.cache)
    held = Images.load([options.test], CPU, 64)
    base = Base.load(weights.model, photos, options.images, held, options.latents)
    schedule = Schedule(options.steps, options.windows, rate=rate)

    def measure(variant: str, seed: int) -> list[float]:
        return base.bpp(train(start(variant, weights.model, seed), base, schedule, seed))

    chosen = [name for name in names if not options.only or name in options.only]
    facts = {"steps": options.steps, "windows": options.windows, "model": f"{weights.model_id:08x}"}
    table = run(output, chosen, options.seeds, options.minutes, facts, measure)
    report(output, differences(table, names, reference), reference)


def run(
    path: Path,
    variants: Sequence[str],
    seeds: int,
    minutes: float,
    facts: Mapping[str, object],
    measure: Callable[[str, int], list[float]],
) -> Table:
    """Measure what is missing of the table, and write each row when it is there.

    facts    columns that all rows have; a table of other ones is refused
    minutes  no row is begun that would end later, judging by the longest so far
    measure  (variant, seed) -> bits a pixel at each of `QUALITIES`
    """
    table = read(path)
    for (name, number), row in table.items():
        if other := {k: row[k] for k, v in facts.items() if row[k] != str(v)}:
            raise SystemExit(f"{path}: {name}, seed {number}, has {other}, not {dict(facts)}")
    begun, longest = time.monotonic(), 0.0
    for seed in range(seeds):
        for variant in variants:
            if (variant, seed) in table:
                continue
            start = time.monotonic()
            if start - begun + longest > 60 * minutes:
                return table
            cpu = time.process_time()
            bpp = measure(variant, seed)
            longest = max(longest, time.monotonic() - start)
            figures = {f"bpp_at_q{q:g}": f"{v:.6f}" for q, v in zip(QUALITIES, bpp, strict=True)}
            seconds = f"{time.process_time() - cpu:.0f}"
            row = {"variant": variant, "seed": str(seed), **{k: str(v) for k, v in facts.items()}}
            table[variant, seed] = row | figures | {"cpu_s": seconds}
            write(path, table)
            print(f"seed {seed}: {variant} {', '.join(figures.values())} bpp, {seconds} s", flush=True)
    return table


def differences(table: Table, variants: Sequence[str], reference: str) -> dict[str, list[Difference]]:
    """Of each variant, over the seeds that it shares with the reference; without one, it is left out."""
    out: dict[str, list[Difference]] = {}
    for variant in variants:
        seeds = sorted(seed for name, seed in table if name == variant and (reference, seed) in table)
        if variant == reference or not seeds:
            continue
        out[variant] = []
        for q in QUALITIES:
            key = f"bpp_at_q{q:g}"
            pairs = [(float(table[variant, s][key]), float(table[reference, s][key])) for s in seeds]
            found = [100 * (ours / theirs - 1) for ours, theirs in pairs]
            out[variant].append(Difference(q, statistics.mean(found), half_interval(found), len(seeds)))
    return out


def report(path: Path, found: Mapping[str, Sequence[Difference]], reference: str) -> None:
    """Prints the differences, and writes them beside the table: as CSV and as a figure."""
    rows = []
    for variant, row in found.items():
        print(f"{variant:>20}: {', '.join(f'{d} % at q {d.q:g}' for d in row)} ({row[0].seeds} seeds)")
        for d in row:
            half = "" if math.isnan(d.half) else f"{d.half:.3f}"
            rows.append([variant, f"{d.q:g}", d.seeds, f"{d.mean:.3f}", half])
    heading = ["variant", "q", "seeds", "bits_percent", "interval_percent"]
    write_csv(path.with_name(f"{path.stem}-summary.csv"), heading, rows)
    figure = Figure(figsize=(6.4, 1 + 0.34 * max(1, len(found))), layout="constrained")
    axes = figure.add_subplot(xlabel=f"% more bits than {reference}, 95 % interval over seeds")
    for number, q in enumerate(QUALITIES):
        points = [row[number] for row in found.values()]
        axes.errorbar(
            [d.mean for d in points],
            [place + 0.22 * (number - 1) for place in range(len(points))],
            xerr=[0.0 if math.isnan(d.half) else d.half for d in points],
            fmt="o",
            markersize=4,
            capsize=2,
            color=OTHERS[number],
            label=f"q {q:g}",
        )
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=2)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(found)), [name if " " in name else name.replace("_", " ") for name in found])
    axes.invert_yaxis()
    axes.legend(frameon=False)
    save(figure, path.with_suffix(".svg"))
