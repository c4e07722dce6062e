"""python -m studies.objectives DIR -o CSV ...: what a decoder that uses its noise is to be trained for.

The networks that no objective sees are AlexNet (LPIPS), EfficientNet-Lite0 (FD) and, where DISTS is not asked
for, VGG16.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from studies.denoisers import Options, run
from training.recipes import RECIPES, Recipe

CRITIC = 20.0  # weight of the adversary


def objectives() -> dict[str, Recipe]:
    """By name; those that a short study should see come first."""
    fidelity = {"mse": 0.1, "grid": 20.0}
    dists = {**fidelity, "dists": 500.0}
    lpips = {**fidelity, "lpips": 300.0}
    base = replace(
        RECIPES["small_sampler"](), unroll=(1,), refined_loss=fidelity, learning_rate=7e-4, warmup=50
    )
    energy = replace(base, energy=100.0, refined_loss=dists)
    both = replace(energy, diversity=0.5, adversary=CRITIC)
    hidden = {"sigma_b_max": 5.0, "blurred_base": True}  # blur at t0: one pixel
    return {
        "lpips+dists": replace(base, refined_loss={**lpips, "dists": 900.0}),
        "energy 0.5": replace(energy, diversity=0.5),
        "energy 1": replace(energy, diversity=1.0),
        "adversary+energy 0.5": both,
        "adversary+dists": replace(base, refined_loss={**lpips, "dists": 900.0}, adversary=CRITIC),
        "wasserstein": replace(base, refined_loss={**fidelity, "wasserstein": 400.0}),
        "energy 0.5, x_base under the cut-off": replace(energy, diversity=0.5, diffusion=hidden),
        "energy 0.3": replace(energy, diversity=0.3),
        "per-step": replace(base, unroll=(), refined_loss={"lpips": 300.0}),
        "adversary": replace(base, refined_loss=lpips, adversary=CRITIC),
        "energy 0.5, patch 1": replace(energy, diversity=0.5, energy_patch=1),
        "energy 0.5, patch 5": replace(energy, diversity=0.5, energy_patch=5),
        "energy 0.1": replace(energy, diversity=0.1),
    }


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    options: tyro.conf.OmitArgPrefixes[Options],
) -> None:
    """Train what is missing of the table, and measure it.

    Args:
        images: folder of images to measure on, sides of at least 384 pixels.
        output: the CSV file.
        options: of the study.
    """
    run(images, output, options, objectives())


if __name__ == "__main__":
    tyro.cli(main)
