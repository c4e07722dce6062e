"""python -m studies.objectives DIR -o CSV ...: what a decoder that uses its noise is to be trained for.

A denoiser for each objective, from nothing on one frozen codec, at equal CPU time; then equal latents decoded
by each, with two seeds.  The table says what the objective gives and how far two seeds differ; the networks
that no objective sees are AlexNet (LPIPS), EfficientNet-Lite0 (FD) and, but for DISTS, VGG16.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from evaluation.measure import images_in
from evaluation.metrics import MetricSuite
from metrics.distortion import psnr
from metrics.frechet import Frechet
from sfumato import sampler
from sfumato.files import write_csv
from sfumato.image import from_x, read, to_x
from sfumato.lpips import weights_folder
from sfumato.transforms import BaseReconstruction
from studies.grid_artefact import tile
from studies.spectrum import recovered
from training.loop import Run, train
from training.networks.model import Model
from training.recipes import RECIPES, Recipe
from training.run_weights import load_weights
from training.validation import round_trip

METRICS = ("psnr_db", "lpips_alex", "lpips_vgg", "dists")
SIDE = 384  # pixels of the part of each image that is looked at, from the middle
CROP = 64  # pixels of the crops for the Frechet distance
FIGURES = (*METRICS, "fd_efflite0", "seed_psnr_db", "energy_half", "tile_rms_levels")
HEAD = ("objective", "seed", "cpu_minutes", "trained_steps", "q", "bpp", "steps", *FIGURES)

RGB = UInt8[np.ndarray, "h w 3"]


def objectives() -> dict[str, Recipe]:
    """By name; those that a short study should see come first."""
    fidelity = {"mse": 0.1, "grid": 20.0}
    dists = {**fidelity, "dists": 500.0}
    base = replace(RECIPES["small_sampler"](), unroll=(1,), refined_loss=fidelity)
    energy = replace(base, energy=100.0, refined_loss=dists)
    lpips = {**fidelity, "lpips": 300.0}
    return {
        "adversary+dists": replace(base, refined_loss={**lpips, "dists": 500.0}, adversary=45.0),
        "adversary+energy 0.5": replace(energy, diversity=0.5, adversary=45.0),
        "lpips+dists": replace(base, refined_loss={**lpips, "dists": 900.0}),
        "energy 0.5": replace(energy, diversity=0.5),
        "energy 1": replace(energy, diversity=1.0),
        "adversary": replace(base, refined_loss=lpips, adversary=45.0),
        "energy 0.3": replace(energy, diversity=0.3),
        "wasserstein": replace(base, refined_loss={**fidelity, "wasserstein": 400.0}),
        "per-step": replace(base, unroll=(), refined_loss={"lpips": 300.0}),
        "energy 0.1": replace(energy, diversity=0.1),
        "energy 0.5, patch 1": replace(energy, diversity=0.5, energy_patch=1),
        "energy 0.5, patch 5": replace(energy, diversity=0.5, energy_patch=5),
    }


class Judge:
    """Images, the networks that judge, and what they say of the decoded ones."""

    def __init__(self, folder: Path, metrics: Path, count: int) -> None:
        images = [middle(read(path)) for path in images_in(folder)[:count]]
        self.suite = MetricSuite((*METRICS, "fd_efflite0"), metrics)
        self.originals = [self.suite.reference(image) for image in images]
        crops = [self.suite.crop_features(image, CROP) for image in images]
        self.frechet = Frechet(np.concatenate(crops))

    @torch.inference_mode()
    def figures(self, model: Model, q: float, steps: int) -> dict[str, float]:
        """Means over the images; the rate is the entropy model's estimate for rounded symbols."""
        model.eval()
        found: defaultdict[str, list[float]] = defaultdict(list)
        crops, tiles = [], []
        for number, original in enumerate(self.originals):
            x, at = torch.from_numpy(to_x(original.image)), torch.tensor([q])
            base, bits = round_trip(model, x, at)
            found["bpp"].append(float(bits) / x[0, 0].numel())
            pair = [decoded(model, base, at, steps, seed=2 * number + k) for k in range(2 if steps else 1)]
            for name, figure in self.suite.compute(original, pair[0]).items():
                found[name].append(float(figure))
            if steps:
                found["seed_psnr_db"].append(min(99.0, psnr(*pair)))
            found["energy_half"].append(recovered(original.image, pair[0])[-1])
            tiles.append(tile(original.image, pair[0]))
            crops.append(self.suite.crop_features(pair[0], CROP))
        means = {name: float(np.mean(values)) for name, values in found.items()}
        means["fd_efflite0"] = self.frechet.distance(np.concatenate(crops))
        means["tile_rms_levels"] = float(np.sqrt((np.mean(tiles, 0) ** 2).mean()))
        return means


