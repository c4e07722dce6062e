"""python -m studies.blur DIR -o CSV ...: experiment 1 of Khoshkhahtinat et al. 2024, does blurring help?

One denoiser for each sigma_B,max and seed, trained to use its noise, from one codec at equal cost.  Its bits
are those of the codec, whatever the denoiser, so only the decoded images differ; sigma_B,max = 0 is ordinary
(isotropic) diffusion.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

from evaluation.plots import OTHERS
from studies.denoisers import STARTS, Options, Table, run
from studies.intervals import half_interval
from studies.objectives import objectives
from studies.steps import save
from training.recipes import Recipe

OBJECTIVE = "energy 0.5, patch 1"  # uses its noise at no cost
SIGMAS = (0.0, 1.0, 5.0, 20.0)  # pixels
FIGURES = {
    "lpips_alex": "LPIPS (AlexNet)",
    "dists": "DISTS",
    "fd_efflite0": "FD-EffLite0",
    "seed_psnr_db": "two seeds, dB",
    "energy_4th": "energy, 1/4 to 1/2",
    "energy_half": "energy, 1/2 to 1",
}


def variants(sigmas: tuple[float, ...] = SIGMAS) -> dict[str, Recipe]:
    """By sigma_B,max."""
    recipe = objectives()[OBJECTIVE]
    return {f"{sigma:g}": replace(recipe, diffusion={"sigma_b_max": sigma}) for sigma in sigmas}


def draw(path: Path, rows: Table) -> None:
    """A panel a figure of merit over sigma_B,max, a line a quality; means and 95 % intervals over seeds."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    qualities = sorted({row["q"] for row in rows})
    for panel, (name, title) in enumerate(FIGURES.items()):
        axes = figure.add_subplot(2, 3, panel + 1, title=title, xlabel="sigma_B,max, pixels")
        for q, colour in zip(qualities, OTHERS, strict=False):
            values: defaultdict[float, list[float]] = defaultdict(list)
            for row in rows:
                if row["q"] == q and row["variant"] not in STARTS:
                    values[float(row["variant"])].append(float(row[name]))
            places = sorted(values)
            means = [statistics.mean(values[p]) for p in places]
            halves = [half_interval(values[p]) if len(values[p]) > 1 else 0.0 for p in places]
            axes.errorbar(places, means, yerr=halves, fmt="o-", capsize=2, color=colour, label=f"q {q}")
            for row in rows:
                if row["q"] == q and row["steps"] == "0" and row[name]:
                    axes.axhline(float(row[name]), color=colour, linestyle=":")
    figure.axes[0].legend(frameon=False)
    save(figure, path)


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    options: tyro.conf.OmitArgPrefixes[Options],
    sigmas: tuple[float, ...] = SIGMAS,
) -> None:
    """Train what is missing of the table, measure it, and draw; dotted lines are x_base.

    Args:
        images: folder of images to measure on, sides of at least 384 pixels.
        output: the CSV file; the figure goes beside it.
        options: of the study.
        sigmas: sigma_B,max of each denoiser, pixels.
    """
    draw(output.with_suffix(".svg"), run(images, output, options, variants(sigmas)))


if __name__ == "__main__":
    tyro.cli(main)
