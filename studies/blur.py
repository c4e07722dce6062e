"""python -m studies.blur ...: experiment 1 of Khoshkhahtinat et al. 2024, does blurring help?

One denoiser for each sigma_B,max (or t0, d_min, power of the times), from the same codec at equal cost; then
equal files decoded by each.  The bits are those of the codec, whatever the denoiser, so only the decoded
images differ.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

from evaluation.metrics import MetricSuite
from evaluation.plots import OTHERS
from evaluation.records import read_table
from sfumato.codec import Codec
from sfumato.diffusion_decoder import DiffusionOptions
from sfumato.lpips import weights_folder
from studies import steps
from training.export import export
from training.loop import Run, train
from training.recipes import RECIPES
from training.run_weights import load_weights

FIGURES = {
    "lpips_alex": "LPIPS (AlexNet)",
    "dists": "DISTS",
    "fd_efflite0": "FD-EffLite0",
    "psnr_db": "PSNR, dB",
    "energy_4th": "energy, 1/4 to 1/2",
    "energy_half": "energy, 1/2 to 1",
}


@dataclass(frozen=True)
class Row(steps.Row):
    """A row of `studies.steps` and the denoiser that it is of; `trained` in steps."""

    sigma_b_max: float
    t0: float
    trained: int
    d_min: float = 0.001
    times_power: float = 2.0


VARIED = ("sigma_b_max", "t0", "d_min", "times_power")


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    runs: Path,
    init: Path,
    recipe: str = "small_sampler",
    sigmas: tuple[float, ...] = (0.0, 1.0, 5.0, 10.0, 20.0),
    t0s: tuple[float, ...] = (0.3,),
    d_mins: tuple[float, ...] = (0.001,),
    powers: tuple[float, ...] = (2.0,),
    name: str = "blur",
    minutes: float = 20.0,
    qualities: tuple[float, ...] = (0.28, 0.45, 0.7),
    numbers: tuple[int, ...] = (1, 4, 8),
    threads: int = 0,
    weights: Path | None = None,
) -> None:
    """Train and compare; run again with the same --runs and output to go on where it stopped.

    Args:
        images: folder of images to measure on.
        output: folder for the table and the figure.
        data: training images, as for `python -m training`.
        runs: folder for the runs, one a denoiser.
        init: weights of the codec, from a run.
        recipe: of the denoiser.
        sigmas: sigma_B,max of each denoiser, pixels.
        t0s: where sampling starts.
        d_mins: what the blur leaves of the highest frequencies.
        powers: of the sampler's times.
        name: of the table and the figure.
        minutes: of training for each.
        qualities: q of the files.
        numbers: of steps to decode with; 0 is always there.
        threads: of torch, in training.
        weights: folder with the weights of the metrics; without it as for the evaluation.
    """
    folder = weights or weights_folder()
    suite = MetricSuite((*steps.METRICS, "fd_efflite0"), folder)
    print(*suite.warnings, sep="\n")
    table = output / f"{name}.csv"
    rows: list[Row] = read_table(table, Row) if table.exists() else []
    whole = len(qualities) * len(numbers)
    for values in product(sigmas, t0s, d_mins, powers):
        known = [row for row in rows if row.steps and tuple(getattr(row, key) for key in VARIED) == values]
        if len(known) == whole:
            continue
        rows = [row for row in rows if row not in known]
        chosen = dict(zip(VARIED, values, strict=True))
        out = runs / "-".join(f"{key}-{value:g}" for key, value in chosen.items())
        run = Run(data, folder, out, minutes, init, threads=threads)
        trained = load_weights(train(replace(RECIPES[recipe](), diffusion=chosen), run))
        trained.model.set_diffusion(**chosen)
        ways = [DiffusionOptions(n) for n in (0, *numbers)[len(rows) > 0 :]]  # steps 0 is the same for all
        for row, _, _ in steps.measure(Codec(export(trained)), images, qualities, ways, suite):
            steps.show(row)
            trained_for = int(trained.notes["steps"])
            rows.append(Row(**(vars(row) | chosen), trained=trained_for))
            steps.write(table, rows)
    draw(output / f"{name}.svg", rows)


def draw(path: Path, rows: list[Row]) -> None:
    """A panel a figure of merit over what was varied, a line a number of steps; means over the qualities."""
    varied = next((key for key in VARIED if len({getattr(row, key) for row in rows}) > 1), VARIED[0])
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    for panel, (name, title) in enumerate(FIGURES.items()):
        axes = figure.add_subplot(2, 3, panel + 1, title=title, xlabel=varied)
        lines: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            lines[row.steps][getattr(row, varied)].append(getattr(row, name))
        for number, (count, values) in enumerate(lines.items()):
            means = {value: sum(values[value]) / len(values[value]) for value in sorted(values)}
            if count == 0:
                axes.axhline(next(iter(means.values())), color="grey", label="0 steps")
            else:
                axes.plot(*zip(*means.items(), strict=True), "o-", color=OTHERS[number % 4], label=f"{count}")
    figure.axes[0].legend(frameon=False)
    steps.save(figure, path)


if __name__ == "__main__":
    tyro.cli(main)