def middle(image: RGB) -> RGB:
    """The middle `SIDE` pixels."""
    top, left = ((side - SIDE) // 2 for side in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def decoded(model: Model, base: BaseReconstruction, q: Float[Tensor, " 1"], steps: int, seed: int) -> RGB:
    """What comes back, in 8 bits; 0 steps leave the base reconstruction."""
    if not steps:
        return from_x(base.x_base.numpy())
    noise = torch.from_numpy(sampler.noise(tuple(base.x_base.shape), seed))
    start = sampler.partial_noise_start(base.x_base, model.config.t0, noise, model.schedule)

    def network(z_t: Tensor, t: Tensor) -> Tensor:
        return model.denoiser(z_t, t, q, base.x_base, base.features)

    times = sampler.times(model.config.t0, steps, model.config.times_power)
    return from_x(sampler.deterministic(network, start, times, model.schedule).numpy())


def main(
    images: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    data: list[Path],
    runs: Path,
    screens: tuple[Path, ...] = (),
    metrics: Path | None = None,
    cache: Path | None = None,
    init: Path = Path("small"),
    minutes: float = 5.0,
    seeds: tuple[int, ...] = (0,),
    qualities: tuple[float, ...] = (0.2, 0.5),
    steps: tuple[int, ...] = (1,),
    count: int = 8,
    only: tuple[str, ...] = (),
) -> None:
    """Train what is missing of the table, and measure it; rows that are there stay.

    Args:
        images: folder of images to measure on, sides of at least 384 pixels.
        output: the CSV file.
        data: photographs, as for `python -m training`.
        runs: folder for the runs, one an objective and seed.
        screens: rendered images, of which the recipe takes a share.
        metrics: folder with the metrics' networks; without it as for the evaluation.
        cache: folder for decoded training images.
        init: weights of the codec.
        minutes: CPU minutes for each run.
        seeds: of crops, noise and initial weights.
        qualities: q at which latents are decoded.
        steps: numbers of steps to decode with.
        count: so many images are looked at.
        only: names of the objectives to run now; all of them if empty.
    """
    folder = metrics or weights_folder()
    judge = Judge(images, folder, count)
    rows: list[dict[str, object]] = []
    if output.exists():
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file))
    if not rows:
        start = load_weights(init).model
        rows = [_row("steps 0", 0, 0, 0, q, 0, judge.figures(start, q, 0)) for q in qualities]
    for seed in seeds:
        for name, recipe in objectives().items():
            known = any((row["objective"], str(row["seed"])) == (name, str(seed)) for row in rows)
            if known or (only and name not in only):
                continue
            out = runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            run = Run(data, folder, out, minutes, init, screens=screens, cache=cache, seed=seed)
            train(recipe, replace(run, threads=1, cpu_time=True, log_every=100, save_every=1e9))
            weights = load_weights(out / "weights.safetensors")
            trained = int(weights.notes["steps"])
            for q in qualities:
                for number in steps:
                    found = judge.figures(weights.model, q, number)
                    rows.append(_row(name, seed, minutes, trained, q, number, found))
                    print(", ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
            write_csv(output, HEAD, [[row[key] for key in HEAD] for row in rows])


def _row(
    name: str, seed: int, minutes: float, trained: int, q: float, steps: int, found: dict[str, float]
) -> dict[str, object]:
    head = {"objective": name, "seed": seed, "cpu_minutes": minutes, "trained_steps": trained, "q": q}
    figures = {key: f"{found[key]:.5g}" if key in found else "" for key in ("bpp", *FIGURES)}
    return head | {"steps": steps} | figures


if __name__ == "__main__":
    tyro.cli(main)
