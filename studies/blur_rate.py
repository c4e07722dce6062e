"""python -m studies.blur_rate DIR -o CSV ...: does blurring help where the rate is trained along?

As the paper trains (Khoshkhahtinat et al. 2024): the denoiser sees z_t and features of the latent and
nothing of x_base, the sampler starts from noise alone, and the gradients of the diffusion reach g_a and the
entropy model.  All variants start from the shipped codec with a new denoiser, and train for equal CPU time.
Rates differ, so what is compared is the rate at equal quality.  sigma_B,max = 0 is ordinary (isotropic)
diffusion, the reference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from evaluation.curves import Curve, bd_rate
from sfumato.files import write_csv
from studies import blur
from studies.denoisers import STARTS, Options, Table, run
from studies.intervals import half_interval
from training.recipes import Recipe

REFERENCE = "0"
SCHEDULES: dict[str, dict[str, float | bool]] = {
    "5, early": {"sigma_b_max": 5.0, "blur_power": 1},
    "5, late": {"sigma_b_max": 5.0, "blur_power": 4},
    "20, d_min 0.1": {"sigma_b_max": 20.0, "d_min": 0.1},
}
"""Others than the sine squared and d_min = 0.001, by name: fields of the training's `Config`."""
SIGMAS = (0.0, 1.0, 5.0, 20.0)  # pixels
METRICS = ("psnr_db", "lpips_alex", "dists")  # the decoded images' quality at which rates are compared
HEADING = ("variant", "steps", "metric", "seeds", "bd_rate_percent", "interval_percent")


def variants(sigmas: Sequence[float] = SIGMAS) -> dict[str, Recipe]:
    """By sigma_B,max, then the other schedules.  Lambda keeps rates near those of the shipped codec."""
    recipe = Recipe(
        "small",
        part="joint",
        batch=6,
        crop=128,
        learning_rate=7e-4,
        warmup=50,
        decay_start=0.4,
        ema=0.99,
        lmbda=(0.4, 120.0),
        rho=0.2,
        refined_loss={"lpips": 1.0},
        perceptual_crop=96,
    )
    blurs = {f"{sigma:g}": {"sigma_b_max": sigma} for sigma in sigmas} | SCHEDULES
    alike = {"t0": 1.0, "without_base": True}
    return {name: replace(recipe, diffusion=alike | blur) for name, blur in blurs.items()}


def rate_differences(rows: Table) -> Iterator[tuple[str, ...]]:
    """Rate at equal quality against the reference of the same seed: means, and halves of 95 % intervals."""
    trained = [row for row in rows if row["variant"] not in STARTS]
    others = list(dict.fromkeys(row["variant"] for row in trained if row["variant"] != REFERENCE))
    for steps in sorted({row["steps"] for row in trained}, key=int):
        for variant in others:
            for metric in METRICS:
                found = []
                for seed in sorted({row["seed"] for row in trained}):
                    own, other = (_curve(trained, v, seed, steps, metric) for v in (variant, REFERENCE))
                    if own is not None and other is not None:
                        found.append(bd_rate(other, own, metric).percent)
                stated = [percent for percent in found if math.isfinite(percent)]
                if stated:
                    mean, half = statistics.mean(stated), half_interval(stated)
                    interval = "" if math.isnan(half) else f"{half:.2f}"
                    yield variant, steps, metric, str(len(stated)), f"{mean:.2f}", interval


def _curve(rows: Table, variant: str, seed: str, steps: str, metric: str) -> Curve | None:
    wanted = (variant, seed, steps)
    chosen = [row for row in rows if (row["variant"], row["seed"], row["steps"]) == wanted]
    if not chosen:
        return None
    chosen.sort(key=lambda row: float(row["bpp"]))
    bpp, values = (np.array([float(row[name]) for row in chosen]) for name in ("bpp", metric))
    return Curve(variant, tuple(row["q"] for row in chosen), bpp, {metric: values})


@dataclass(frozen=True)
class FromNoise(Options):
    """A sampler from noise alone takes many steps."""

    minutes: float = 4.0
    """CPU minutes for each run."""
    seeds: int = 3
    """Seeds 0, 1, .. of crops, noise and initial weights."""
    qualities: tuple[float, ...] = (0.2, 0.5, 0.8)
    """q at which latents are decoded."""
    steps: tuple[int, ...] = (17, 65)
    """Numbers of steps to decode with."""
    eta: float = 1.0
    """Fresh noise of each step: 0 none, 1 as much as the posterior has."""
    images: int = 4
    """So many images are looked at."""


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    options: tyro.conf.OmitArgPrefixes[FromNoise],
    sigmas: tuple[float, ...] = SIGMAS,
) -> None:
    """Train what is missing of the table, measure it, and write its summary and figure beside it.

    Args:
        images: folder of images to measure on, sides of at least 384 pixels.
        output: the CSV file; rows that it has are not made again.
        options: of the study.
        sigmas: sigma_B,max of each network, pixels; networks of other schedules come after them.
    """
    rows = run(images, output, options, variants(sigmas))
    found = list(rate_differences(rows))
    for line in found:
        print(*line, sep="  ")
    write_csv(output.with_name(f"{output.stem}-summary.csv"), HEADING, found)
    last = str(max(options.steps))
    drawn = {*STARTS, *(f"{sigma:g}" for sigma in sigmas)}
    shown = [row for row in rows if row["variant"] in drawn and row["steps"] in ("0", "1", last)]
    blur.draw(output.with_suffix(".svg"), shown)


if __name__ == "__main__":
    tyro.cli(main)
